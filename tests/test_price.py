"""What a study comes to, by hand: phases, pruning as designed, hours and what limits them."""

from __future__ import annotations

import pytest
from rich.console import Console

from raydml import plan, price
from raydml.config import EarlyStopping
from raydml.config.grammar import validate
from raydml.price import Phase, Speed
from raydml.space import Study

SPEED = Speed(
    step_s=0.5,
    epoch_s=10.0,
    run_s=20.0,
    start_s=7.0,
    steps=100,
    steps_of_all=140,
    machine="a machine",
    measured="2 at a time, epochs of 4 to 12 of 100 steps",
    seconds=21.0,
)
"""An epoch of 60 seconds; of 80 on all training classes."""


def study_of(space: dict[str, object] | None = None, **sections: object) -> Study:
    raw = {
        "name": "priced",
        "base": {"training": {"num_epochs": 9}},
        "space": space or {"loss.margin": {"low": 0.0, "high": 0.5}},
        "protocol": "quick",
        **sections,
    }
    return validate(Study, raw)


def counts(study: Study) -> list[tuple[str, int, int]]:
    return [(phase.name, phase.trainings, phase.trainings * phase.epochs) for phase in price.phases(study)]


PROTOCOLS: dict[str, tuple[object, int, list[tuple[str, int, int]]]] = {
    "quick": ("quick", 20, [("search", 20, 180)]),
    "honest": ("honest", 20, [("search", 80, 720), ("confirm", 5 * 3 * 4, 540), ("final", 10, 90)]),
    "fewer trials than are confirmed": (
        {"preset": "honest", "folds_run": 2},
        2,
        [("search", 4, 36), ("confirm", 3 * 3 * 2, 162), ("final", 10, 90)],
    ),
    "mlrc": ("mlrc", 50, [("search", 200, 1800), ("final", 2 * 10 * 4, 720)]),
    "until it is narrow": (
        {"folds_run": 1, "confirm": {"top": 1, "seeds": 5, "half_width": 0.01, "max_seeds": 12}},
        20,
        [("search", 20, 180), ("confirm", 24, 216)],
    ),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_phases_of_a_protocol_at_most(name: str) -> None:
    protocol, trials, expected = PROTOCOLS[name]
    assert counts(study_of(protocol=protocol, search={"num_trials": trials})) == expected


def test_only_one_final_model_trains_on_all_classes() -> None:
    assert [phase.whole for phase in price.phases(study_of(protocol="honest"))] == [False, False, True]
    assert [phase.whole for phase in price.phases(study_of(protocol="mlrc"))] == [False, False]


def test_the_longest_training_is_reckoned_with() -> None:
    study = study_of({"training.num_epochs": {"low": 4, "high": 20}}, search={"num_trials": 3})
    assert counts(study) == [("search", 3, 60)]


@pytest.mark.parametrize(
    ("num_epochs", "grace", "factor", "expected"),
    [
        (12, 3, 3, 3 + 6 / 3 + 3 / 9),
        (9, 3, 3, 3 + 6 / 3),
        (8, 1, 2, 1 + 1 / 2 + 2 / 4 + 4 / 8),
        (10, 2, 2.5, 2 + 3 / 2.5 + 5 / 6.25),
        (6, 3, 1.5, 3 + 2 / 1.5 + 1 / 2.25),
        (3, 3, 3, 3),
        (2, 5, 3, 2),
    ],
)
def test_pruning_as_it_is_designed(num_epochs: int, grace: int, factor: float, expected: float) -> None:
    stopping = EarlyStopping(grace_epochs=grace, reduction_factor=float(factor))
    assert price.expected_epochs(num_epochs, stopping) == pytest.approx(expected)
    assert price.expected_epochs(num_epochs, None) == num_epochs


def test_steps_and_epochs_are_told_apart() -> None:
    assert price.speed_of((4, 3.0), (12, 5.0)) == pytest.approx((0.25, 2.0))
    assert price.speed_of((4, 3.0), (12, 5.0), models=2) == pytest.approx((0.125, 1.0))
    assert price.speed_of((4, 3.0), (12, 2.5)) == pytest.approx((0.0, 2.5)), "noise is no negative step"
    assert price.speed_of((1, 3.0), (1, 3.0)) == pytest.approx((0.0, 3.0)), "a whole epoch of one step"


def test_hours_of_a_phase() -> None:
    """Of 9 epochs of 60 s and 20 s before them: 560 s; with pruning 5 epochs, 320 s."""
    phase = Phase("search", 10, 1, 9, 5.0, "10 x 1 folds")
    found = price.bill(phase, SPEED, at_a_time=4)
    assert found.hours * 3600 == pytest.approx(7 + 3 * 560), "ten in three rounds of four"
    assert found.expected * 3600 == pytest.approx(7 + 10 / 4 * 320)
    many = price.bill(phase, SPEED, at_a_time=10)
    assert many.expected * 3600 == pytest.approx(7 + 560), "one is trained to its end"
    folds = price.bill(Phase("search", 10, 3, 9, 5.0, ""), SPEED, at_a_time=10)
    assert folds.hours * 3600 == pytest.approx(7 + 20 + 3 * 9 * 60), "folds train one after another"
    final = price.bill(Phase("final", 10, 1, 9, 9.0, "", whole=True), SPEED, at_a_time=10)
    assert final.hours * 3600 == pytest.approx(7 + 20 + 9 * 80)
    uneven = price.bill(Phase("confirm", 15, 1, 9, 9.0, ""), SPEED, at_a_time=2)
    assert uneven.expected == uneven.hours, "what nothing prunes has one price"


def test_hours_that_the_search_is_given_limit_the_search_only() -> None:
    study = study_of(protocol="honest", search={"max_hours": 0.25})
    search, confirm, final, total = price.bills(study, SPEED, at_a_time=1)
    assert (search.hours, search.expected) == (0.25, 0.25)
    assert confirm.hours > 1
    assert total.name == "total"
    assert total.hours == pytest.approx(0.25 + confirm.hours + final.hours)
    assert total.trainings == search.trainings + confirm.trainings + final.trainings
    assert [bill.name for bill in price.bills(study_of(), SPEED, at_a_time=1)] == ["search"], "no sum of one"


def shown(study: Study) -> str:
    console = Console(width=160, record=True, quiet=False, file=None)
    with console.capture() as capture:
        plan.print_estimate(study, SPEED, console, at_a_time=2)
    return capture.get()


def test_the_table_names_hours_cost_and_what_they_hold_for() -> None:
    space: dict[str, object] = {
        "loss.margin": {"low": 0.0, "high": 0.5},
        "training.num_epochs": {"low": 4, "high": 9},
        "model.embedding_dim": {"choices": [32, 64]},
    }
    study = study_of(space, search={"num_trials": 12}, resources={"price_per_hour": 2.5})
    text = shown(study)
    (row,) = [line for line in text.splitlines() if "search" in line and "108" in line]
    # 7 s and six rounds of 20 s and 9 x 60 s.
    assert [cell.strip() for cell in row.strip("│ ").split("│")][:4] == ["search", "12", "108", "56.1 min"]
    assert row.rstrip("│ ").endswith(f"{(7 + 6 * 560) / 3600 * 2.5:.2f}")
    assert "measured in 21 s on a machine, 2 at a time, epochs of 4 to 12 of 100 steps: 0.5 s a step" in text
    assert "searched, and faster or slower than the base: model.embedding_dim\n" in text
    assert "training.num_epochs is searched: the most, 9, are reckoned with" in text
    free = shown(study_of())
    assert "cost" not in free
    assert "searched" not in free


def test_check_tells_every_phase(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=160)
    plan.print_plan(study_of(protocol="honest"), console, trainings=25, folds=4, searched=True)
    out = capsys.readouterr().out
    assert "\ntrainings: 100 (25 x 4 folds), at most 900 epochs\n" in out
    assert "\nconfirm: at most 60 more (5 configurations x 3 seeds x 4 folds), at most 540 epochs\n" in out
    assert "\nfinal: at most 10 more (2 configurations x 5 seeds), at most 90 epochs, on all training classes\n" in out
    plan.print_plan(study_of(protocol="honest"), console, trainings=1, folds=1, searched=False)
    out = capsys.readouterr().out
    assert "confirm: at most" not in out
