"""Run folders, journals and studies that somebody else made, to do harm: refused in one line, and nothing runs."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raydml import checkpoint, jsonfile, yamlfile
from raydml.config import ConfigError, parse
from raydml.data.addresses import is_fingerprint, read_pointer
from raydml.data.building import decode_in_threads
from raydml.data.listing import Listing
from raydml.data.photos import open_photos
from raydml.data.remote_cache import RemoteCache
from raydml.epoch import new_state
from raydml.history import read_history
from raydml.objective import DataShape
from raydml.record import read_study
from raydml.runs import resolve

SHAPE = DataShape(num_classes=3, in_channels=1, image_size=16, mean=(0.25,), std=(1 / 3,))
CPU = torch.device("cpu")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint where a search leaves its best."""
    config = parse({"data": {"kind": "glyphs"}, "model": {"backbone": "test_resnet", "embedding_dim": 16}})
    folder = tmp_path / "study" / "trials" / "0000" / "checkpoint"
    checkpoint.save(new_state(config, SHAPE, steps_per_epoch=4, device=CPU), folder, fingerprint="x", fold=0)
    return folder


def said(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("path", ["../../secret/checkpoint", "/etc", "trials/../../x", "~/x", "C:\\x", "a\\b"])
def test_best_yaml_names_only_what_lies_below_it(tmp_path: Path, path: str) -> None:
    best = tmp_path / "best.yaml"
    best.write_text(f"name: s\ncheckpoint: '{path}'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"best\.yaml: checkpoint: must be a path with / between its parts") as error:
        resolve(best)
    said(error)


def test_a_link_may_not_lead_out_of_a_study(saved: Path) -> None:
    """A study that lies behind a link, or is named by its checkpoint, is another matter: its user said so."""
    study = saved.parents[2]
    elsewhere = study.with_name("elsewhere")
    (study / "trials").rename(elsewhere)
    (study / "trials").symlink_to(elsewhere)
    (study / "best.yaml").write_text("name: s\ncheckpoint: trials/0000/checkpoint\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"checkpoint: trials/0000/checkpoint leaves .*study by a symbolic link"):
        resolve(study)
    assert resolve(study / "trials" / "0000").checkpoint.parent.parent == elsewhere
    (study / "trials").unlink()
    elsewhere.rename(study / "trials")
    (study.parent / "link").symlink_to(study)
    assert resolve(study.parent / "link").checkpoint == saved


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ("[" * 100_000, "no whole checkpoint: "),
        ("[]", "meta.json holds no names and values"),
        ('{"format": 3}', "meta.json has no config"),
        ('{"format": "../x"}', "checkpoint format"),
        ("\0", "no whole checkpoint: "),
    ],
)
def test_a_meta_that_is_none_is_named(saved: Path, meta: str, problem: str) -> None:
    (saved / "meta.json").write_text(meta, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        checkpoint.load(saved, device=CPU)
    assert problem in said(error)


def other_weights(path: Path) -> None:
    save_file({"model.x": torch.zeros(2)}, path)


def long_header(path: Path) -> None:
    # It claims to be of 2^60 bytes.
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


def far_tensor(path: Path) -> None:
    header = json.dumps({"model.x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize("write", [other_weights, long_header, far_tensor], ids=lambda write: str(write.__name__))
def test_weights_that_are_none_are_named(saved: Path, write: object) -> None:
    assert callable(write)
    write(saved / "model.safetensors")
    for load in (lambda: checkpoint.load(saved, device=CPU), lambda: checkpoint.load_objective(saved)):
        with pytest.raises(ConfigError, match="not the weights of this model, or damaged: ") as error:
            load()
        assert len(said(error)) < 500


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02."])
def test_a_state_that_is_none_is_named(saved: Path, content: bytes) -> None:
    (saved / "state.pt").write_bytes(content)
    with pytest.raises(ConfigError, match="or damaged") as error:
        checkpoint.load(saved, device=CPU)
    said(error)


def test_a_fingerprint_is_no_path(tmp_path: Path) -> None:
    """It comes from a checkpoint or a pointer, and names a folder of the cache."""
    (tmp_path / "cache").mkdir()
    for name in ("../victim", "/etc", "", "a/b", "..", "\u0661"):
        assert not is_fingerprint(name)
        assert read_pointer(json.dumps({"fingerprint": name})) is None
    (tmp_path / "victim").mkdir()

    def listed() -> Listing:
        raise ConfigError("was listed")

    remote = RemoteCache((tmp_path / "remote").as_uri())
    with pytest.raises(ConfigError, match="was listed"):
        open_photos(
            *(tmp_path / "cache", listed),
            name="n",
            image_size=16,
            known="../victim",
            decode=decode_in_threads,
            remote=remote,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "victim"], "not even a lock lies beside it"


@pytest.mark.parametrize("line", ['{"op_code": 4}', '{"op_code": "x"}', "[]", "null", "[" * 100_000, "7"])
def test_a_journal_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "optuna.journal").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"optuna\.journal: no journal of a search: ") as error:
        read_study(tmp_path / "optuna.journal")
    said(error)


def test_json_that_is_nested_without_end_is_named(tmp_path: Path) -> None:
    for name, read in (("a.json", jsonfile.load), ("metrics.jsonl", lambda path: read_history(path.parent))):
        (tmp_path / name).write_text("[" * 100_000, encoding="utf-8")
        with pytest.raises(ConfigError, match="cannot be read"):
            read(tmp_path / name)


def test_a_few_lines_that_stand_for_millions_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (tmp_path / "s.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"s\.yaml: malformed YAML: its anchors stand for more than 100,000 values"):
        yamlfile.load(tmp_path / "s.yaml")


def test_what_holds_itself_is_refused_and_a_few_anchors_are_not() -> None:
    with pytest.raises(ConfigError, match="nested too deep"):
        yamlfile.loads("a: &a [*a]")
    assert yamlfile.loads("a: &a {x: 1}\nb: *a") == {"a": {"x": 1}, "b": {"x": 1}}
