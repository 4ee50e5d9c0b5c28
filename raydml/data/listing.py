"""Which images a data set has and what is known of them, before any is read."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from raydml.config import ConfigError
from raydml.splits import Indices

# Some test, and the folds of the rest need some each.
_FEWEST_CLASSES = 8

# What an image of a test class is for.
ANY_ROLE, QUERY, GALLERY = 0, 1, 2
ROLES = {"": ANY_ROLE, "query": QUERY, "gallery": GALLERY}
"""As tables write them."""
Roles = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]


def may_be(roles: Roles, role: int) -> Mask:
    """(N,) whether an image is a query, or of the gallery: those of either role are both."""
    mask: Mask = (roles == role) | (roles == ANY_ROLE)
    return mask


class Encoded(Protocol):
    """Where encoded images are read. Plain data when pickled: it travels to other processes and nodes."""

    def read(self, place: str) -> bytes:
        """An encoded image. Raises OSError."""
        ...

    def named(self, place: str) -> str:
        """Where it is, for a message."""
        ...


class Listed(NamedTuple):
    """One image of a data set."""

    place: str
    """Where it is within its data set, the same on every machine."""
    class_name: str
    role: int = ANY_ROLE
    group: str = ""
    """Such as the camera; empty where it is of none."""


@dataclass(frozen=True)
class Listing:
    """The images of a data set in the order of their classes: those that train come first."""

    encoded: Encoded
    places: tuple[str, ...]
    """(N,) what `encoded.read` takes."""
    labels: Indices
    """(N,) rising, indices into `classes`."""
    classes: tuple[str, ...]
    version: str
    """Changes whenever an image may have: `version_of` the stamps of all files. What is before the first dot, if there
    is one, does not depend on when they were written."""
    num_training: int | None = None
    """Classes, the first ones, that train; None where the configuration decides (`test_fraction`)."""
    roles: Roles | None = None
    """(N,) whether an image is a query, of the gallery, or either; None where all are either."""
    groups: Indices | None = None
    """(N,) `numbered_groups`; None where no image is of any."""
    test_lists: Mapping[str, Mask] = field(default_factory=dict)
    """Named parts of the test images, (N,) each, where a data set has several."""
    reading_order: Indices | None = None
    """(N,) the order in which reading is fastest; that of the classes where None."""


class MissingImagesError(ConfigError):
    """Images that are listed are not there. Whoever only wants to know goes on with the others."""

    def __init__(self, message: str, missing: Sequence[str], others: Listing) -> None:
        """`missing` are places; `others` is the listing without them."""
        super().__init__(message)
        self.missing = tuple(missing)
        self.others = others

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str]]:
        # From a worker it comes as what it says: nobody goes on there.
        return ConfigError, (str(self),)


def listing_of(
    encoded: Encoded,
    images: Iterable[Listed],
    classes: Sequence[str],
    *,
    version: str,
    num_training: int | None = None,
    test_lists: Mapping[str, Container[str]] | None = None,
) -> Listing:
    """A listing of images that come in any order; those of a class stay in theirs. `classes` are in order.

    `test_lists` are places by the name of the list.
    """
    found = list(images)
    place_of = {name: place for place, name in enumerate(classes)}
    labels = np.array([place_of[image.class_name] for image in found], dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    roles = np.array([image.role for image in found], dtype=np.int8)[order]
    groups = numbered_groups([found[position].group for position in order])
    places = tuple(found[position].place for position in order)
    masks = {name: np.array([place in part for place in places]) for name, part in (test_lists or {}).items()}
    return Listing(
        encoded,
        places,
        labels[order],
        tuple(classes),
        version,
        num_training,
        roles if roles.any() else None,
        groups,
        masks,
        reading_order=np.argsort(order, kind="stable"),
    )


def numbered_groups(names: Sequence[str]) -> Indices | None:
    """(N,) a number for each name; an image without one has a negative number of its own. None where none has one."""
    known = sorted({name for name in names if name})
    if not known:
        return None
    number_of = {name: number for number, name in enumerate(known)}
    return np.array([number_of.get(name, -1 - place) for place, name in enumerate(names)], dtype=np.int64)


def require_classes(where: str, count: int, *, called: str = "classes") -> None:
    """Raises ConfigError where a user's own images are of too few classes to be tested on some and folded."""
    if count < _FEWEST_CLASSES:
        raise ConfigError(
            f"data.root: {where} must hold at least {_FEWEST_CLASSES} {called} (test, and folds of the rest), "
            f"but holds {count}"
        )


def version_of(stamps: Mapping[str, tuple[int, int]]) -> str:
    """A digest of places and sizes, a dot, and one of places, sizes and times."""
    lasting, exact = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for place, (num_bytes, modified_ns) in stamps.items():
        lasting.update(f"{place}\0{num_bytes}\n".encode())
        exact.update(f"{place}\0{num_bytes}\0{modified_ns}\n".encode())
    return f"{lasting.hexdigest()}.{exact.hexdigest()}"
