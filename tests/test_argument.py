"""Which data a command line means: those of a study, or those at a place, whose kind is found by itself."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from raydml.config import ConfigError, CsvConfig, Cub200Config, FolderConfig, GlyphsConfig, ParquetConfig
from raydml.data.argument import located
from raydml.data.published import BENCHMARKS
from raydml.space import read
from tests.command_lines import STUDY
from tests.image_trees import make_cub200, make_cub200_2010, make_sop
from tests.photographs import SIZE, make_photographs, write_study

SMALL = (f"image_size={SIZE}", f"input_size={SIZE}", "num_folds=2")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_photographs(tmp_path / "images")


def test_a_folder_of_folders_is_a_persons_own_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    data = located("images", [*SMALL, "data.samples_per_class=2"])
    assert isinstance(data.config, FolderConfig)
    # Absolute: the words hold wherever they are used.
    assert data.config.root == str(root)
    assert (data.config.image_size, data.config.samples_per_class, data.study) == (SIZE, 2, None)
    assert data.words[:2] == ["data.kind=folder", f"data.root={root}"]
    assert set(data.words[2:]) == {*(f"data.{word}" for word in SMALL), "data.samples_per_class=2"}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *(("a.csv", CsvConfig), ("a.CSV", CsvConfig)),
        *((f"a.{ending}", ParquetConfig) for ending in ("parquet", "pq", "arrow", "feather", "ipc")),
    ],
)
def test_a_table_is_known_by_its_name(tmp_path: Path, name: str, config: type) -> None:
    (tmp_path / name).touch()
    assert isinstance(located(str(tmp_path / name), []).config, config)


def test_options_of_a_uri_are_no_part_of_a_tables_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    uri = f"{(tmp_path / 'a.csv').as_uri()}?use_mmap=true"
    assert isinstance(located(uri, []).config, CsvConfig)


def test_a_folder_of_tables_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    (tmp_path / "b.parquet").touch()
    (tmp_path / "dataset_info.json").touch()
    assert isinstance(located(str(tmp_path), []).config, ParquetConfig)
    (tmp_path / "c.jpg").touch()
    assert isinstance(located(str(tmp_path), []).config, FolderConfig)


def test_a_published_benchmark_is_recognised_and_a_kind_overrides(tmp_path: Path) -> None:
    make_cub200(tmp_path / "CUB_200_2011")
    data = located(str(tmp_path), ["counts=any"])
    assert isinstance(data.config, Cub200Config)
    assert data.words == ["data.kind=cub200", f"data.root={tmp_path}", "data.counts=any"]
    assert isinstance(located(str(tmp_path), ["kind=folder"]).config, FolderConfig)
    make_sop(tmp_path / "other")
    assert located(str(tmp_path / "other"), []).config.kind == "sop"


def test_a_file_uri_is_a_place(root: Path) -> None:
    data = located(root.as_uri(), [])
    assert isinstance(data.config, FolderConfig)
    assert data.config.root == root.as_uri()


@pytest.mark.parametrize("prefix", ["", "data.", "base.data."])
def test_the_data_of_a_study_with_and_without_the_name_of_the_section(tmp_path: Path, root: Path, prefix: str) -> None:
    study = write_study(tmp_path / "own.yaml", root)
    data = located(str(study), [f"{prefix}image_size=64", "seed=3"])
    assert isinstance(data.config, FolderConfig)
    assert (data.config.root, data.config.image_size) == (str(root), 64)
    assert data.study == str(study)
    assert read(study, data.words).base.data == data.config


def test_what_an_override_adapts_is_told() -> None:
    data = located(STUDY, ["kind=digits"])
    assert data.config.kind == "digits"
    assert any("batch_size 128 -> 40" in note for note in data.notes)
    assert isinstance(located(STUDY, []).config, GlyphsConfig)


def test_nested_values_are_among_the_words(root: Path) -> None:
    data = located(str(root), ["augment.flip=0.25", "augment.smallest_crop=0.16"])
    assert {"data.augment.flip=0.25", "data.augment.smallest_crop=0.16"} <= set(data.words)
    assert read(Path(STUDY), data.words).base.data == data.config


def test_an_archive_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "CUB.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(__file__, "a.py")
    digest = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    with pytest.raises(ConfigError, match=rf"is an archive \(md5 {digest}, none of the official ones\).*unpack it"):
        located(str(archive), [])
    monkeypatch.setitem(BENCHMARKS["cub200"].archives, digest, "CUB_200_2011.tgz")
    with pytest.raises(ConfigError, match=r"is CUB_200_2011\.tgz, the official archive of CUB-200-2011 .*unpack it"):
        located(str(archive), [])


def test_the_older_birds_are_not_taken_for_the_newer_ones(tmp_path: Path) -> None:
    make_cub200_2010(tmp_path / "birds")
    with pytest.raises(ConfigError, match=r"the older CUB-200 \(2010\)"):
        located(str(tmp_path / "birds"), [])
    assert located(str(tmp_path / "birds"), ["kind=folder"]).config.kind == "folder"
