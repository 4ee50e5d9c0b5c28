"""A run whose curves and folder are kept: on a path, and on a storage that outlives its processes."""

from __future__ import annotations

import logging
from pathlib import Path
from unittest import mock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from raydml import checkpoint
from raydml.capacity import Worker
from raydml.config import ConfigError, ExperimentConfig, replace_at
from raydml.distributed import rank
from raydml.epoch import TrainingLeftError
from raydml.history import read_history
from raydml.patience import StorageError, TakenOverError
from raydml.recorded import RecordedRun, Task, end_curves, recorded
from raydml.storage import LIST, RemoteFolder
from raydml.training import Run, RunSpec
from tests.conftest import tiny_experiment
from tests.left_cases import Leaver
from tests.ranks import in_groups
from tests.test_resumed_runs import assert_equal_runs
from tests.test_storage import objects_of
from tests.test_training import run_to_the_end, without_seconds

HOST = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where scratch folders lie."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "user" / name)
    return tmp_path / "user" / "raydml" / "scratch"


@pytest.fixture
def task(tiny: ExperimentConfig, tmp_path: Path) -> Task:
    """Three epochs on a storage."""
    uri = (tmp_path / "store" / "trials" / "0007").as_uri()
    return Task(RunSpec(tiny, tmp_path / "of the driver" / "0007"), {"loss.margin": 0.2}, Worker(1.0, 0.0), uri)


def undisturbed(task: Task, tmp_path: Path) -> Path:
    spec = RunSpec(task.spec.config, tmp_path / "undisturbed")
    run_to_the_end(spec)
    return spec.directory


def fetched(task: Task, tmp_path: Path, name: str = "fetched") -> Path:
    assert task.uri is not None
    RemoteFolder(task.uri, tmp_path / name).pull()
    return tmp_path / name


def advance(task: Task, epochs: int) -> list[dict[str, float]]:
    """A process that lives for some epochs, and is closed."""
    with recorded(task, device=HOST) as run:
        return [row for row in (run.advance() for _ in range(epochs)) if row is not None]


