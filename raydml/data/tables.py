"""Your own images, listed in a CSV file, or in Parquet and Arrow files that may hold the images themselves."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa

from raydml.config import ConfigError, CsvConfig, ParquetConfig
from raydml.config.places import refused_credentials
from raydml.data.arrow_images import ARROW, IMAGE, PARQUET, ArrowRows, ImageRows, ParquetRows, is_images, open_rows
from raydml.data.files import Files, Stamp
from raydml.data.listing import Listing, MissingImagesError, version_of
from raydml.data.places import Places, place_of
from raydml.data.rows import Row, Table, listing_of_table

_PATH, _LABEL, _SPLIT, _ROLE, _GROUP = "path", "label", "split", "role", "group"
_MORE = (_LABEL, _SPLIT, _ROLE, _GROUP)
_COLUMNS = (_PATH, *_MORE)


class Described(NamedTuple):
    """What tables say of images, before any law but that of their form."""

    table: Table
    encoded: Places | ImageRows
    """The files that the rows name, or the rows themselves."""
    stamps: dict[str, Stamp]
    """Of the tables."""


def list_csv(config: CsvConfig) -> Listing:
    """The images that a CSV file names. Raises ConfigError with the line where it is not as it must be."""
    return _listing_of(read_csv(config, needed=(_PATH, _LABEL)))


def list_parquet(config: ParquetConfig) -> Listing:
    """The images that Parquet and Arrow files hold or name. Raises ConfigError where they are not as they must be."""
    return _listing_of(read_parquet(config, needed=(_PATH, _LABEL)))


def read_csv(config: CsvConfig, *, needed: Sequence[str] = (_PATH,)) -> Described:
    """The rows of a CSV file with these columns. Raises ConfigError with the line that is no such row."""
    file = Files(config.root)
    stamp = file.stamp()
    lines = _records(file)
    columns = _header(next(lines, (0, []))[1], file, needed)
    at = {name: columns.index(name) for name in _COLUMNS if name in columns}
    rows = []
    for number, cells in lines:
        label, split, role, group = (cells[at[name]].strip() if name in at else "" for name in _MORE)
        rows.append(Row(_relative(cells[at[_PATH]]), label, split, role, group, number))
    table = Table(file.named(), rows, at, lambda row: f"line {row.number} of {file.named()}")
    folder, name = file.folder_and_name()
    return Described(table, Places(_images(config.images, folder), table=folder), {name: stamp})


def _relative(path: str) -> str:
    return place_of(path) if path else ""


def _records(file: Files) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line and cells of each record, the header first."""
    reader = csv.reader(io.StringIO(file.text(), newline=""), strict=True)
    width, line = 0, 1
    try:
        for record in reader:
            width = width or len(record)
            if len(record) not in (0, width):
                raise ConfigError(
                    f"data.root: line {line} of {file.named()} has {len(record)} cells where the header has "
                    f"{width}: quote cells that hold a comma"
                )
            if record:
                yield line, record
            line = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"data.root: line {line} of {file.named()} is no CSV: {error}") from None


def _header(record: Sequence[str], file: Files, needed: Sequence[str]) -> list[str]:
    columns = [name.strip() for name in record]
    if not columns:
        raise ConfigError(f"data.root: {file.named()} is empty: its first line names the columns, {','.join(needed)}")
    for name in _COLUMNS:
        if columns.count(name) > 1:
            raise ConfigError(f"data.root: {file.named()} has two columns {name}")
    _require_columns(file.named(), columns, needed)
    return columns


def _require_columns(name: str, columns: Sequence[str], needed: Sequence[str]) -> None:
    for column in needed:
        if column not in columns:
            hint = "; commas must separate them" if len(columns) == 1 and re.search("[;\t|]", columns[0]) else ""
            raise ConfigError(f"data.root: {name} has no column {column}, but {', '.join(columns)}{hint}")


def _images(images: str | None, folder: Files) -> Files:
    return folder if images is None else Files(images, field="data.images")


def _listing_of(found: Described) -> Listing:
    table, encoded, stamps = found
    if isinstance(encoded, ImageRows):
        return listing_of_table(encoded, table, version=version_of(stamps))
    version, missing = looked_up(found)
    if missing:
        absent = {row.place for row in missing}
        there = table._replace(rows=[row for row in table.rows if row.place not in absent])
        about = about_missing(found, missing)
        try:
            others = listing_of_table(encoded, there, version=version)
        except ConfigError:
            # What is wrong with the others may come of those that are missing.
            raise ConfigError(about) from None
        raise MissingImagesError(about, [row.place for row in missing], others)
    return listing_of_table(encoded, table, version=version)


def looked_up(found: Described) -> tuple[str, list[Row]]:
    """The version of a table and the files it names, and the rows whose files are not there.

    Raises ConfigError for a URI with credentials, and for what a table may not name.
    """
    table, places, stamps = found
    if isinstance(places, ImageRows):
        return version_of(stamps), []
    _require_lawful(table, places)
    there = places.stamps(row.place for row in table.rows if row.place)
    # Labels stand in the tables: another table is another version.
    version = version_of(stamps | {place: there[place] for place in sorted(there)})
    return version, [row for row in table.rows if row.place and row.place not in there]


def about_missing(found: Described, missing: Sequence[Row]) -> str:
    """How many files are not there, and which is the first."""
    table, places, _ = found
    assert isinstance(places, Places), "rows that hold their images miss none"
    return (
        f"{places.field}: {len(missing)} of {len(table.rows)} images are not there, the first in "
        f"{table.where(missing[0])}: {places.named(missing[0].place)}"
    )


