"""What tests/benchmarks/input.py compares: photographs on a disk, the ways to load them, and CPU time of processes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from raydml.config import AugmentConfig, FolderConfig
from raydml.data.batches import Batch, training_batches
from raydml.data.building import decode_block
from raydml.data.decoding import Pixels
from raydml.data.listing import Listing
from raydml.data.opening import open_images
from raydml.data.pixels import PixelSource
from raydml.splits import Indices

WIDTH, HEIGHT = 500, 375
CACHED, SIZE, BATCH = 256, 224, 64
NUM_CLASSES = 10
RANDOM = AugmentConfig(smallest_crop=0.16, flip=0.5)


def write_photos(root: Path, count: int) -> float:
    """JPEGs of 500 x 375, smooth with some grain, in folders of classes; their mean size in KB."""
    generator, sizes = torch.Generator().manual_seed(0), []
    for number in range(count):
        coarse = torch.rand(1, 3, 24, 32, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")
        grain = 0.04 * torch.randn(1, 1, HEIGHT, WIDTH, generator=generator)
        pixels = ((smooth + grain).clamp(0, 1) * 255).byte()[0].permute(1, 2, 0).numpy()
        path = root / f"class{number * NUM_CLASSES // count:02d}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, format="JPEG", quality=90)
        path.write_bytes(encoded.getvalue())
        sizes.append(len(encoded.getvalue()) / 1e3)
    return float(np.mean(sizes))


def config_of(root: Path, cache: Path, *, size: int = SIZE) -> FolderConfig:
    """The folder of photographs, cached a seventh larger than the network sees them."""
    return FolderConfig(
        kind="folder", root=str(root), cache=str(cache), image_size=size * CACHED // SIZE, input_size=size, num_folds=2
    )


def random_view() -> Callable[[Image.Image], Tensor]:
    """What torchvision's users do with a PIL image: (3, 224, 224) uint8."""
    transform: Callable[[Image.Image], Tensor] = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(RANDOM.smallest_crop, 1.0)),
            v2.RandomHorizontalFlip(RANDOM.flip),
            v2.PILToTensor(),
        ]
    )
    return transform


class Files(Dataset[Tensor]):
    """JPEG files, opened by PIL and cropped at random."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths, self.view = paths, random_view()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        with Image.open(self.paths[place]) as image:
            return self.view(image.convert("RGB"))


class Gallery(Dataset[Tensor]):
    """As a pass over a gallery has them: decoded as the cache does, cut to the centre."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing

    def __len__(self) -> int:
        return len(self.listing.places)

    def __getitem__(self, place: int) -> Tensor:
        return torch.from_numpy(centres(decode_block(self.listing, CACHED, np.array([place])).pixels)[0])


def centres(pixels: Pixels) -> Pixels:
    """(n, 224, 224, 3)."""
    start = (CACHED - SIZE) // 2
    return np.ascontiguousarray(pixels[:, start : start + SIZE, start : start + SIZE])


def loader(dataset: Dataset[Tensor], workers: int) -> DataLoader[Tensor]:
    """Torch's, with persistent workers."""
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


@dataclass
class Ours:
    """Epochs of the cached photographs, as training has them."""

    config: FolderConfig
    threads: int
    epoch: int = 0

    def __post_init__(self) -> None:
        images = open_images(self.config, with_test=True)
        self.count, self.labels = len(images.labels), images.labels
        index = np.arange(self.count)
        self.source = PixelSource(images.images, index, device=torch.device("cpu"), input_size=self.config.input_size)

    def batches(self) -> Iterator[Batch]:
        """Every image once, in a random order."""
        self.epoch += 1
        order = np.random.default_rng(self.epoch).permutation(self.count).astype(np.int64)
        rows: list[Indices] = [order[start : start + BATCH] for start in range(0, self.count, BATCH)]
        options = {"augment": RANDOM, "seed": 0, "epoch": self.epoch, "rank": 0, "world_size": 1}
        return training_batches(self.source, self.labels, rows, threads=self.threads, **options)  # type: ignore[arg-type]

    def run(self) -> None:
        """One epoch; every batch has arrived as pixels."""
        for batch in self.batches():
            assert batch.images.shape[1:] == (3, self.config.input_size, self.config.input_size)


def tree_seconds() -> float:
    """CPU time so far of this process and all below it, those that ended included."""
    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
