"""Small data sets of one colour an image, as a table of paths and as a table of bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
from PIL import Image

from raydml.config import CsvConfig, ParquetConfig

SIZE = 16


class Picture(NamedTuple):
    """One image of a table."""

    path: str
    label: str

    @property
    def colour(self) -> tuple[int, int, int]:
        """Another one for every image."""
        number = int(self.path[-5])
        return 20 * int(self.label[-1]), 60, 80 * number

    def png(self) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (24, 20), self.colour).save(stream, "png")
        return stream.getvalue()


def pictures(num_classes: int = 10) -> list[Picture]:
    """Three of each class, those of a class apart from each other."""
    return [Picture(f"images/c{c}/{n}.png", f"c{c}") for n in range(3) for c in range(num_classes)]


def write_images(folder: Path, images: Sequence[Picture]) -> None:
    for image in images:
        (folder / image.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / image.path).write_bytes(image.png())


def write_csv(path: Path, header: str, rows: Sequence[Sequence[str]]) -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def table_of(images: Sequence[Picture]) -> pa.Table:
    return pa.table({"image": [image.png() for image in images], "label": [image.label for image in images]})


def _write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "rows.parquet": lambda table, path: pq.write_table(table, path, row_group_size=7),
    "rows.feather": lambda table, path: feather.write_feather(table, path, chunksize=7),
    "rows.arrow": lambda table, path: feather.write_feather(table, path, compression="uncompressed", chunksize=7),
    "rows.ipc": _write_stream,
}


def csv_config(root: Path | str, **fields: object) -> CsvConfig:
    raw = {"kind": "csv", "root": str(root), "image_size": SIZE, "input_size": SIZE, "num_folds": 2}
    return CsvConfig.model_validate(raw | fields)


def parquet_config(root: Path | str, **fields: object) -> ParquetConfig:
    raw = {"kind": "parquet", "root": str(root), "image_size": SIZE, "input_size": SIZE, "num_folds": 2}
    return ParquetConfig.model_validate(raw | fields)


def colour_of(pixels: np.ndarray) -> tuple[int, ...]:
    """That of an image of one colour."""
    assert (pixels == pixels[0, 0]).all()
    return tuple(pixels[0, 0].tolist())
