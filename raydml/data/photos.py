"""Photographs on this node: opened where they are decoded already, fetched from a remote cache, or decoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from filelock import FileLock, Timeout

from raydml.config import ConfigError
from raydml.data import entry as entries
from raydml.data.addresses import is_fingerprint, point, pointed, signature_of, streamed_fingerprint_of
from raydml.data.building import Build, Decode, Progress, build
from raydml.data.cache import ImageSet, lock_of, open_entry, opened
from raydml.data.decoding import Pixels
from raydml.data.disk import writable
from raydml.data.listing import Listing
from raydml.data.remote_cache import RemoteCache
from raydml.data.streaming import StreamedPixels

_log = logging.getLogger(__name__)


def open_photos(
    cache: Path,
    list_images: Callable[[], Listing],
    *,
    name: str,
    image_size: int,
    known: str | None,
    decode: Decode,
    progress: Progress | None = None,
    remote: RemoteCache | None = None,
) -> ImageSet:
    """The decoded images of a listing, whose fingerprint is that of their content, the size and the decoder.

    With `known`, nothing is listed where this node or the remote cache has that entry. Raises ConfigError where the
    images are no longer those of `known`, where one cannot be read, or the cache cannot be written.
    """
    found = _held(cache, known, remote)
    if found is None:
        listing = list_images()
        signature = signature_of(listing, image_size)
        found = _listed(Build(cache, listing, signature, name, image_size), known, decode, progress, remote)
    if found.images.shape[1] != image_size:
        raise ValueError(f"known={known} are images of {found.images.shape[1]} pixels, but image_size is {image_size}")
    return replace(found, name=name)


def streamed(listing: Listing, *, name: str, image_size: int) -> ImageSet:
    """The images of a listing, decoded whenever they are asked for and never kept.

    The fingerprint is that of their places and sizes (`addresses.streamed_fingerprint_of`).
    """
    return ImageSet(
        name=name,
        images=cast("Pixels", StreamedPixels(listing, image_size)),
        labels=listing.labels,
        classes=listing.classes,
        sources=listing.places,
        sizes=tuple(np.bincount(listing.labels, minlength=len(listing.classes)).tolist()),
        fingerprint=streamed_fingerprint_of(listing, image_size),
        synthetic=False,
        num_training=listing.num_training,
        roles=listing.roles,
        groups=listing.groups,
        test_lists=listing.test_lists,
    )


def _listed(
    what: Build, known: str | None, decode: Decode, progress: Progress | None, remote: RemoteCache | None
) -> ImageSet:
    fingerprint = pointed(what.cache, what.signature)
    require_unchanged(fingerprint, known)
    found = _held(what.cache, fingerprint, None)
    if found is None and remote is not None:
        fingerprint = remote.pointed(what.signature) or fingerprint
        require_unchanged(fingerprint, known)
        found = _held(what.cache, fingerprint, remote)
        if found is not None:
            with writable(what.cache, 0):
                point(what.cache, what.signature, found.fingerprint)
    if found is None:
        found = _built(what, decode, progress)
    if remote is not None:
        # Also what an earlier process decoded and could not bring there.
        remote.publish(what.cache / found.fingerprint, what.signature)
    require_unchanged(found.fingerprint, known)
    return found


def require_unchanged(fingerprint: str | None, known: str | None) -> None:
    """Raises ConfigError where a fingerprint is not that of the images a run began with; None is not known yet."""
    if None not in (fingerprint, known) and fingerprint != known:
        raise ConfigError(
            f"data: the images changed since this run began: they were {known} and are {fingerprint} now, on this "
            "machine; bring the old ones back, or begin a new run"
        )


def _held(cache: Path, fingerprint: str | None, remote: RemoteCache | None) -> ImageSet | None:
    """The entry of a fingerprint, on this node or brought here."""
    if fingerprint is None or not is_fingerprint(fingerprint):
        return None
    entry = cache / fingerprint
    found = open_entry(entry)
    if found is None and remote is not None and remote.download(fingerprint, cache):
        found = opened(entry)
    return found


def _built(what: Build, decode: Decode, progress: Progress | None) -> ImageSet:
    with writable(what.cache, 0):
        what.folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(what):
            fingerprint = pointed(what.cache, what.signature)
            found = _held(what.cache, fingerprint, None)
            if found is not None:
                return found
            if fingerprint is not None:
                _discard(what.cache / fingerprint)
            return opened(build(what, decode, progress))


def _discard(entry: Path) -> None:
    """A damaged entry makes room for its successor."""
    with FileLock(lock_of(entry)):
        if entry.exists() and open_entry(entry) is None:
            _log.warning("%s is damaged and is built again", entry)
            entries.discard(entry)


@contextmanager
def _alone(what: Build) -> Iterator[None]:
    """Holds the build's lock, and says so where that takes a while."""
    lock = what.locked()
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info("%s: waiting for another process that decodes the same images", what.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
