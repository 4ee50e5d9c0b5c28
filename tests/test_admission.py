"""Between Tune and a searcher: trials are handed out as machines come, and what waits is told. Driven as Tune does."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from ray.tune.search import Searcher

from raydml.admission import Looks
from raydml.patience import StorageError
from raydml.record import NEWS
from tests.admission_cases import ELASTIC, MACHINE, PAIR, Cluster


def test_on_one_machine_a_point_is_chosen_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, MACHINE)
    given = []
    for _ in range(4):
        cluster.step()
        given.append(cluster.inside.given)
    assert given == [1, 2, 2, 2]
    cluster.end(cluster.trials[0])
    cluster.step()
    assert cluster.inside.given == 3
    assert cluster.said == []


@pytest.mark.parametrize(("limit", "given"), [(100, 6), (4, 4)])
def test_an_empty_cluster_is_asked_for_everything_at_once(
    monkeypatch: pytest.MonkeyPatch, limit: int, given: int
) -> None:
    cluster = Cluster(monkeypatch, most=3, limit=limit)
    cluster.step(place=0)
    assert cluster.inside.given == given
    cluster.step(place=0)
    assert cluster.inside.given == given


def test_a_search_that_has_no_more_trials_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, most=3, trials=2)
    cluster.step(place=0)
    assert cluster.inside.given == 2
    cluster.end(*cluster.trials)
    assert cluster.admission.suggest("more") == Searcher.FINISHED


def test_what_waits_is_told_and_that_nothing_waits_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, most=2)
    for _ in range(4):
        cluster.step(place=0)
    assert cluster.said == []
    for _ in range(60):
        cluster.step(place=0)
    [line] = cluster.said
    assert line == (
        "0000, 0001, 0002 and 1 more wait, each for 1 x (1 CPUs, 0 GPUs); machines: 1 x (0 CPUs, 0 GPUs); "
        "an autoscaler may have up to 2 worker (2 CPUs, 0 GPUs)"
    )
    cluster.troubles = ("the autoscaler cannot start worker: no quota",)
    cluster.step(place=0)
    assert str(cluster.said[-1]).endswith("; the autoscaler cannot start worker: no quota")
    cluster.has(MACHINE, MACHINE)
    cluster.step()
    cluster.step()
    assert cluster.said[2:] == [None]
    assert cluster.inside.given == 4


def test_where_nothing_comes_for_long_points_are_chosen_late_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of sixteen machines came: those that wait already go on, and from then on one waits at a time."""
    cluster = Cluster(monkeypatch, MACHINE, most=8)
    for _ in range(3):
        cluster.step(place=1 if len(cluster.trials) < 2 else 0)
    assert cluster.inside.given == 16
    cluster.step(700, place=0)
    for _ in range(14):
        cluster.end(next(trial for trial in cluster.trials if trial.status == "RUNNING"))
        cluster.step(place=1)
        assert cluster.inside.given <= 17
    waiting = [trial for trial in cluster.trials if trial.status == "PENDING"]
    assert len(waiting) <= 1
    # A machine comes after all: the rest is asked for again.
    cluster.has(MACHINE, MACHINE)
    for _ in range(3):
        cluster.step(place=1)
    assert len(cluster.trials) == 16


def test_trials_whose_machines_vanish_wait_and_none_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, MACHINE, MACHINE)
    for _ in range(5):
        cluster.step()
    assert cluster.inside.given == 4
    cluster.has(MACHINE)
    for trial in cluster.trials[2:]:
        trial.status = "PENDING"
    for _ in range(10):
        cluster.step(place=0)
    assert cluster.inside.given == 4
    assert str(cluster.said[-1]).startswith("0002, 0003 wait, each for 1 x (1 CPUs, 0 GPUs)")
    cluster.has(MACHINE, MACHINE)
    cluster.step()
    cluster.step()
    assert cluster.said[-1] is None


def test_groups_of_workers_wait_though_their_trials_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, MACHINE, most=3, resources=PAIR)
    cluster.step()
    assert cluster.inside.given == 3
    cluster.groups = 2
    cluster.trials[0].last_result = {"epoch": 1}
    cluster.trials[2].last_result = {NEWS: "", "training_iteration": 3}
    for _ in range(8):
        cluster.step()
    assert str(cluster.said[-1]).startswith("0001, 0002 wait, each for 2 x (1 CPUs, 0 GPUs)")
    cluster.groups = 0
    cluster.step()
    assert cluster.said[-1] is None


