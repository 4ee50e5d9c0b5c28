"""A trial that crashes is tried again, in another process, and then fails with its reason; the search goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import TrialState

from raydml.record import trial_directory
from tests.integration.studies import run_here, trials_of, write_study


@pytest.mark.usefixtures("ray_here")
def test_a_trial_that_crashes_whenever_it_is_tried_fails_with_its_reason(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, folder = write_study(tmp_path, cache), tmp_path / "runs" / "small"
    # A file that cannot be replaced, because it is a folder: no input of a user, and no fault that raydml knows.
    (trial_directory(folder, 0) / "config.yaml").mkdir(parents=True)
    options = ["search.max_retries=1", "search.num_trials=2", "search.max_concurrent=1", "training.steps_per_epoch=1"]
    process = run_here("tune", path, *options)
    assert process.returncode == 0, process.stdout + process.stderr
    crashed, whole = trials_of(folder)
    assert (crashed.state, whole.state) == (TrialState.FAIL, TrialState.COMPLETE)
    reason = crashed.user_attrs["failure"]
    assert reason.startswith("crashed 2 times after epoch 0: IsADirectoryError")
    assert reason in process.stdout
    [said] = [r.getMessage() for r in caplog.records if r.name == "raydml.tuner"]
    assert said.startswith("0000 crashed after epoch 0: IsADirectoryError")
    assert said.endswith("; it goes on")
