"""What a person reads while a search runs and when it ends."""

from __future__ import annotations

import io

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.table import Table

from raydml.config import Scalar
from raydml.config.grammar import validate
from raydml.display import SearchDisplay, leaderboard, shown, shown_point
from raydml.record import FAILURE
from raydml.space import Study


@pytest.fixture
def study() -> Study:
    space = {"loss.margin": {"low": 0, "high": 1}, "data.batch_size": {"choices": [64, 128]}}
    return validate(Study, {"name": "margins", "protocol": "quick", "space": space, "search": {"num_trials": 9}})


class Memory:
    """Optuna's record, filled as a search fills it."""

    def __init__(self) -> None:
        self.study = optuna.create_study(direction="maximize")

    def trial(self, state: TrialState, values: list[float], margin: float = 0.25, failure: str = "") -> FrozenTrial:
        trial = self.study.ask()
        trial.suggest_float("loss.margin", margin, margin)
        trial.suggest_int("data.batch_size", 1, 1)  # the second of the choices
        for epoch, value in enumerate(values, start=1):
            trial.report(value, epoch)
        if state == TrialState.FAIL:
            trial.set_user_attr(FAILURE, failure)
        if state != TrialState.RUNNING:
            complete = state == TrialState.COMPLETE
            self.study.tell(trial, values[-1] if complete else None, state=state)
        return self.study.get_trials()[-1]


@pytest.fixture
def memory() -> Memory:
    return Memory()


def plain() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines_of(console: Console) -> list[str]:
    return text_of(console).splitlines()


def epochs(display: SearchDisplay, trial: FrozenTrial) -> None:
    for epoch, value in trial.intermediate_values.items():
        display.epoch(trial.number, {"epoch": epoch, "val/map@r": value})


def printed(table: Table) -> list[list[str]]:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_what_waits_for_machines_is_a_line_until_nothing_waits(study: Study) -> None:
    console = plain()
    with SearchDisplay(study, console, earlier=[], note="") as display:
        display.waiting("0001 waits for 1 x (4 CPUs, 1 GPUs)")
        display.waiting(None)
    assert lines_of(console) == ["0001 waits for 1 x (4 CPUs, 1 GPUs)", "nothing waits for machines any more"]


def test_in_a_terminal_it_stands_below_the_table_and_goes(study: Study) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with SearchDisplay(study, console, earlier=[], note="") as display:
        for line, shown_there in (("0001 waits for 1 x", True), (None, False)):
            display.waiting(line)
            text = plain()
            text.print(display._table())
            assert ("0001 waits for 1 x" in text_of(text)) is shown_there


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (0.5, "0.5"), (1e-5, "1e-05"), (128, "128"), (12345678, "12345678"), ("cosine", "cosine")],
)
def test_numbers_have_four_digits_and_the_rest_is_as_it_is(value: Scalar, text: str) -> None:
    assert shown(value) == text
    assert shown_point({"loss.margin": 0.123456, "data.batch_size": 64}) == "loss.margin=0.1235 data.batch_size=64"


def test_a_log_has_one_line_for_every_start_and_end(study: Study, memory: Memory) -> None:
    console = plain()
    with SearchDisplay(study, console, earlier=[], note="digits") as display:
        for number, resumed in ((0, False), (1, True), (2, False), (3, False)):
            display.started(number, {"loss.margin": 0.25, "data.batch_size": 64}, 3, resumed=resumed)
        for trial in (
            memory.trial(TrialState.COMPLETE, [0.1, 0.2, 0.4]),
            memory.trial(TrialState.PRUNED, [0.1, 0.15]),
            memory.trial(TrialState.FAIL, [0.1], failure="the loss is not finite at epoch 2, step 7"),
            memory.trial(TrialState.COMPLETE, [0.1, 0.2, 0.3]),
        ):
            epochs(display, trial)
            display.ended(trial)
    assert lines_of(console) == [
        "trial   0 starts: loss.margin=0.25 data.batch_size=64",
        "trial   1 goes on: loss.margin=0.25 data.batch_size=64",
        "trial   2 starts: loss.margin=0.25 data.batch_size=64",
        "trial   3 starts: loss.margin=0.25 data.batch_size=64",
        "trial   0 complete at epoch 3/3: val/map@r=0.4000 [1/9 trials, best 0.4000 (trial 0)]",
        "trial   1 pruned at epoch 2/3: val/map@r=0.1500 [2/9 trials, best 0.4000 (trial 0)]",
        "trial   2 failed: the loss is not finite at epoch 2, step 7 [3/9 trials, best 0.4000 (trial 0)]",
        "trial   3 complete at epoch 3/3: val/map@r=0.3000 [4/9 trials, best 0.4000 (trial 0)]",
    ]


def test_trials_of_an_interrupted_search_count(study: Study, memory: Memory) -> None:
    earlier = [memory.trial(TrialState.COMPLETE, [0.5]), memory.trial(TrialState.RUNNING, [])]
    console = plain()
    with SearchDisplay(study, console, earlier=earlier, note="") as display:
        display.started(1, {}, 1, resumed=True)
        worse = memory.trial(TrialState.COMPLETE, [0.25])
        display.started(worse.number, {}, 1, resumed=False)
        epochs(display, worse)
        display.ended(worse)
    assert lines_of(console)[0] == "the search goes on: 1/9 trials ended earlier, best 0.5000 (trial 0)"
    assert lines_of(console)[-1].endswith("[2/9 trials, best 0.5000 (trial 0)]")


