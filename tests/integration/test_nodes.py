"""Machines lose their power in the middle of a trial: what is lost is the epoch it was in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from raydml.history import read_history
from tests.integration.clusters import LocalCluster, Machine, cluster, working_copy
from tests.integration.processes import held_by, processes_of, signal_to
from tests.integration.recounts import Ledger, undisturbed
from tests.integration.studies import curves_of, trials_of, wait_for, write_study

# Long enough to be in the middle of: a tenth of a second an epoch is over before a kill.
_SLOW = ("training.steps_per_epoch=36", "search.early_stopping.grace_epochs=1000")


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return working_copy(tmp_path_factory.mktemp("submitted"), version="nodes")


@pytest.fixture
def here() -> Iterator[LocalCluster]:
    """A head without cores, and three machines of one core."""
    with cluster() as found:
        found.start_head()
        found.join(1, 1, 1)
        yield found


def submit(here: LocalCluster, working: Path, study: Path, *overrides: str) -> Path:
    """Submits a search; the folder of its study."""
    here.submit("search", working, "python", "-m", "raydml.tune", str(study), *_SLOW, *overrides)
    return study.parent / "runs" / "small"


def trains(process: psutil.Process, trial: str) -> bool:
    """Whether it holds the lock of a trial's folder."""
    return any(path.endswith(f"/{trial}/.lock") for path in held_by(process))


def machine_of(here: LocalCluster, trial: str) -> Machine | None:
    """Where a trial is trained now."""
    for machine in here.machines:
        if any(trains(process, trial) for process in processes_of(machine.folder)):
            return machine
    return None


def lost_in_the_middle(here: LocalCluster, folder: Path, trial: str, *, length: int) -> bool:
    """Kills the machine of a trial, unless that has ended meanwhile: it stands still for the last look."""
    for process in processes_of(here.folder):
        if trains(process, trial) and (machine := machine_of(here, trial)) is not None:
            signal_to(process, "suspend")
            if len(read_history(folder / "trials" / trial)) < length and trains(process, trial):
                machine.lose()
                return True
            signal_to(process, "resume")
    return False


def errors_of(machine: Machine) -> str:
    """What the workers of a machine wrote to their logs: a group's driver tells its setbacks there."""
    logs = machine.folder.glob("session_latest/logs/worker-*.err")
    return "".join(path.read_text("utf-8", errors="replace") for path in logs)


def lose_one(here: LocalCluster, folder: Path, ledger: Ledger, *, more_than: Mapping[str, int]) -> str:
    """Kills the machine of a trial that has finished more epochs than said, but not all; the trial's name."""
    lost: list[str] = []

    def lose_any() -> bool:
        for name, epochs in list(ledger.epochs.items()):
            far_enough = more_than.get(name, 0) < epochs[-1] < ledger.length
            if far_enough and lost_in_the_middle(here, folder, name, length=ledger.length):
                lost.append(name)
                return True
        assert here.status("search") in ("PENDING", "RUNNING"), here.logs("search")
        return False

    wait_for(lose_any, timeout=300)
    return lost[0]


def require_undisturbed(folder: Path, ledger: Ledger, scratch: Path, kills: Sequence[str], *, rel: float = 0.0) -> None:
    """The search ended, with the curves of a search that nobody disturbed, and with no epoch finished twice."""
    assert {trial.state.name for trial in trials_of(folder)} == {"COMPLETE"}
    curves = curves_of(folder)
    assert [len(curve) for curve in curves.values()] == [ledger.length] * len(curves)
    alone = undisturbed(folder, scratch)
    for name, curve in curves.items():
        assert [pytest.approx(row, rel=rel, abs=0.0) for row in alone[name]] == curve
    twice = ledger.begun_twice()
    print(f"{len(kills)} machines lost, in the middle of {', '.join(kills)}; epochs begun twice: {twice or 'none'}")
    assert all(epochs == sorted(set(epochs)) for epochs in ledger.epochs.values()), "an epoch was finished twice"
    assert set(kills) <= set(twice)
    assert sum(twice.values()) <= len(kills)


