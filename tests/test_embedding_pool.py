"""What an embedding actor answers, without a cluster: rows in order, what is unreadable, and failures as words."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import raydml
from raydml import checkpoint
from raydml.block_folder import Unreadable
from raydml.config import ConfigError, Resources
from raydml.data.found_images import FoundImages, find_images
from raydml.data.reading import EncodedImages, Reader
from raydml.embedding_pool import Block, Effort, EmbeddedBlock, _answered, _asked, _Embedder
from raydml.splits import Indices
from raydml.training import Run, RunSpec
from tests.conftest import changed, tiny_experiment
from tests.photographs import SIZE, make_photographs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees photographs in colour."""
    folder = tmp_path_factory.mktemp("run")
    root = make_photographs(folder / "images")
    data = {"kind": "folder", "root": str(root), "image_size": SIZE, "input_size": SIZE, "num_folds": 2}
    small = {"batch_size": 8, "samples_per_class": 2, "cache": str(folder / "cache")}
    training = Run(RunSpec(changed(tiny_experiment(folder), data=data | small), folder), device=torch.device("cpu"))
    training.advance()
    training.close()
    return folder


@pytest.fixture(scope="module")
def found(run: Path) -> FoundImages:
    """Its forty photographs, the sixth of which cannot be read."""
    (run / "images" / "class01" / "1.jpg").write_bytes(b"no")
    return find_images(str(run / "images"))


def actor(run: Path, images: object, *, batch_size: int = 3) -> _Embedder:
    assert isinstance(images, EncodedImages)
    effort = Effort("trained", batch_size, Resources(), verbose=False)
    [folder] = run.glob("**/checkpoint")
    return _Embedder(lambda: checkpoint.packed(folder), images, effort, 1)


def block(found: FoundImages, number: int, positions: Sequence[int]) -> Block:
    return Block(number, np.array(positions), [found.places[position] for position in positions])


def answer(embedder: _Embedder, asked: Block) -> EmbeddedBlock:
    [embedded] = _answered(embedder(_asked(asked)), 16)
    return embedded


def test_rows_are_the_models_in_their_order(run: Path, found: FoundImages) -> None:
    positions = [9, 3, 4, 5, 0]
    got = answer(actor(run, EncodedImages(found.encoded, SIZE)), block(found, 7, positions))
    assert got.number == 7
    assert got.positions.tolist() == [9, 3, 4, 0]
    assert got.unreadable == [Unreadable(5, f"{run}/images/class01/1.jpg is no readable image: it is text")]
    read = EncodedImages(found.encoded, SIZE).opened(torch.device("cpu"), input_size=SIZE, in_channels=3)
    kept = block(found, 0, [9, 3, 4, 0])
    pixels = read(kept.positions, kept.places).pixels.permute(0, 3, 1, 2)
    [folder] = run.glob("**/checkpoint")
    assert got.rows == pytest.approx(raydml.load(folder)(pixels).numpy(), abs=1e-6)


def test_a_batch_of_nothing_readable_is_no_row(run: Path, found: FoundImages) -> None:
    got = answer(actor(run, EncodedImages(found.encoded, SIZE), batch_size=1), block(found, 0, [5]))
    assert got.rows.shape == (0, 16)
    assert [image.position for image in got.unreadable] == [5]


def test_calls_at_a_time_give_what_one_after_another_gives(run: Path, found: FoundImages) -> None:
    embedder = actor(run, EncodedImages(found.encoded, SIZE))
    blocks = [block(found, number, range(number * 5, number * 5 + 5)) for number in range(8)]
    alone = [answer(embedder, asked) for asked in blocks]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(lambda asked: answer(embedder, asked), blocks), strict=True):
            assert np.array_equal(one.rows, other.rows)
            assert np.array_equal(one.positions, other.positions)


@dataclass(frozen=True)
class Gone(EncodedImages):
    """Images that are no longer what they were."""

    def opened(self, device: torch.device, *, input_size: int, in_channels: int) -> Reader:
        def read(positions: Indices, places: Sequence[str]) -> object:
            raise ConfigError("data.root: the images are gone")

        return read  # type: ignore[return-value]


def test_a_failure_comes_back_as_its_words(run: Path, found: FoundImages) -> None:
    embedder = actor(run, Gone(found.encoded, SIZE))
    with pytest.raises(ConfigError) as error:
        answer(embedder, block(found, 0, [1]))
    assert str(error.value) == "data.root: the images are gone"


def test_several_blocks_in_one_table_are_several_answers(run: Path, found: FoundImages) -> None:
    blocks = [block(found, number, [number]) for number in (4, 2)]
    table = pa.concat_tables([_asked(asked) for asked in blocks])
    got = list(_answered(actor(run, EncodedImages(found.encoded, SIZE))(table), 16))
    assert [(one.number, one.positions.tolist(), one.rows.shape) for one in got] == [
        (4, [4], (1, 16)),
        (2, [2], (1, 16)),
    ]
