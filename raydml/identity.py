"""What makes a study the same study: base, space, protocol, objectives and data; not budgets, machines or places."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from raydml import atomic
from raydml.config import ConfigError, ExperimentConfig, Repeats, dump
from raydml.config.grammar import differences
from raydml.space import Study

PLACES = frozenset({"data.cache", "data.images", "data.prefetch_threads", "data.root"})
"""Paths that no result depends on: where images lie, which the data fingerprint tells apart, and how they are read."""

_BUDGETS = ("top", *Repeats.model_fields)


def identity_of(study: Study, fingerprint: str) -> dict[str, object]:
    """The parts of a study that its results depend on. Plain data."""
    # Only where there are some: folders of searches with one objective must stay theirs.
    further = {"minimize": list(study.search.minimize)} if study.search.minimize else {}
    return {
        "base": without_places(study.base),
        "space": {path: dump(limits) for path, limits in study.space.items()},
        "protocol": _without_budgets(dump(study.protocol)),
        "metric": study.search.metric,
        **further,
        "data_fingerprint": fingerprint,
    }


def without_places(config: ExperimentConfig) -> dict[str, object]:
    """A configuration as plain data, but for `PLACES`."""
    return without_paths(dump(config), PLACES)


def without_paths(raw: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """Plain data without what lies at some paths of two names."""
    return {
        section: {key: value for key, value in part.items() if f"{section}.{key}" not in paths}
        if isinstance(part, Mapping)
        else part
        for section, part in raw.items()
    }


def _without_budgets(protocol: Mapping[str, object]) -> dict[str, object]:
    """More seeds, or more trials to confirm, go on with the same study; a phase that there is not has no part."""
    return {
        name: {key: value for key, value in part.items() if key not in _BUDGETS} if isinstance(part, Mapping) else part
        for name, part in protocol.items()
        if part is not None
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


def stored_in(directory: Path) -> dict[str, object] | None:
    """The identity of the study a folder holds; None where it holds none. Raises ConfigError where it is unreadable."""
    path = directory / "identity.json"
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["identity"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def fingerprint_in(directory: Path) -> str | None:
    """The fingerprint of the images of the study a folder holds; None where it holds none. Raises ConfigError."""
    found = (stored_in(directory) or {}).get("data_fingerprint")
    return found if isinstance(found, str) else None


def changes(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    """The first two paths at which two identities differ, with both values; empty where they are the same."""
    found = [f"{where} is {then} there and {now} here" for where, then, now in differences(dict(there), dict(here))]
    return "; ".join(found[:2]) + (f" (and {len(found) - 2} more)" if len(found) > 2 else "")


def require_same(directory: Path, identity: Mapping[str, object]) -> None:
    """Raises ConfigError where the folder holds a different study, naming the first paths that differ."""
    stored = stored_in(directory)
    if stored is None or hash_of(stored) == hash_of(identity):
        return
    raise ConfigError(
        f"{directory} holds a different study: {changes(stored, identity)}; give this one another name=... or "
        "storage=..."
    )


def write(directory: Path, identity: Mapping[str, object], **provenance: object) -> None:
    """identity.json: the hash, what it is the hash of, and where the numbers come from."""
    atomic.write_json(
        directory / "identity.json", {"hash": hash_of(identity), "identity": dict(identity), **provenance}
    )


def commit() -> str | None:
    """The commit of raydml's own checkout; None where it was installed from a package."""
    try:
        found = subprocess.run(  # noqa: S603
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
