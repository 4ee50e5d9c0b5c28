"""The laws of a table of images: what its rows must say, and the listing they make."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from raydml.config import ConfigError
from raydml.data.listing import ROLES, Encoded, Listed, Listing, listing_of, require_classes

_TRAIN, _TEST = "train", "test"
_NO_SPLIT = "validation classes are folds of the training classes (data.num_folds): write train"


class Row(NamedTuple):
    """One row of a table, as it was written."""

    place: str
    label: str
    split: str
    role: str
    group: str
    """Such as the camera; empty where the row has none."""
    number: int
    """Of the line or the row."""
    file: str = ""
    """Where it stands, relative to the folder of the tables."""


class Table(NamedTuple):
    """All rows, and which columns there are."""

    name: str
    rows: Sequence[Row]
    columns: Collection[str]
    where: Callable[[Row], str]
    """`line 7 of birds.csv`."""
    order: Mapping[str, int] | None = None
    """Where labels have another order than that of their names."""


def listing_of_table(encoded: Encoded, table: Table, *, version: str) -> Listing:
    """The listing of a table. Classes are sorted by name, those that train first.

    Rows that are equal count once. Raises ConfigError naming the first row that is not as it must be.
    """
    if not table.rows:
        raise ConfigError(f"data.root: {table.name} has no row")
    if "role" in table.columns and "split" not in table.columns:
        raise ConfigError(
            f"data.root: {table.name} has a column role but no column split: only images of test classes have a role"
        )
    for row in table.rows:
        _require_words(row, table)
    rows = without_copies(table)
    split_of = _split_of_classes(rows, table)
    require_classes(table.name, len(split_of))
    ranks = table.order or {}
    classes = sorted(split_of, key=lambda name: (split_of[name] == _TEST, ranks.get(name, 0), name))
    images = (Listed(row.place, row.label, ROLES[row.role], row.group) for row in rows)
    num_training = _num_training(split_of, table) if "split" in table.columns else None
    return listing_of(encoded, images, classes, version=version, num_training=num_training)


def _require_words(row: Row, table: Table) -> None:
    problem = ""
    if not row.place:
        problem = "path is empty"
    elif not row.label:
        problem = "label is empty: every image needs a class"
    elif row.role not in ROLES:
        problem = f"role must be query, gallery or empty, but got {row.role!r}"
    elif row.role and row.split != _TEST:
        problem = f"only test images have a role, but got role {row.role!r} with split {row.split!r}"
    elif "split" in table.columns and row.split not in (_TRAIN, _TEST):
        reason = f": {_NO_SPLIT}" if row.split in ("val", "valid", "validation", "trainval") else ""
        problem = f"split must be train or test, but got {row.split!r}{reason}"
    if problem:
        raise ConfigError(f"data.root: {table.where(row)}: {problem}")


def require_role(row: Row, table: Table) -> None:
    """Raises ConfigError for a row that names no image, or a role that nobody knows."""
    if not row.place:
        raise ConfigError(f"data.root: {table.where(row)}: path is empty")
    if row.role not in ROLES:
        raise ConfigError(f"data.root: {table.where(row)}: role must be query, gallery or empty, but got {row.role!r}")


def role_of(row: Row) -> int:
    """The role of a row that `require_role` accepts, as a listing has it."""
    return ROLES[row.role]


def without_copies(table: Table) -> list[Row]:
    """Rows without those that say again what another says: a copy of an image would find itself.

    Raises ConfigError for rows that say different things of one image.
    """
    first: dict[str, Row] = {}
    for row in table.rows:
        other = first.setdefault(row.place, row)
        if other[1:5] == row[1:5]:
            continue
        name, mine, its = next(
            (name, mine, its)
            for name, mine, its in zip(Row._fields[1:5], row[1:5], other[1:5], strict=True)
            if mine != its
        )
        raise ConfigError(
            f"data.root: {table.where(row)}: {row.place} has {name} {mine!r}, but {its!r} in {table.where(other)}"
        )
    return list(first.values())


def _split_of_classes(rows: Sequence[Row], table: Table) -> dict[str, str]:
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row.label, row)
        if other.split != row.split:
            raise ConfigError(
                f"data.root: class {row.label!r} is on both sides of the split: {other.split} in "
                f"{table.where(other)}, {row.split} in {table.where(row)}; test classes must be new to the model"
            )
    return {label: row.split for label, row in first.items()}


def _num_training(split_of: Mapping[str, str], table: Table) -> int:
    sides = list(split_of.values())
    for side in (_TRAIN, _TEST):
        if side not in sides:
            raise ConfigError(
                f"data.root: {table.name} has no row with split {side}; "
                "without a column split, data.test_fraction says how many classes test"
            )
    return sides.count(_TRAIN)
