"""What the benchmarks of scaling print: tables of a simulation, every assumption named, shares of communication."""

from __future__ import annotations

import io
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from raydml.distributed import share
from tests.benchmarks import communication, scaling
from tests.benchmarks.communication import CASES, Times, union_seconds
from tests.benchmarks.scaling import Scenario
from tests.benchmarks.scaling_check import Check
from tests.benchmarks.scaling_model import Driver
from tests.benchmarks.scaling_simulation import simulate

SMALL = Scenario(trials=24, epochs=6, gpus_per_node=2, starting=2, losses_per_hour=6.0, idle_s=10.0)
SLOW = Driver((10, 20), (1.0, 2.0), (0.5, 0.5), (0.1, 0.1))


def text_of(table: Table) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_every_assumption_says_where_it_comes_from() -> None:
    assert set(scaling._SOURCES) == {field.name for field in fields(Scenario)}


@pytest.mark.parametrize("name", [field.name for field in fields(Scenario)])
def test_every_assumption_counts(name: str) -> None:
    value = getattr(SMALL, name)
    changed = {"gpus_per_node": 4, "trials_per_gpu": 2, "starting": 1}.get(name, value * 2 + 1)
    base = replace(SMALL, trials_per_gpu=2) if name == "packed_factor" else SMALL
    first, second = (scaling.outcomes_of(s, 4, SLOW) for s in (base, replace(base, **{name: changed})))
    what = [(o.wall_s, o.billed_s, o.epochs) for o in first]
    assert what != [(o.wall_s, o.billed_s, o.epochs) for o in second]


def test_the_table_of_sizes_has_a_line_for_each() -> None:
    text = text_of(scaling.sizes_table(replace(SMALL, losses_per_hour=0.0), Driver()))
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert [int(row.split("│")[1]) for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert rows[0].split("│")[3].strip() == "1.0"
    assert all(row.split("│")[-2].strip() == "0.0" for row in rows)


def test_a_variant_changes_one_thing() -> None:
    for what, scenario, driver in scaling.variants(SMALL, SLOW):
        changed = [f.name for f in fields(Scenario) if getattr(scenario, f.name) != getattr(SMALL, f.name)]
        assert len(changed) + (driver != SLOW) == {"as above": 0, "starts and boots cost nothing": 4}.get(what, 1), what
    text = text_of(scaling.limits_table(SMALL, SLOW, sizes=(2, 4)))
    assert text.count("│ ") >= len(list(scaling.variants(SMALL, SLOW)))


def test_a_prediction_that_is_far_off_is_said_so() -> None:
    outcome = simulate(SMALL.work(0), SMALL.cluster(2), SLOW)
    near, far = (Check("s", outcome, outcome, outcome.wall_s / ratio, 5) for ratio in (1.15, 1.25))
    assert "1.15" in text_of(scaling.checks_table([near]))
    assert "outside" not in text_of(scaling.checks_table([near]))
    assert text_of(scaling.checks_table([far])).count("1.25 (outside 20 %)") == 2


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=8))
def test_what_spans_cover_is_counted_once(spans: list[tuple[int, int]]) -> None:
    covered = {second for start, length in spans for second in range(start, start + length)}
    assert union_seconds((start, start + length) for start, length in spans) == len(covered)


def test_shares_of_communication_follow_from_times() -> None:
    times = Times([4.0, 2.0, 3.0], [2.0] * 3, [2.0, 2.5, 1.5], [1.5] * 3, on_the_way=0.3, gradient_bytes=4_000_000)
    slower = replace(times, strangers=[1.6] * 3, on_the_way=0.5)
    [row] = [
        line
        for line in text_of(communication.throughput_table(CASES[:1], [[times], [slower]], 3)).splitlines()
        if line.startswith("│")
    ]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    # 128 images in 3, 2 and 2 seconds; 1.6 of 2 seconds are the strangers'.
    assert cells[1:] == ["42.7", "64.0", "64.0", "1.50", "1.00", "4.00", "20%", "40%"]


def test_larger_gradients_take_longer() -> None:
    reduced = [float(size) * 1e-9 for size in communication._SIZES]
    rows = [line for line in text_of(communication.model_sizes_table(reduced)).splitlines() if line.startswith("│")]
    assert [row.split("│")[5].strip() for row in rows] == ["1.00"] * len(rows)
    shares = [float(row.split("│")[6].strip(" %")) for row in rows]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(100 * 0.0447 / 0.1447, abs=0.1)


def test_both_processes_train_the_same_global_batches() -> None:
    case = communication.Case("test_resnet", "frozen", 8, 10, 3)
    whole = communication.batches_of(case, slice(0, 10), 10)
    parts = [communication.batches_of(case, share(10, place, 2), 10) for place in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert np.array_equal(batch.images, np.concatenate([first.images, second.images]))
        assert batch.labels.tolist() == [*first.labels.tolist(), *second.labels.tolist()]
        assert first.num_global == 10