def _require_lawful(table: Table, places: Places) -> None:
    for row in table.rows:
        # They would be copied into the index of the cache, and into results.
        if (refused := refused_credentials(row.place) or places.refused(row.place)) is not None:
            raise ConfigError(f"data.root: path in {table.where(row)} {refused}")


def read_parquet(config: ParquetConfig, *, needed: Sequence[str] = (_PATH,)) -> Described:
    """The rows of Parquet and Arrow files with these columns, or with images. Raises ConfigError naming the file."""
    root, stamps = _tables(config.root)
    parts = [_part(root, path, config, needed) for path in stamps]
    first = parts[0]
    for part in parts:
        if part.columns.keys() != first.columns.keys() or part.numbered != first.numbered:
            raise ConfigError(
                f"data.root: {root.named(part.path)} has the columns {part.said()}, "
                f"but {root.named(first.path)} has {first.said()}"
            )
    rows = [row for part in parts for row in part.rows()]
    table = Table(
        root.named() if len(parts) > 1 else root.named(first.path),
        rows,
        first.columns,
        lambda row: f"row {row.number} of {root.named(row.file)}",
        {row.label: int(row.label) for row in rows if row.label} if first.numbered else None,
    )
    if IMAGE not in first.columns:
        return Described(table, Places(_images(config.images, root), table=root), stamps)
    return Described(table, ImageRows(root, {part.path: part.starts for part in parts}), stamps)


def _tables(root: str) -> tuple[Files, dict[str, Stamp]]:
    """The folder of the tables, and their names in order with their stamps."""
    files = Files(root)
    if files.kind() == "file":
        folder, name = files.folder_and_name()
        stamps = {name: files.stamp()}
    else:
        folder, stamps = files, files.listed()
    tables = {path: stamp for path, stamp in stamps.items() if PurePosixPath(path).suffix.lower() in PARQUET | ARROW}
    if not tables:
        raise ConfigError(f"data.root: {files.named()} must be or hold files {', '.join(sorted(PARQUET | ARROW))}")
    return folder, tables


class _Part(NamedTuple):
    """What one file says, without its images."""

    path: str
    columns: dict[str, list[str]]
    """Cells of each column that is used, `image` without any."""
    starts: tuple[int, ...]
    numbered: bool
    """Whether labels are numbers."""
    num_rows: int

    def said(self) -> str:
        labels = f" with labels that are {'numbers' if self.numbered else 'words'}" if _LABEL in self.columns else ""
        return f"{', '.join(self.columns)}{labels}"

    def rows(self) -> Iterator[Row]:
        empty = [""] * self.num_rows
        said_of = [self.columns.get(name, empty) for name in _MORE]
        if IMAGE in self.columns:
            places = [f"{self.path}#{number}" for number in range(self.num_rows)]
        else:
            places = [_relative(path) for path in self.columns[_PATH]]
        for number, (place, *said) in enumerate(zip(places, *said_of, strict=True)):
            label, split, role, group = said
            yield Row(place, label, split, role, group, number, self.path)


def _part(root: Files, path: str, config: ParquetConfig, needed: Sequence[str]) -> _Part:
    name = root.named(path)
    try:
        file = open_rows(root, path)
        schema = file.schema
        holds_images = IMAGE in schema.names
        if holds_images:
            _require_images(file, name, config)
        _require_columns(name, schema.names, [column for column in needed if not (holds_images and column == _PATH)])
        used = [column for column in _COLUMNS if column in schema.names and not (holds_images and column == _PATH)]
        cells, starts = file.read(used)
        columns = {column: _words(cells.column(column), column, name) for column in used if column != _LABEL}
        labelled = _LABEL in schema.names
        labels, numbered = _labels(cells.column(_LABEL), schema, name) if labelled else ([], False)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"data.root: {name} cannot be read: {' '.join(str(error).split())}") from None
    known = ({_LABEL: labels} if labelled else {}) | columns | ({IMAGE: []} if holds_images else {})
    return _Part(path, known, starts, numbered, cells.num_rows if used else file.num_rows)


def _require_images(file: ParquetRows | ArrowRows, name: str, config: ParquetConfig) -> None:
    kind = file.schema.field(IMAGE).type
    if not is_images(kind):
        raise ConfigError(
            f"data.root: column image of {name} must hold encoded images (binary, or a struct of bytes and path as "
            f"Hugging Face writes it), but is {kind}"
        )
    slow = file.slow_rows() if config.decode == "always" else None
    if slow:
        raise ConfigError(
            f"data.decode: always reads images in random order, but {slow}: {name}; "
            "use decode=once, or an uncompressed Arrow file on a local disk"
        )


def _words(column: pa.ChunkedArray, called: str, name: str) -> list[str]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if called == _GROUP and pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_kind(column.type) for is_kind in kinds):
        raise ConfigError(f"data.root: column {called} of {name} must hold strings, but is {column.type}")
    return [(word or "") if called == _PATH else (word or "").strip() for word in column.to_pylist()]


def _labels(column: pa.ChunkedArray, schema: pa.Schema, name: str) -> tuple[list[str], bool]:
    """The name of each row's class, and whether names are numbers."""
    if not pa.types.is_integer(column.type):
        return _words(column, _LABEL, name), False
    names = _class_names(schema)
    numbers = column.to_pylist()
    if names is None:
        return ["" if number is None else str(number) for number in numbers], True
    for row, number in enumerate(numbers):
        if number is not None and not 0 <= number < len(names):
            raise ConfigError(f"data.root: row {row} of {name} has label {number}, but there are {len(names)} classes")
    return ["" if number is None else names[number] for number in numbers], False


def _class_names(schema: pa.Schema) -> list[str] | None:
    """Names of integer labels, as Hugging Face writes them beside the columns; None where there are none."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][_LABEL]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
