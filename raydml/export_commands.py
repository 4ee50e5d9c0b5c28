"""`python -m raydml.export RUN`, from words to an exit code."""

from __future__ import annotations

import sys

from rich.console import Console

from raydml.config import ExportOptions
from raydml.export import ExportFailedError
from raydml.export import export as export_model

_DONE, _FAILED = 0, 1


def export(run: str, options: ExportOptions, console: Console) -> int:
    """Writes the model and says where it lies. Raises ConfigError for bad input."""
    try:
        done = export_model(run, out=options.out, fold=options.fold, formats=options.formats)
    except ExportFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED
    for name, difference in done.differences.items():
        console.print(f"{name}: embeddings differ from the model's by at most {difference:.1e}", highlight=False)
    if done.trained_in != "float32":
        console.print(f"computes in float32; the training computed in {done.trained_in}", highlight=False)
    console.print(f"written: {done.directory}", highlight=False, soft_wrap=True)
    return _DONE
