"""`python -m raydml.evaluate RUN [RUN ...]`, from words to an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from raydml.config import EvaluateOptions
from raydml.data_display import Images
from raydml.display import evaluation_table
from raydml.embedding import EmbeddingFailedError
from raydml.evaluate import run_evaluations
from raydml.sharded import CountingFailedError

_DONE, _FAILED = 0, 1


def evaluate(runs: Sequence[str], options: EvaluateOptions, console: Console, *, verbose: bool) -> int:
    """Prints a table for each evaluation. Raises ConfigError for what cannot be evaluated."""
    try:
        with Images(console, "embedded") as embedded, Images(console, "counted") as counted:
            for evaluation in run_evaluations(runs, options, verbose=verbose, embedded=embedded, counted=counted):
                console.print(evaluation.name, highlight=False, soft_wrap=True)
                console.print(evaluation_table(evaluation))
                if evaluation.doubt is not None:
                    console.print(evaluation.doubt, highlight=False, soft_wrap=True)
                if evaluation.synthetic:
                    console.print("synthetic images", highlight=False)
                console.print(f"written: {evaluation.place or evaluation.directory}", highlight=False, soft_wrap=True)
    except EmbeddingFailedError as error:
        print(f"error: the images could not be embedded: {error}", file=sys.stderr)
        return _FAILED
    except CountingFailedError as error:
        print(f"error: the shards could not be counted: {error}", file=sys.stderr)
        return _FAILED
    return _DONE
