"""What a search costs beside its trainings: `python -m tests.benchmarks.search_overhead`.

Wall time of the whole search, from connecting to Ray to the last trial's end, times the trials at a time, over the sum
of the seconds inside the epochs. Inline trials of at least 20 s each. Wall time: a quiet machine only.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from raydml import tune
from raydml.capacity import this_machine
from raydml.history import read_history
from raydml.space import read

_STUDY = Path(__file__).parents[2] / "search_spaces" / "margin.yaml"
_NUM_TRIALS = 8
_OVERRIDES = ("training.num_epochs=36", "search.early_stopping=null", f"search.num_trials={_NUM_TRIALS}")


def main() -> None:
    """Runs the search and prints the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        study = read(_STUDY, [*_OVERRIDES, f"storage={folder}"])
        result = tune.search(study, console=Console(quiet=True))
        runs = [read_history(path) for path in sorted((result.directory / "trials").iterdir())]
    inside = [sum(row["seconds"] for row in rows) for rows in runs]
    at_a_time = int(this_machine().cpus)
    ratio = result.seconds * at_a_time / sum(inside)
    print(f"{len(inside)} trials of {min(inside):.1f} to {max(inside):.1f} s, {at_a_time} at a time")
    print(f"wall {result.seconds:.1f} s, sum of training {sum(inside):.1f} s")
    print(f"wall x concurrency / training: {ratio:.3f} (target: at most 1.15)")


if __name__ == "__main__":
    main()
