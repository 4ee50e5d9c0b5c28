"""Names of images: of a listing, before any is read, and of their content, by which they lie in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from raydml import atomic
from raydml.data.decoding import decoder
from raydml.data.listing import Listing

# Raise it when builds or listings are kept in another way.
_FORMAT = "sources-2"


def signature_of(listing: Listing, image_size: int) -> str:
    """Names what was listed, with the times of the files: another one wherever an image may be another one.

    So does where they lie: two unpacked archives may agree in every name, size and time, and in no image.
    """
    where = listing.encoded.named(listing.places[0]) if listing.places else ""
    return _digest(listing, image_size, [_FORMAT.encode(), listing.version.encode(), where.encode()])


def fingerprint_of(listing: Listing, image_size: int, digests: Sequence[bytes]) -> str:
    """Names the pixels, labels and what else is known of the images; `digests` (N,) are of the encoded images.

    Where the files lie and when they were written is no part of it.
    """
    return _digest(listing, image_size, digests)[:20]


def streamed_fingerprint_of(listing: Listing, image_size: int) -> str:
    """Names images that nobody reads beforehand: by their places and sizes.

    Times are no part of it: copies on other nodes, with times of their own, are the same images, and so is a file that
    was touched. An image replaced by another of exactly its size goes unnoticed; `data.decode=once` would notice it.
    """
    return _digest(listing, image_size, [b"always", listing.version.partition(".")[0].encode()])[:20]


def _digest(listing: Listing, image_size: int, more: Sequence[bytes]) -> str:
    head = {
        "decoder": decoder(),
        "image_size": image_size,
        "classes": listing.classes,
        "num_training": listing.num_training,
        "places": listing.places,
        "lists": sorted(listing.test_lists),
    }
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    digest.update(listing.labels.astype("<i8").tobytes())
    digest.update(b"-" if listing.roles is None else listing.roles.tobytes())
    if listing.groups is not None:
        digest.update(listing.groups.astype("<i8").tobytes())
    for name in sorted(listing.test_lists):
        digest.update(listing.test_lists[name].tobytes())
    for part in more:
        digest.update(part)
    return digest.hexdigest()


def pointer_path(signature: str) -> str:
    """Where a cache keeps the fingerprint of a signature, relative to it."""
    return f"sources/{signature}.json"


def read_pointer(content: bytes | str) -> str | None:
    """The fingerprint in a pointer; None where it is none."""
    try:
        found = json.loads(content)["fingerprint"]
    except (ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) and is_fingerprint(found) else None


def is_fingerprint(text: str) -> bool:
    """Whether it may name an entry: others wrote it, into pointers and checkpoints, and an entry is a folder."""
    return text.isascii() and text.isalnum()


def pointed(cache: Path, signature: str) -> str | None:
    """The fingerprint that a listing was found to have on this node; None where nobody knows."""
    try:
        return read_pointer((cache / pointer_path(signature)).read_bytes())
    except OSError:
        return None


def point(cache: Path, signature: str, fingerprint: str) -> None:
    """Notes the fingerprint of a listing. Raises OSError."""
    atomic.write_json(cache / pointer_path(signature), {"fingerprint": fingerprint})
