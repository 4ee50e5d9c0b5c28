"""What early stopping saves and what it costs: `python -m tests.benchmarks.early_stopping`.

The same study with and without ASHA, from several seeds of the sampler, each confirmed with fresh seeds: epochs that
the search trained, and the best confirmed value. The two searches of a seed have the same start points and seeds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from raydml import tune
from raydml.history import read_history
from raydml.repeats import confirmed
from raydml.space import read
from raydml.statistics import estimate

_STUDY = Path(__file__).parents[2] / "search_spaces" / "margin.yaml"
_SEEDS = (0, 1, 2)
_CONFIRM = "protocol={folds_run: 1, confirm: {top: 2, seeds: 3}}"


def run(folder: Path, seed: int, *overrides: str) -> tuple[int, float]:
    """Epochs of the search's trials, and the winner's mean over its confirming runs."""
    study = read(_STUDY, [_CONFIRM, "search.num_trials=16", f"search.seed={seed}", f"storage={folder}", *overrides])
    result = tune.search(study, console=Console(quiet=True))
    assert result.winner is not None
    epochs = sum(len(read_history(path)) for path in (result.directory / "trials").iterdir())
    return epochs, float(np.mean(confirmed(study, result.directory, result.winner)))


def main() -> None:
    """Runs all searches and prints one line for each, then the differences."""
    table = Table(title="16 trials of 12 epochs, the best 2 and the base confirmed with 3 seeds")
    for heading in ("seed", "epochs with ASHA", "epochs without", "confirmed with", "confirmed without"):
        table.add_column(heading, justify="right")
    saved, gained = [], []
    for seed in _SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            stopped = run(Path(folder), seed, "name=stopped")
            whole = run(Path(folder), seed, "name=whole", "search.early_stopping=null")
        table.add_row(str(seed), f"{stopped[0]}", f"{whole[0]}", f"{stopped[1]:.4f}", f"{whole[1]:.4f}")
        saved.append(1 - stopped[0] / whole[0])
        gained.append(stopped[1] - whole[1])
    Console(width=120).print(table)
    share, difference = estimate(saved), estimate(gained)
    print(f"epochs saved: {share.mean:.1%} +- {share.half_width or 0:.1%}")
    print(f"confirmed value, with minus without: {difference.mean:+.4f} +- {difference.half_width or 0:.4f}")


if __name__ == "__main__":
    main()
