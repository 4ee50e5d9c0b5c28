"""`python -m raydml.embed`: any images as evaluation sees them, each once, whatever is killed meanwhile."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydml.config import EvaluateOptions
from raydml.embed import embed
from raydml.embedding import EmbeddingFailedError, embed_subset
from raydml.embedding_files import as_matrix
from raydml.session import joining
from raydml.subjects import Opened, Subject, subjects_of
from raydml.training import RunSpec
from tests.conftest import changed, tiny_experiment
from tests.image_tables import write_csv
from tests.integration.studies import run_here, wait_for
from tests.photographs import SIZE, make_photographs
from tests.training_cases import train
from tests.written import read_embeddings

pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty JPEGs in ten folders."""
    return make_photographs(tmp_path_factory.mktemp("photos") / "birds")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """A model that has seen some of them, larger than its input."""
    folder = tmp_path_factory.mktemp("run")
    data = {"kind": "folder", "root": str(photographs), "image_size": SIZE + 4, "input_size": SIZE, "num_folds": 2}
    small = {"batch_size": 8, "samples_per_class": 2, "cache": str(folder / "cache")}
    config = changed(tiny_experiment(folder), data=data | small, training__num_epochs=1)
    train(RunSpec(config, folder / "run", "trainval", ()), device=torch.device("cpu"), report=lambda row: None)
    return folder / "run"


def table_of(folder: Path) -> pa.Table:
    return pq.read_table([str(part) for part in sorted(folder.glob("part-*.parquet"))])


@pytest.fixture(scope="module")
def of_folder(run: Path, photographs: Path) -> pa.Table:
    """All of them, embedded in blocks of seven."""
    process = run_here("embed", run, photographs, "batch_size=7")
    assert process.returncode == 0, process.stderr
    folder = run / "embeddings" / "birds"
    # Where Ray starts slowly there are lines about the progress before.
    assert process.stdout.splitlines()[-3:] == [
        "embedded 40 images in 16 dimensions",
        f"written: {folder}",
        f"  next: python -m raydml.evaluate {folder}",
    ]
    return table_of(folder)


def rows_of(table: pa.Table) -> npt.NDArray[np.float32]:
    return as_matrix(table["embedding"])


