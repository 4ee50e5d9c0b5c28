"""A cluster without machines: a search is submitted, machines come, trials run side by side, machines go."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.autoscaled import attendance, autoscaled, machines_of
from tests.integration.clusters import working_copy
from tests.integration.recounts import undisturbed
from tests.integration.studies import curves_of, trials_of, wait_for, write_study


@pytest.mark.endurance
def test_machines_come_for_a_search_and_go_behind_it(tmp_path: Path, cache: Path) -> None:
    study = write_study(tmp_path, cache)
    working = working_copy(tmp_path, version="autoscaled")
    folder = tmp_path / "runs" / "small"
    overrides = ["search.num_trials=4", "search.early_stopping.grace_epochs=1000", "training.steps_per_epoch=48"]
    with autoscaled(most=2, cpus=1, idle_s=10) as found, attendance(found) as counted:
        assert machines_of(found) == 0
        found.submit("search", working, "python", "-m", "raydml.tune", str(study), *overrides)
        assert found.wait_for_end("search", timeout=240) == "SUCCEEDED", found.logs("search")
        wait_for(lambda: counted.rows[-1][1:] == (0, 0), timeout=60)
    print(counted.table())
    assert max(machines for _, machines, _ in counted.rows) == 2, "no more than it may have"
    assert max(trials for _, _, trials in counted.rows) == 2
    assert {trial.state.name for trial in trials_of(folder)} == {"COMPLETE"}
    assert len(trials_of(folder)) == 4
    assert curves_of(folder) == undisturbed(folder, tmp_path / "undisturbed")