def curves_of(folder: Path) -> dict[str, list[float]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def status_of(folder: Path) -> int | None:
    """1: success, 2: failure."""
    tags = EventAccumulator(str(folder)).Reload().SummaryMetadata
    try:
        content = tags(metadata.SESSION_END_INFO_TAG).plugin_data.content
    except KeyError:
        return None
    return int(metadata.parse_session_end_info_plugin_data(content).status)


def test_on_a_path_everything_is_in_its_place(task: Task, tmp_path: Path) -> None:
    here = Task(task.spec, task.point, task.worker)
    rows = advance(here, 9)
    assert rows == read_history(here.spec.directory)
    assert len(curves_of(here.spec.directory)["train/loss"]) == 3
    assert_equal_runs(here.spec.directory, undisturbed(task, tmp_path))
    assert not (tmp_path / "user").exists()


def test_on_a_storage_every_epoch_is_there_before_it_is_known(task: Task, tmp_path: Path, own_cache: Path) -> None:
    with recorded(task, device=HOST) as run:
        for epoch in (1, 2, 3):
            run.advance()
            folder = fetched(task, tmp_path)
            assert len(read_history(folder)) == epoch
            assert len(curves_of(folder)["train/loss"]) == epoch
        assert run.advance() is None
    assert_equal_runs(fetched(task, tmp_path), undisturbed(task, tmp_path))
    assert status_of(fetched(task, tmp_path)) == 1
    assert not list(own_cache.iterdir()), "the process leaves nothing"
    assert not task.spec.directory.exists(), "that is a place of the driver"


@pytest.mark.parametrize("killed_at", [1, 2])
def test_another_process_goes_on_where_the_stored_epochs_end(task: Task, tmp_path: Path, killed_at: int) -> None:
    first = RecordedRun(task, device=HOST)
    for _ in range(killed_at):
        first.advance()
    # It dies: nothing is closed.
    rows = advance(task, 9)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    folder = fetched(task, tmp_path)
    assert_equal_runs(folder, undisturbed(task, tmp_path))
    assert len(curves_of(folder)["train/loss"]) == 3
    assert without_seconds(rows) == without_seconds(read_history(folder))


def test_an_epoch_that_was_not_stored_is_trained_again(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RecordedRun(task, device=HOST)
    first.advance()

    def away(self: RemoteFolder, **more: object) -> None:
        raise StorageError("storage: away")

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "push", away)
        with pytest.raises(StorageError):
            first.advance()
    trained: list[int] = []
    usual = Run.advance

    def counted(self: Run) -> dict[str, float] | None:
        known = len(read_history(self.spec.directory))
        row = usual(self)
        if row is not None and row["epoch"] > known:
            trained.append(int(row["epoch"]))
        return row

    monkeypatch.setattr(Run, "advance", counted)
    advance(task, 9)
    assert trained == [2, 3]
    assert_equal_runs(fetched(task, tmp_path), undisturbed(task, tmp_path))


def test_what_is_stored_already_is_not_stored_again(task: Task, tmp_path: Path) -> None:
    advance(task, 3)
    path = tmp_path / "store" / "trials" / "0007" / LIST
    again = RecordedRun(task, device=HOST)
    before = path.read_text()
    for _ in range(2):
        again.advance()
        assert path.read_text() == before
    again.close()


def test_a_process_that_was_overtaken_ends(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    first = RecordedRun(task, device=HOST)
    first.advance()
    advance(task, 2)
    with pytest.raises(TakenOverError):
        first.advance()
    with caplog.at_level(logging.WARNING):
        first.close(failed=True)
    assert "the end of the curves is not stored" in caplog.text


def test_a_process_that_was_lost_and_lives_disturbs_none_that_goes_on(task: Task, tmp_path: Path) -> None:
    """A machine that the cluster no longer sees may still reach the storage."""
    lost = RecordedRun(task, device=HOST)
    lost.advance()
    with recorded(task, device=HOST) as run:
        with pytest.raises(TakenOverError):
            lost.advance()
        assert [run.advance() for _ in range(3)][-1] is not None
    assert_equal_runs(fetched(task, tmp_path), undisturbed(task, tmp_path))


def on_a_storage(cache: Path, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Two folds in turns: what a rank sees of them on a path, and on a storage with a stop between two epochs."""
    spec = RunSpec(tiny_experiment(cache), folder / "path", folds=(0, 1), folds_at_a_time=1)
    on_path = advance(Task(spec, {}, Worker(1.0, 0.0)), 9)
    task = Task(spec, {}, Worker(1.0, 0.0), (folder / "store").as_uri())
    with mock.patch("platformdirs.user_cache_path", lambda name: folder / f"user{rank()}" / name):
        stopped = advance(task, 2)
        stored = advance(task, 9)
    return {"path": without_seconds(on_path), "stopped": without_seconds(stopped), "stored": without_seconds(stored)}


def test_workers_that_share_no_disk_open_what_the_first_one_wrote(cache: Path, tmp_path: Path) -> None:
    """Folds that take turns come from their checkpoints at every epoch, on every rank."""
    for seen in in_groups(on_a_storage, cache, tmp_path, worlds=(2,), folder=tmp_path)[2]:
        assert seen["stored"] == seen["path"], "bit for bit"
        assert seen["stopped"] == seen["path"][:2]


def test_a_failed_run_is_stored_as_failed(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        with recorded(task, device=HOST) as run:
            run.advance()
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fails()
    assert status_of(fetched(task, tmp_path)) == 2


@pytest.mark.parametrize("stored", [True, False])
def test_the_curves_of_stopped_workers_are_ended_by_others(task: Task, tmp_path: Path, stored: bool) -> None:
    task = task if stored else Task(task.spec, task.point, task.worker)
    run = RecordedRun(task, device=HOST)
    run.advance()
    folder = fetched(task, tmp_path) if stored else task.spec.directory
    assert status_of(folder) is None
    end_curves(task, failed=False)
    folder = fetched(task, tmp_path, "ended") if stored else task.spec.directory
    assert len(read_history(folder)) == 1
    assert len(list(folder.glob("events.out.tfevents.*"))) == 2
    assert status_of(folder) == 1
    assert len(curves_of(folder)["train/loss"]) == 1


def test_what_cannot_be_opened_leaves_nothing(task: Task, tmp_path: Path, own_cache: Path) -> None:
    advance(task, 1)
    config = replace_at(task.spec.config, "loss.margin", 0.5)
    other = Task(RunSpec(config, task.spec.directory), {}, task.worker, task.uri)
    before = objects_of(tmp_path / "store")
    with pytest.raises(ConfigError, match=r"this checkpoint has loss\.margin"):
        RecordedRun(other, device=HOST)
    assert not list(own_cache.iterdir())
    assert objects_of(tmp_path / "store") == before


def test_who_leaves_in_the_middle_of_an_epoch_stores_what_there_is(task: Task, tmp_path: Path) -> None:
    """Without a loss beyond that: the next process, on another machine, goes on at that step."""
    with recorded(task, device=HOST, leave=Leaver(7)) as run:
        run.advance()
        with pytest.raises(TrainingLeftError):
            run.advance()
    left = checkpoint.read_meta(fetched(task, tmp_path, "left") / "checkpoint")
    assert (left["epoch"], left["step"], left["unfinished"]["num_steps"]) == (1, 5, 2)
    assert [row["epoch"] for row in advance(task, 3)] == [1, 2, 3]
    assert_equal_runs(fetched(task, tmp_path), undisturbed(task, tmp_path))