def test_every_image_is_there_once_with_its_class(of_folder: pa.Table, run: Path, photographs: Path) -> None:
    assert of_folder["index"].to_pylist() == list(range(40))
    paths = sorted(path.relative_to(photographs).as_posix() for path in photographs.rglob("*.jpg"))
    assert of_folder["path"].to_pylist() == paths
    assert of_folder["class"].to_pylist() == [path.partition("/")[0] for path in paths]
    assert of_folder["label"].to_pylist() == [number // 4 for number in range(40)]
    assert of_folder.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    assert np.linalg.norm(rows_of(of_folder), axis=1) == pytest.approx(1.0, abs=1e-6)
    said = json.loads((run / "embeddings" / "birds" / "embeddings.json").read_text(encoding="utf-8"))
    assert (said["complete"], said["count"], said["run"]) == (True, 40, str(run))


@pytest.fixture(scope="module")
def evaluated(run: Path) -> pa.Table:
    """What evaluate writes of the test classes."""
    process = run_here("evaluate", run)
    assert process.returncode == 0, process.stderr
    folder = run / "evaluation" / "test"
    assert not (folder / "embeddings.part").exists()
    return pq.read_table(folder / "embeddings.parquet")


def test_an_image_has_the_embedding_that_evaluate_gives_it(of_folder: pa.Table, evaluated: pa.Table) -> None:
    assert 0 < len(evaluated) < 40
    assert rows_of(of_folder.take(evaluated["index"])) == pytest.approx(rows_of(evaluated), abs=1e-6)


def test_the_same_again_embeds_nothing_and_another_precision_is_refused(
    of_folder: pa.Table, run: Path, photographs: Path
) -> None:
    process = run_here("embed", run, photographs)
    assert "embedded 40 images in 16 dimensions, 40 of them before" in process.stdout
    assert table_of(run / "embeddings" / "birds").equals(of_folder)
    refused = run_here("embed", run, photographs, "precision=bfloat16")
    assert refused.returncode == 2
    assert "holds embeddings with another precision: trained, and now it is bfloat16" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_table_without_labels_in_bfloat16_with_what_is_unreadable_left_out(
    of_folder: pa.Table, run: Path, photographs: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    names = [str(photographs / path) for path in of_folder["path"].to_pylist()[:12]]
    table = write_csv(tmp_path / "mine.csv", "path", [(name,) for name in ("bad.jpg", *names, "none.jpg")])
    out = tmp_path / "out"
    words = ("embed", run, table, f"out={out.as_uri()}", "batch_size=5", "precision=bfloat16")
    stopped = run_here(*words)
    assert stopped.returncode == 2
    assert "1 of 14 images are not there, the first in line 15" in stopped.stderr
    table.write_text(table.read_text().replace("none.jpg\n", ""))
    stopped = run_here(*words)
    assert stopped.returncode == 2
    said = "bad.jpg is no readable image: it is an HTML page; mend or remove them: raydml.embed leaves them out with"
    assert said in stopped.stderr
    done = embed(run, table, out=out.as_uri(), batch_size=5, precision="bfloat16", unreadable="skip")
    assert (done.num_images, done.embedding_dim, done.place) == (12, 16, out.as_uri())
    [left_out] = done.unreadable
    assert left_out.position == 0
    said = run_here(*words, "unreadable=skip").stdout
    assert "left out 1 images that cannot be read: unreadable.csv names them" in said
    found = table_of(out)
    assert found.column_names == ["index", "path", "embedding"]
    assert found["path"].to_pylist() == names
    assert found["index"].to_pylist() == list(range(1, 13))
    difference = np.abs(rows_of(found) - rows_of(of_folder)[:12]).max()
    assert 0 < difference < 0.05
    with (out / "unreadable.csv").open(encoding="utf-8", newline="") as file:
        assert [(row["index"], row["path"]) for row in csv.DictReader(file)] == [("0", "bad.jpg")]
    # Who does not want to skip hears of it also when nothing is left to embed.
    assert run_here(*words).returncode == 2


SLOW = """
import sys, time
from pathlib import Path
from raydml import embedding_pool
from raydml.cli import main

NOTES = sys.argv[1]

class Slow(embedding_pool._Embedder):
    def __call__(self, table):
        with Path(NOTES).open("a") as notes:
            notes.write("".join(f"{block} " for block in table["block"].to_pylist()))
        time.sleep(0.5)
        return super().__call__(table)

embedding_pool._Embedder = Slow
sys.exit(main(sys.argv[2:]))
"""


def test_a_killed_process_goes_on_with_the_blocks_that_are_missing(
    of_folder: pa.Table, run: Path, photographs: Path, tmp_path: Path
) -> None:
    notes, out, script = tmp_path / "notes", tmp_path / "out", tmp_path / "slow.py"
    script.write_text(SLOW)
    notes.touch()
    words = ["embed", run, photographs, f"out={out}", "batch_size=2"]
    joined = {**os.environ, **joining()}
    line = [sys.executable, str(script), str(notes), *map(str, words)]
    process = subprocess.Popen(line, env=joined, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(out.glob("part-*.parquet"))) >= 3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = sorted(int(part.stem.removeprefix("part-")) for part in out.glob("part-*.parquet"))
    assert 3 <= len(finished) < 20, "it was killed in the middle"
    before = {part.name: part.stat().st_mtime_ns for part in out.glob("part-*.parquet")}
    assert run_here("evaluate", out).returncode == 2, "half a gallery is none"
    notes.write_text("")
    done = subprocess.run(line, env=joined, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"embedded 40 images in 16 dimensions, {2 * len(finished)} of them before" in done.stdout
    embedded = sorted(map(int, notes.read_text().split()))
    assert embedded == sorted(set(range(20)) - set(finished))
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    assert table_of(out).drop_columns("embedding").equals(of_folder.drop_columns("embedding"))
    assert rows_of(table_of(out)) == pytest.approx(rows_of(of_folder), abs=1e-6)


def the_subject(run: Path) -> Subject:
    found = subjects_of(run, EvaluateOptions(), Opened())
    assert isinstance(found, list)
    return found[0]


def test_an_actor_that_is_killed_changes_nothing_and_finished_blocks_serve_the_next_evaluation(
    run: Path, evaluated: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raydml import embedding_pool

    killed = tmp_path / "killed"

    class Dying(embedding_pool._Embedder):
        def __call__(self, table: pa.Table) -> pa.Table:
            if not killed.exists() and 3 in table["block"].to_pylist():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(table)

    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / "evaluation")
    parts = copy / "evaluation" / "test" / "embeddings.part"
    subject, options = the_subject(copy), EvaluateOptions(batch_size=2)
    told: list[tuple[int, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(embedding_pool, "_Embedder", Dying)
        found = embed_subset(subject, parts, options, progress=lambda done, total: told.append((done, total)))
    assert killed.exists()
    assert found == pytest.approx(rows_of(evaluated), abs=1e-6)
    count = len(evaluated)
    assert (told[0], told[-1]) == ((0, count), (count, count))
    assert [done for done, _ in told] == sorted({done for done, _ in told}), "each block once"
    # Where an evaluation was killed now, the next one embeds nothing: other actors would not get to work.
    monkeypatch.setattr(embedding_pool, "_Embedder", None)
    assert run_here("evaluate", copy).returncode == 0
    assert not parts.exists()
    rows, _ = read_embeddings(parts.with_name("embeddings.parquet"))
    assert np.array_equal(rows, found)


def test_a_block_that_kills_its_actor_every_time_ends_the_embedding(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raydml import embedding_pool

    class Deadly(embedding_pool._Embedder):
        def __call__(self, table: pa.Table) -> pa.Table:
            os.kill(os.getpid(), signal.SIGKILL)
            return table

    monkeypatch.setattr(embedding_pool, "_RETRIES", 1)
    monkeypatch.setattr(embedding_pool, "_Embedder", Deadly)
    subject = the_subject(run)
    with pytest.raises(EmbeddingFailedError, match=r"^workers were lost again and again, the last time: "):
        embed_subset(subject, tmp_path / "parts", EvaluateOptions(batch_size=2))
