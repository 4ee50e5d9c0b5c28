"""Looks at test classes where several machines may look: each stores what it noted, and reads what all noted.

No machine appends to what another may write. On a storage every piece of `test_looks/` is a folder of its own that
nobody changes; `test_looks.jsonl` is made of them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from raydml import atomic
from raydml.layout import LOOKS

_FILE = "looks.jsonl"


def gather_looks(study: Path) -> None:
    """Writes `test_looks.jsonl`: what was noted here and what the pieces hold, each line once."""
    noted = _noted(study)
    # A line begins with its time.
    fresh = sorted(_in_pieces(study) - set(noted))
    if fresh:
        atomic.write_text(study / f"{LOOKS}.jsonl", "".join(f"{line}\n" for line in (*noted, *fresh)))


def new_piece(study: Path) -> Path | None:
    """A folder `test_looks/<digest>` of what was noted here and is in no piece yet; None where there is no such line.

    Named by its lines: the same ones stored again are the same piece.
    """
    known = _in_pieces(study)
    fresh = [line for line in _noted(study) if line not in known]
    if not fresh:
        return None
    text = "".join(f"{line}\n" for line in fresh)
    folder = study / LOOKS / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    atomic.write_text(folder / _FILE, text)
    return folder


def _noted(study: Path) -> list[str]:
    return _lines(study / f"{LOOKS}.jsonl")


def _in_pieces(study: Path) -> set[str]:
    return {line for path in study.glob(f"{LOOKS}/*/{_FILE}") for line in _lines(path)}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
