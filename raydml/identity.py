"""What makes a study the same study: base, space, protocol and data; not budgets, machines or places."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from raydml import atomic
from raydml.config import ConfigError, dump
from raydml.config.grammar import differences
from raydml.space import Study


def identity_of(study: Study, fingerprint: str) -> dict[str, object]:
    """The parts of a study that its results depend on. Plain data."""
    base = dump(study.base)
    data = base["data"]
    assert isinstance(data, dict)
    base["data"] = {key: value for key, value in data.items() if key != "cache"}
    return {
        "base": base,
        "space": {path: dump(limits) for path, limits in study.space.items()},
        "protocol": dump(study.protocol),
        "metric": study.search.metric,
        "data_fingerprint": fingerprint,
    }


def hash_of(identity: Mapping[str, object]) -> str:
    """Twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(_canonical(identity), sort_keys=True).encode()).hexdigest()[:12]


def _canonical(value: object) -> object:
    """0.0 as 0: they draw the same values and compare equal, but are not the same JSON."""
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def require_same(directory: Path, identity: Mapping[str, object]) -> None:
    """Raises ConfigError where the folder holds a different study, naming the first paths that differ."""
    path = directory / "identity.json"
    if not path.exists():
        return
    try:
        stored = dict(json.loads(path.read_text(encoding="utf-8"))["identity"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if hash_of(stored) == hash_of(identity):
        return
    changes = [f"{where} is {then} there and {now} here" for where, then, now in differences(stored, dict(identity))]
    more = f" (and {len(changes) - 2} more)" if len(changes) > 2 else ""
    raise ConfigError(
        f"{directory} holds a different study: {'; '.join(changes[:2])}{more}; give this one another name=... or "
        "storage=..."
    )


def write(directory: Path, identity: Mapping[str, object], **provenance: object) -> None:
    """identity.json: the hash, what it is the hash of, and where the numbers come from."""
    atomic.write_json(
        directory / "identity.json", {"hash": hash_of(identity), "identity": dict(identity), **provenance}
    )