def test_a_lost_machine_costs_one_epoch(here: LocalCluster, working: Path, tmp_path: Path, cache: Path) -> None:
    study = write_study(tmp_path, cache)
    folder = submit(here, working, study, "search.num_trials=3", "training.num_epochs=6")
    with Ledger(folder, length=6) as ledger:
        kills = [lose_one(here, folder, ledger, more_than={"0000": 1, "0001": 1, "0002": 1})]
        assert here.wait_for_end("search", timeout=300) == "SUCCEEDED", here.logs("search")
    # Which of the two Ray says depends on what it misses first: the machine, or the process on it.
    log = here.logs("search")
    assert re.search(rf"{kills[0]} lost its (machine|process) after epoch", log), log
    require_undisturbed(folder, ledger, tmp_path / "undisturbed", kills)


@pytest.mark.endurance
@pytest.mark.timeout(1800)
def test_ten_lost_machines_cost_an_epoch_each(here: LocalCluster, working: Path, tmp_path: Path, cache: Path) -> None:
    study = write_study(tmp_path, cache)
    overrides = ["search.num_trials=6", "training.num_epochs=30", "search.max_retries=10"]
    folder = submit(here, working, study, *overrides)
    kills: list[str] = []
    with Ledger(folder, length=30) as ledger:
        while len(kills) < 10:
            # At least one more epoch of every trial since it was last disturbed.
            before = {name: epochs[-1] for name, epochs in ledger.epochs.items()}
            kills.append(lose_one(here, folder, ledger, more_than=before))
            here.join(1)
        assert here.wait_for_end("search", timeout=600) == "SUCCEEDED", here.logs("search")
    require_undisturbed(folder, ledger, tmp_path / "undisturbed", kills)


@pytest.mark.endurance
@pytest.mark.timeout(1800)
def test_a_lost_machine_costs_two_workers_one_epoch(
    here: LocalCluster, working: Path, tmp_path: Path, cache: Path
) -> None:
    """Float64, so that a difference is a difference. The third machine takes the place of the lost one."""
    study = write_study(tmp_path, cache)
    overrides = ["search.num_trials=2", "training.num_epochs=6", "training.precision=float64"]
    folder = submit(here, working, study, *overrides, "resources.workers_per_trial=2")
    with Ledger(folder, length=6) as ledger:
        kills = [lose_one(here, folder, ledger, more_than={"0000": 1})]
        assert here.wait_for_end("search", timeout=600) == "SUCCEEDED", here.logs("search")
    # Whichever is seen first: the error of the worker that is left, or that the machine of the other is gone.
    [(name, told)] = re.findall(r"^(\S+) (lost its \w+|crashed) after epoch", errors_of(here.head), re.MULTILINE)
    print(f"the trial {told}")
    assert name == kills[0]
    require_undisturbed(folder, ledger, tmp_path / "undisturbed", kills, rel=1e-8)


@pytest.mark.endurance
@pytest.mark.timeout(900)
def test_a_lost_head_takes_the_search_along_and_the_next_one_goes_on(
    working: Path, tmp_path: Path, cache: Path
) -> None:
    """With the head goes the driver. Trials of two cores at a time: both begin their epoch again."""
    study = write_study(tmp_path, cache)
    folder = tmp_path / "runs" / "small"
    with Ledger(folder, length=6) as ledger:
        with cluster() as first:
            first.start_head(cpus=2)
            submit(first, working, study, "search.num_trials=3", "training.num_epochs=6")
            wait_for(lambda: any(1 < epochs[-1] < 6 for epochs in list(ledger.epochs.values())), timeout=300)
            first.head.lose()
            disturbed = [trial for trial in ledger.processes if ledger.epochs.get(trial, [0])[-1] < 6]
        with cluster() as second:
            second.start_head(cpus=2)
            submit(second, working, study, "search.num_trials=3", "training.num_epochs=6")
            assert second.wait_for_end("search", timeout=300) == "SUCCEEDED", second.logs("search")
            assert "goes on" in second.logs("search")
    require_undisturbed(folder, ledger, tmp_path / "undisturbed", disturbed)
