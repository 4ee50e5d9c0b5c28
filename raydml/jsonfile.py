"""JSON objects on disk, read with one wording of what is wrong; `raydml.atomic` writes them."""

from __future__ import annotations

import json
from pathlib import Path

from raydml.config import ConfigError


def load(path: Path) -> dict[str, object]:
    """A file that holds names and values. Raises ConfigError naming it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected names and values, but got {type(value).__name__}")
    return value
