"""How often test classes were looked at, and through which models: a number that is looked at often is tuned."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path, PurePosixPath

from raydml.config import ConfigError

_RUNS = ("trials", "confirm", "final", "train")


def looks_of(directory: Path) -> dict[str, int]:
    """Looks at test classes by the run whose model looked, `final/winner-seed0`. Raises ConfigError."""
    path = directory / "test_looks.jsonl"
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return dict(Counter(_run(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)))


def _run(line: str, where: str) -> str:
    try:
        look = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: cannot be read: {error}") from None
    checkpoint = look.get("checkpoint") if isinstance(look, dict) else None
    if not isinstance(checkpoint, str):
        raise ConfigError(f"{where}: expected a look with its checkpoint")
    # As it was called on the machine of the look, which need not be this one.
    parts = PurePosixPath(checkpoint).parts
    inner = [part for part in parts if part != "checkpoint" and not part.startswith("fold")]
    at = [place for place, part in enumerate(inner) if part in _RUNS]
    return "/".join(inner[at[-1] :]) if at else checkpoint
