"""YAML 1.2 files as plain data, and back."""

from __future__ import annotations

import io
from pathlib import Path

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from raydml.config import ConfigError, dump

# Of a study with every field written out there are some hundreds.
_MOST_VALUES = 100_000


def load(path: Path) -> dict[str, object]:
    """A file that holds a mapping. Raises ConfigError, with line and column where the YAML is malformed."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        raw = loads(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if raw is None:
        raise ConfigError(f"{path}: expected keys and values, but the file is empty")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, but got {raw!r}")
    return raw


def loads(text: str) -> object:
    """A YAML document. Raises ConfigError."""
    try:
        raw = YAML(typ="safe", pure=True).load(text)
        count = _num_values(raw, {})
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = "; ".join(" ".join(str(part).split()) for part in (error.context, error.problem) if part)
        raise ConfigError(f"{at}malformed YAML: {problem}") from None
    except YAMLError as error:
        raise ConfigError(f"malformed YAML: {' '.join(str(error).split())}") from None
    except (ValueError, LookupError) as error:
        # A date that does not exist, a tag whose value does not fit it: the loader lets Python's own errors through.
        raise ConfigError(f"malformed YAML: a value cannot be read: {error}") from None
    except RecursionError:
        raise ConfigError("malformed YAML: nested too deep") from None
    # A few lines may stand for more than any memory holds.
    if count > _MOST_VALUES:
        raise ConfigError(f"malformed YAML: its anchors stand for more than {_MOST_VALUES:,} values")
    return raw


def _num_values(value: object, known: dict[int, int]) -> int:
    """As written out in full. Of a value that holds itself there is no end: RecursionError."""
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) not in known:
        inner = (*value.keys(), *value.values()) if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_num_values(item, known) for item in inner)
    return known[id(value)]


def dumps(config: BaseModel) -> str:
    """A configuration with every field written out."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 120
    # Round-trip YAML leaves None empty, which reads like a forgotten value.
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml.dump(dump(config), stream)
    return stream.getvalue()