def test_a_trial_out_of_time_says_where_it_waits(study: Study, memory: Memory) -> None:
    """A continued one that was stopped before it reported anything new has the epochs it had."""
    console = plain()
    with SearchDisplay(study, console, earlier=[], note="") as display:
        for resumed, values in ((False, []), (True, [0.1, 0.2])):
            trial = memory.trial(TrialState.RUNNING, values)
            display.started(trial.number, {}, 3, resumed=resumed)
            display.paused(trial)
        assert display._running == {}
    assert lines_of(console)[1::2] == [
        "trial   0 waits at epoch 0/3: time is up",
        "trial   1 waits at epoch 2/3: time is up",
    ]


def test_a_pruned_trial_is_never_the_best(study: Study, memory: Memory) -> None:
    console = plain()
    with SearchDisplay(study, console, earlier=[], note="") as display:
        display.started(0, {}, 3, resumed=False)
        trial = memory.trial(TrialState.PRUNED, [0.9])
        epochs(display, trial)
        display.ended(trial)
    assert lines_of(console)[-1] == "trial   0 pruned at epoch 1/3: val/map@r=0.9000 [1/9 trials, best none yet]"


def test_a_long_line_of_a_log_is_not_broken(study: Study) -> None:
    console = Console(file=io.StringIO(), width=40)
    with SearchDisplay(study, console, earlier=[], note="") as display:
        display.started(0, {f"some.long.path{i}": 0.5 for i in range(9)}, 3, resumed=False)
    assert len(lines_of(console)) == 1


def test_a_terminal_shows_a_table_of_running_and_ended_trials(study: Study, memory: Memory) -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None)
    with SearchDisplay(
        study, console, earlier=[memory.trial(TrialState.COMPLETE, [0.5])], note="raw pixels"
    ) as display:
        display.started(1, {"loss.margin": 0.75, "data.batch_size": 64}, 3, resumed=False)
        display.epoch(1, {"epoch": 2, "val/map@r": 0.125})
    screen = text_of(console)
    assert "trial   1 starts" not in screen, "lines are for logs"
    for shown_text in ("margins: 1 of 9 trials ended", "raw pixels", "running", "2/3", "0.1250", "complete", "0.5000"):
        assert shown_text in screen
    for heading in ("trial", "state", "epoch", "val/map@r", "loss.margin", "data.batch_size"):
        assert heading in screen
    assert "best 0.5000 (trial 0)" in screen


def test_the_leaderboard_has_the_best_complete_trial_first(study: Study, memory: Memory) -> None:
    trials = [
        memory.trial(TrialState.FAIL, [], failure="out of memory"),
        memory.trial(TrialState.PRUNED, [0.9, 0.95], margin=0.1),
        memory.trial(TrialState.COMPLETE, [0.2, 0.4], margin=0.2),
        memory.trial(TrialState.COMPLETE, [0.2, 0.6], margin=0.3),
        memory.trial(TrialState.PRUNED, [0.96], margin=0.5),
        memory.trial(TrialState.COMPLETE, [0.2, 0.6], margin=0.4),
    ]
    table = leaderboard(study, trials)
    assert [str(column.header) for column in table.columns][3:] == ["val/map@r", "loss.margin", "data.batch_size"]
    assert printed(table) == [
        ["3", "complete", "2", "0.6000", "0.3", "128"],
        ["5", "complete", "2", "0.6000", "0.4", "128"],
        ["2", "complete", "2", "0.4000", "0.2", "128"],
        ["4", "pruned", "1", "0.9600", "0.5", "128"],
        ["1", "pruned", "2", "0.9500", "0.1", "128"],
        ["0", "failed", "", "out of memory", "0.25", "128"],
    ]


@pytest.mark.parametrize("reason", ["no closing [/b] tag", "KeyError: [red]", "list[int]"])
@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_in_a_reason_are_text(study: Study, memory: Memory, reason: str, terminal: bool) -> None:
    """A table takes strings for markup: an error message must not end the search that reports it."""
    failed = memory.trial(TrialState.FAIL, [], failure=reason)
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
    with SearchDisplay(study, console, earlier=[], note="[/note]") as display:
        display.started(0, {}, 3, resumed=False)
        display.ended(failed)
    assert reason in text_of(console)
    board = plain()
    board.print(leaderboard(study, [failed]))
    assert reason in text_of(board)


def test_of_many_that_run_a_few_are_shown_and_the_best_below_them(study: Study, memory: Memory) -> None:
    best = memory.trial(TrialState.COMPLETE, [0.5])
    display = SearchDisplay(study, plain(), earlier=[best], note="")
    for number in range(1, 201):
        display.started(number, {"loss.margin": 0.25, "data.batch_size": 128}, 12, resumed=False)
    table = next(part for part in display._table().renderables if isinstance(part, Table))
    rows = printed(table)
    assert [row[0] for row in rows] == [*map(str, range(1, 17)), "", "0"]
    assert rows[16][1] == "184 more run"


def test_a_terminals_table_is_not_made_for_every_epoch(
    study: Study, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = memory.trial(TrialState.RUNNING, [0.1] * 500)
    made: list[int] = []
    make = SearchDisplay._table

    def counted(display: SearchDisplay) -> Group:
        made.append(1)
        return make(display)

    monkeypatch.setattr(SearchDisplay, "_table", counted)
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with SearchDisplay(study, console, earlier=[], note="") as display:
        display.started(trial.number, {"loss.margin": 0.25}, 500, resumed=False)
        epochs(display, trial)
    assert 0 < len(made) < 50
    assert "running" in text_of(console), "what is true in the end is shown"
