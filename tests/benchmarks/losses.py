"""Cost of the losses against pytorch-metric-learning (PML): goals L1, L2 and L4 of specs/performance.md, by its 1.1.

    python -m tests.benchmarks.losses [--quick] [--loss NAME] [--batch B ...] [--dim D ...]

One thread; process CPU time, not wall time; both sides in one process and in turns, after a warm-up; medians. Before a
time counts, both sides must agree: value and tangential gradient to 1e-5, where they are the same function. Memory is
explained in `measuring`. Where theirs would need more than 3 GB or 20 s a step, only ours is measured. Asserts nothing
about time; the goals that were missed are listed below the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, log2

import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks.loss_cases import (
    CASES,
    SAMPLES_PER_CLASS,
    Case,
    batch,
    disagreement,
    ours,
    step,
    theirs,
)
from tests.benchmarks.measuring import cpu_seconds, in_turns, operations, peak_bytes, require_honest_memory

_TOLERANCE = 1e-5
_MOST_OPERATIONS = 100
_MOST_BYTES = 3e9
_MOST_SECONDS = 20.0
# A step that takes longer than this is measured in three rounds.
_LONG_S = 0.5


@dataclass(frozen=True)
class Row:
    """A line of the table: medians of CPU seconds, peaks of memory in bytes; theirs None where it would not fit."""

    case: Case
    batch_size: int
    dim: int
    our_s: float
    our_bytes: int
    operations: int
    their_s: float | None
    their_bytes: int | None
    note: str = ""
    error: float = 0.0
    """Relative difference of the two sides."""

    @property
    def speedup(self) -> float | None:
        return None if self.their_s is None else self.their_s / self.our_s

    @property
    def memory(self) -> float | None:
        return None if self.their_bytes is None else self.our_bytes / self.their_bytes

    @property
    def goal(self) -> float:
        """Least speed-up."""
        return self.case.goals.get(self.batch_size, 1.0) if self.dim == 128 else 1.0

    def missed(self) -> list[str]:
        """Goals that this line misses, in words."""
        where = f"{self.case.name}, B = {self.batch_size}, D = {self.dim}"
        found = [f"{where}: {self.operations} operations"] if self.operations > _MOST_OPERATIONS else []
        if not self.error <= _TOLERANCE:
            found.append(f"{where}: the two sides differ by {self.error:.1e}")
        if self.case.config.kind == "n_pair":  # another, smaller problem
            return found
        if self.speedup is not None and self.speedup < self.goal:
            found.append(f"{where}: {self.speedup:.2f}x, goal >= {self.goal:g}x")
        if self.memory is not None and self.memory > 1.0:
            found.append(f"{where}: {self.memory:.2f} of their memory")
        return found


def too_large(case: Case, size: int, dim: int) -> str:
    """Why theirs is not run, predicted from two small batches; empty where it can be."""
    if size <= 128:
        return ""
    needs, takes = [], []
    for small in (64, 128):
        contender = theirs(case, dim, ours(case, dim))
        action = partial(step, contender, *batch(small, dim, case.num_classes))
        takes.append(min(cpu_seconds(action), cpu_seconds(action)))
        needs.append(peak_bytes(action))
    # A power that rounds up over-estimates; no loss of theirs grows faster than the triplets. Time follows memory.
    growth = (size / 128) ** min(3, ceil(log2(needs[1] / needs[0])))
    if (predicted := needs[1] * growth) > _MOST_BYTES:
        return f"needs {predicted / 1e9:.0f} GB"
    if (seconds := takes[1] * growth) > _MOST_SECONDS:
        return f"takes up to {seconds:.0f} s"
    return ""


def measure(case: Case, size: int, dim: int, *, rounds: int) -> Row:
    """One line of the table."""
    embeddings, labels = batch(size, dim, case.num_classes)
    mine = ours(case, dim)
    my_step = partial(step, mine, embeddings, labels)
    if reason := too_large(case, size, dim):
        (our_s,) = in_turns([my_step], rounds)
        return Row(case, size, dim, our_s, peak_bytes(my_step), operations(my_step), None, None, reason)
    other = theirs(case, dim, mine)
    error = 0.0
    if not case.differs:
        error = disagreement(mine, other, embeddings.double() if case.wide else embeddings, labels)
    actions = [my_step, partial(step, other, embeddings, labels)]
    if max(cpu_seconds(action) for action in actions) > _LONG_S:
        rounds = 3
    our_s, their_s = in_turns(actions, rounds)
    our_bytes = peak_bytes(my_step)
    their_bytes = peak_bytes(actions[1]) if size <= case.largest_profile else None
    return Row(case, size, dim, our_s, our_bytes, operations(my_step), their_s, their_bytes, error=error)


_HEADINGS = ("loss", "D", "B", "PML ms", "ours ms", "PML / ours", "PML MB", "ours MB", "ours / PML", "ops", "goal")


def table(rows: Sequence[Row]) -> Table:
    """Rows as text."""
    shown = Table(title=f"Forward + backward, one thread, CPU time and peak memory, {SAMPLES_PER_CLASS} per class")
    for heading in _HEADINGS:
        shown.add_column(heading, justify="left" if heading in ("loss", "goal") else "right")
    for row in rows:
        their_ms = "-" if row.their_s is None else f"{1e3 * row.their_s:.2f}"
        their_mb = "-" if row.their_bytes is None else f"{row.their_bytes / 1e6:.1f}"
        speedup, memory = ("-" if ratio is None else f"{ratio:.2f}" for ratio in (row.speedup, row.memory))
        goal = row.note or (f">= {row.goal:g}" if row.goal > 1.0 else "")
        shown.add_row(
            *(f"{row.case.name}{'*' if row.case.differs else ''}", str(row.dim), str(row.batch_size)),
            *(their_ms, f"{1e3 * row.our_s:.2f}", speedup),
            *(their_mb, f"{row.our_bytes / 1e6:.1f}", memory),
            *(str(row.operations), goal + (" MISSED" if row.missed() else "")),
        )
    return shown


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batches 64 and 128, dimension 128, three rounds")
    parser.add_argument("--loss", default="", help="only losses whose name contains this")
    parser.add_argument("--batch", type=int, nargs="+", help="batch sizes")
    parser.add_argument("--dim", type=int, nargs="+", help="embedding dimensions")
    options = parser.parse_args(argv)
    batches = options.batch or ((64, 128) if options.quick else (64, 128, 256, 512, 1024))
    dims = options.dim or ((128,) if options.quick else (128, 512))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    require_honest_memory()
    rounds, console = 3 if options.quick else 7, Console(width=150)
    cases = [case for case in CASES if options.loss in case.name]
    rows = [measure(case, size, dim, rounds=rounds) for dim in dims for case in cases for size in batches]
    console.print(table(rows))
    for case in cases:
        if case.differs:
            console.print(f"* {case.name}: values are not compared, because {case.differs}")
    missed = [sentence for row in rows for sentence in row.missed()]
    console.print("\n".join(f"missed: {sentence}" for sentence in missed) or "every goal is met")


if __name__ == "__main__":
    main()
