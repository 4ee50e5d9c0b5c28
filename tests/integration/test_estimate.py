"""`--estimate` against what a search then takes; and that it leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raydml import price, probe
from raydml.space import read
from tests.integration.studies import run_here, write_study


@pytest.mark.endurance  # wall time: it means something on a quiet machine only
@pytest.mark.usefixtures("ray_here")
def test_an_estimate_is_near_what_the_search_takes_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = write_study(tmp_path, cache)
    options = ["search.num_trials=3", "search.early_stopping=null", "search.max_concurrent=1", "training.num_epochs=6"]
    study = read(path, options)
    speed, at_a_time = probe.measure(study)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert (at_a_time, speed.steps) == (1, 4)
    (bill,) = price.bills(study, speed, at_a_time=at_a_time)
    assert run_here("tune", path, *options).returncode == 0
    took = json.loads((tmp_path / "runs" / "small" / "clock.json").read_text())["seconds"]
    print(f"estimated {bill.hours * 3600:.1f} s, took {took:.1f} s: {speed}")
    assert 0.2 < bill.hours * 3600 / took < 5


@pytest.mark.usefixtures("ray_here")
def test_the_command_prints_check_probe_and_table_and_says_why_a_base_cannot_be_trained(
    tmp_path: Path, cache: Path
) -> None:
    path = write_study(tmp_path, cache)
    # An epoch of one step is timed once: one start of two workers.
    two = ["resources.workers_per_trial=2", "training.steps_per_epoch=1"]
    done = run_here("tune", path, "--estimate", "resources.price_per_hour=100", *two)
    assert done.returncode == 0, done.stderr
    assert "\ntrainings: 6 (6 x 1 folds), at most 24 epochs\n" in done.stdout
    assert "cost at most" in done.stdout
    assert "1 at a time, epochs of 1 to 1 of 1 steps: " in done.stdout
    bad = run_here("tune", path, "--estimate", "optimizer.lr=1e38", "optimizer.weight_decay=1e38")
    assert bad.returncode == 1
    assert bad.stderr.startswith("error: the probe failed: the loss or its gradient is not finite")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
