"""The journal of a build: which blocks of images are on the disk, line by line, so that a killed build goes on."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raydml.data.pixel_file import Checksums


class FinishedBlock(NamedTuple):
    """What is known of the images of a block once they are decoded, in the block's order."""

    block: int
    checksums: Checksums
    """(n,) of the decoded rows."""
    digests: list[bytes]
    """Of the encoded images."""
    num_bytes: int
    """Of the encoded images together."""


class Journal:
    """Lines that are only ever appended. Whoever writes one has brought its pixels to the disk before."""

    def __init__(self, path: Path) -> None:
        """Reads what is there: `blocks`. A line that a crash tore, and all behind it, is as if it were not there."""
        self.blocks: dict[int, FinishedBlock] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        content, end = path.read_bytes(), 0
        for line in content.splitlines(keepends=True):
            found = _parsed(line)
            if found is None:
                break
            self.blocks[found.block] = found
            end += len(line)
        os.ftruncate(self._file, end)

    def append(self, finished: FinishedBlock) -> None:
        """Notes a block. Raises OSError."""
        line = _line(finished)
        written = os.write(self._file, line)
        if written < len(line):
            os.write(self._file, line[written:])
        self.blocks[finished.block] = finished

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)


def _line(finished: FinishedBlock) -> bytes:
    values = {
        "block": finished.block,
        "checksums": finished.checksums.tolist(),
        "digests": b"".join(finished.digests).hex(),
        "num_bytes": finished.num_bytes,
    }
    text = json.dumps(values).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> FinishedBlock | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    values = json.loads(text)
    checksums = np.array(values["checksums"], dtype=np.uint32)
    digests = bytes.fromhex(values["digests"])
    width = len(digests) // len(checksums)
    split = [digests[start : start + width] for start in range(0, len(digests), width)]
    return FinishedBlock(values["block"], checksums, split, values["num_bytes"])
