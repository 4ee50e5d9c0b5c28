"""`ray job submit -- python -m raydml.tune search_spaces/margin.yaml` on a real cluster that asks for a token."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.clusters import LocalCluster, cluster, working_copy
from tests.integration.recounts import undisturbed
from tests.integration.studies import curves_of, trials_of, wait_for

VERSION = "submitted"
SMALL = (
    "data.num_classes=24",
    "data.images_per_class=8",
    "data.image_size=16",
    "data.batch_size=16",
    "search.num_trials=3",
    "search.early_stopping.grace_epochs=4",
    "training.num_epochs=4",
    "training.steps_per_epoch=4",
)
# Added to the copy that is submitted: the third trial stands between two epochs for as long as that file is there.
HELD = """

def _held(advance):
    def held(self):
        while self.spec.directory.name == "0002" and len(self.history) == 2 and os.path.exists({place!r}):
            time.sleep(0.05)
        return advance(self)
    return held

import os, time
Run.advance = _held(Run.advance)
"""


@pytest.fixture(scope="module")
def here() -> Iterator[LocalCluster]:
    with cluster() as found:
        found.start_head(cpus=2)
        yield found


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = working_copy(tmp_path_factory.mktemp("submitted"), version=VERSION)
    with (copy / "raydml" / "training.py").open("a", encoding="utf-8") as training:
        training.write(HELD.format(place=str(copy.parent / "hold")))
    return copy


def command(folder: Path, cache: Path, *more: str) -> list[str]:
    shipped = ["python", "-m", "raydml.tune", "search_spaces/margin.yaml"]
    return [*shipped, *SMALL, f"storage={folder}", f"data.cache={cache}", *more]


def test_without_the_token_nobody_is_served(here: LocalCluster, working: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(here.token.stat().st_mode) == 0o600
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    # A home without a token of its own.
    for changes in (
        {"RAY_AUTH_TOKEN_PATH": str(wrong)},
        {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)},
    ):
        options = ["--no-wait", "--working-dir", str(working)]
        refused = here.ray("job", "submit", *options, "--", "touch", str(tmp_path / "ran"), changes=changes)
        assert refused.returncode != 0
        assert "Authentication" in refused.stdout + refused.stderr
    joined = "from raydml.session import connected\nwith connected(): pass"
    changes = {"RAY_ADDRESS": here.address, "RAY_AUTH_TOKEN_PATH": str(wrong), "PYTHONPATH": str(working)}
    driver = subprocess.run(
        [sys.executable, "-c", joined], env=here.environment(**changes), capture_output=True, text=True
    )
    assert driver.returncode != 0
    assert driver.stderr.splitlines()[-1].startswith(
        f"raydml.config.base.ConfigError: RAY_ADDRESS={here.address}: cannot be joined"
    )
    assert "InvalidAuthToken" in driver.stderr.splitlines()[-1]
    assert here.ask("/api/jobs/") == []
    assert not (tmp_path / "ran").exists()


def test_bad_input_is_told_in_the_log_and_by_the_exit_code(here: LocalCluster, working: Path, tmp_path: Path) -> None:
    wanted = command(tmp_path, tmp_path, "loss.margn=1")
    options = ["--submission-id", "misspelt", "--working-dir", str(working)]
    found = here.ray("job", "submit", *options, "--", *wanted)
    assert found.returncode == 1
    assert "exit code 2" in found.stdout + found.stderr
    log = here.logs("misspelt")
    assert "loss.margn" in log
    assert "Traceback" not in log


def test_a_stopped_job_leaves_nothing_running_and_goes_on_when_submitted_again(
    here: LocalCluster, working: Path, tmp_path: Path, cache: Path
) -> None:
    folder = tmp_path / "margin"
    hold = working.parent / "hold"
    hold.touch()
    here.submit("first", working, *command(tmp_path, cache))
    # Two trials have ended and another is on its way.
    wait_for(lambda: [len(curve) for curve in curves_of(folder).values()] == [4, 4, 2], timeout=240)
    wait_for(lambda: ended(folder) == 2)
    assert "trial   0 starts" in here.logs("first"), "progress is in the log while the search runs"
    assert len(here.trials()) == 1
    assert here.ray("job", "stop", "first").returncode == 0
    stopped = time.monotonic()
    wait_for(lambda: not here.trials() and here.free_cpus() == 2)
    print(f"free {time.monotonic() - stopped:.1f} s after the stop")
    assert here.status("first") == "STOPPED"
    before, written = curves_of(folder), times_of(folder)
    assert [trial.state.name for trial in trials_of(folder)] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert "the same command goes on" in here.logs("first")

    hold.unlink()
    here.submit("again", working, *command(tmp_path, cache))
    assert here.wait_for_end("again", timeout=300) == "SUCCEEDED", here.logs("again")
    log = here.logs("again")
    assert "goes on" in log
    assert "margin: val/map@r on validation classes" in log, "the final table"
    assert "best: trial" in log
    after = curves_of(folder)
    assert {name: after[name][: len(curve)] for name, curve in before.items()} == before
    assert {name: times_of(folder)[name] for name in written} == written, "no finished trial ran again"
    assert all(trial.state.is_finished() for trial in trials_of(folder))
    assert [len(curve) for curve in after.values()] == [4] * 3
    assert after == undisturbed(folder, tmp_path / "undisturbed")
    # The package of the submitted folder wrote this, not the one that is installed here.
    for meta in folder.glob("trials/*/checkpoint/meta.json"):
        assert json.loads(meta.read_text("utf-8"))["versions"]["raydml"].startswith(VERSION)


def ended(folder: Path) -> int:
    return sum(trial.state.is_finished() for trial in trials_of(folder))


def times_of(folder: Path) -> dict[str, int]:
    """When the curves of finished trials were written."""
    numbers = [trial.number for trial in trials_of(folder) if trial.state.is_finished()]
    names = [f"{number:04d}" for number in numbers]
    return {name: (folder / "trials" / name / "metrics.jsonl").stat().st_mtime_ns for name in names}
