"""What a run on a storage does where the storage fails at its end, and where its folds do not fit into memory."""

from __future__ import annotations

import logging
from pathlib import Path
from unittest import mock

import pytest

from raydml.capacity import Worker
from raydml.distributed import barrier, rank
from raydml.fold_models import FoldsDoNotFitError
from raydml.patience import Patience, StorageError
from raydml.recorded import RecordedRun, Task, end_curves
from raydml.training import RunSpec
from tests.conftest import tiny_experiment
from tests.fold_cases import Memory
from tests.ranks import in_groups
from tests.test_recorded import HOST, advance, own_cache, task
from tests.test_training import without_seconds

__all__ = ["own_cache", "task"]


def short_of_memory(cache: Path, folder: Path) -> dict[str, object]:
    """What a rank of two sees when two folds do not fit on rank 1; then the next group, which shares nothing else."""
    task = Task(RunSpec(tiny_experiment(cache), folder / "path", folds=(0, 1)), {}, Worker(1.0, 0.0))
    whole = advance(task, 9)
    task = Task(task.spec, {}, task.worker, (folder / "store").as_uri())
    user = mock.patch("platformdirs.user_cache_path", lambda name: folder / f"user{rank()}" / name)
    with user, Memory(1, on_rank=1) as memory:
        run, reason = RecordedRun(task, device=HOST), ""
        try:
            # Rank 0 would wait for gradients that never come, until whoever runs the group ends it.
            if rank() == 1:
                run.advance()
        except FoldsDoNotFitError as error:
            reason = str(error)
        run.close(failed=True)
        barrier()
        memory.most_models = 0
        rows = advance(task, 9)
    return {"whole": without_seconds(whole), "rows": without_seconds(rows), "models": memory.most_models, "why": reason}


def test_folds_that_did_not_fit_take_turns_in_the_next_group_on_a_storage(cache: Path, tmp_path: Path) -> None:
    zero, one = in_groups(short_of_memory, cache, tmp_path, worlds=(2,), folder=tmp_path)[2]
    assert zero["why"] == ""
    assert "worker 1 of 2 is out of GPU memory with 2 folds" in str(one["why"])
    for seen in (zero, one):
        assert seen["rows"] == seen["whole"], "bit for bit"
        assert seen["models"] == 1


def test_the_end_of_a_run_waits_shortly_for_a_storage_that_has_just_failed(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]

    def patience(seconds: float = Patience.seconds) -> Patience:
        return Patience(seconds, clock=lambda: now[0], sleep=lambda wait: now.append(now.pop() + wait))

    monkeypatch.setattr("raydml.recorded.Patience", patience)

    def away() -> None:
        store = tmp_path / "store"
        store.rename(tmp_path / "away")
        store.write_text("in the way")

    run = RecordedRun(task, device=HOST)
    run.advance()
    away()
    with pytest.raises(StorageError, match="in 600 s"):
        run.advance()
    with caplog.at_level(logging.WARNING):
        run.close(failed=True)
    assert now[0] == pytest.approx(600 + 15)
    assert "the end of the curves is not stored: storage: " in caplog.text
    end_curves(task, failed=True)
    assert now[0] == pytest.approx(600 + 15 + 15)