def test_elastic_trials_run_whole_and_what_machines_leave_over_stays_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines of two cores, trials of one to four workers: a third machine is worth nothing, a fourth a trial."""
    cluster = Cluster(monkeypatch, MACHINE, resources=ELASTIC)
    given = []
    for machines in (1, 2, 3, 4, 4):
        cluster.has(*[MACHINE] * machines)
        cluster.step()
        given.append(cluster.inside.given)
    assert given == [1, 1, 1, 2, 2]
    cluster.groups = 2
    cluster.has()
    for _ in range(10):
        cluster.step()
    assert str(cluster.said[-1]).startswith("0000, 0001 wait, each for 1 to 4 x (1 CPUs, 0 GPUs)")


def test_what_tune_says_reaches_the_searcher_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, MACHINE)
    cluster.step()
    cluster.admission.on_trial_result("t0", {"epoch": 1})
    cluster.admission.on_trial_complete("t0", {"epoch": 2})
    # Of this one the driver has decided that it ends with its next failure.
    cluster.admission.give_up("t1")
    cluster.admission.on_trial_complete("t1", None, error=True)
    assert cluster.inside.heard == [
        ("result", "t0", {"epoch": 1}),
        ("complete", "t0", {"epoch": 2}, False),
        ("complete", "t1", None, True),
    ]


def test_a_trial_that_is_lost_before_it_began_is_handed_out_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last one that is asked of the searcher inside, which hears of it by the name under which it gave it."""
    cluster = Cluster(monkeypatch, MACHINE, trials=1)
    cluster.step()
    [first] = cluster.trials
    name = first.trial_id
    for times in (1, 2):
        assert cluster.admission.suggest("early") is None, "it may have to be handed out again"
        cluster.admission.on_trial_complete(name, None, error=True)
        name = f"again{times}"
        assert cluster.admission.suggest(name) == first.config
    cluster.admission.on_trial_result(name, {"epoch": 1})
    assert cluster.admission.name_of(name) == first.trial_id
    cluster.admission.on_trial_complete(name, None, error=True)
    assert cluster.inside.heard == [("result", "t0", {"epoch": 1}), ("complete", "t0", None, True)], "two retries"
    assert cluster.admission.suggest("late") == Searcher.FINISHED
    assert caplog.messages == ["0000 lost its process before it began; it goes on"] * 2


def test_what_is_no_epoch_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, MACHINE)
    cluster.step()
    cluster.admission.on_trial_result("t0", {NEWS: "0000 lost a worker after epoch 0: gone; it goes on"})
    assert cluster.inside.heard == []


@pytest.mark.parametrize("where", ["suggest", "on_trial_result", "on_trial_complete"])
@pytest.mark.parametrize("error", [StorageError("storage: no route"), OSError(28, "No space left on device")])
def test_what_cannot_be_stored_ends_the_search_and_not_a_trial(
    monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    """Tune takes an error of a searcher for one of the trial, and goes on."""
    cluster = Cluster(monkeypatch, MACHINE)
    cluster.step()

    def fails(*values: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(cluster.inside, where, fails)
    cluster.step()
    cluster.admission.on_trial_result("t0", {"epoch": 1})
    cluster.admission.on_trial_complete("t0", {"done": True})
    assert cluster.admission.failure is error
    heard = list(cluster.inside.heard)
    monkeypatch.undo()
    assert cluster.admission.suggest("more") == Searcher.FINISHED
    cluster.admission.on_trial_complete("t1", {"done": False})
    assert cluster.inside.heard == heard, "what ends now goes on with the next driver"


def test_tune_may_pickle_both_and_finds_no_state_in_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = Cluster(monkeypatch, MACHINE)
    assert type(pickle.loads(pickle.dumps(cluster.admission))) is Searcher
    assert type(pickle.loads(pickle.dumps(cluster.looks))) is Looks.__mro__[1]
    # Tune asks a searcher that has this name inside it for the state of the wrapper.
    assert not hasattr(cluster.admission, "searcher")
    cluster.admission.save(str(tmp_path / "state"))
    assert (tmp_path / "state").read_bytes() == b""
    with pytest.raises(NotImplementedError):
        cluster.admission.restore(str(tmp_path / "state"))
