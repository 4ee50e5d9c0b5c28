"""`python -m raydml.data prepare`: Ray Data decodes what threads would, goes on after a kill, and names what is bad."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from raydml.capacity import Capacity
from raydml.config import ConfigError, FolderConfig
from raydml.data.building import decode_block, decode_in_threads
from raydml.data.catalog import list_photos
from raydml.data.opening import open_images
from raydml.prepare import decode_on_cluster, prepare
from tests.integration.studies import command, environment, wait_for
from tests.photographs import config_of, jpeg, photograph

NUM_CLASSES, PER_CLASS, SIZE = 10, 150, 64
DECODED = re.compile(r"decoded ([\d,]+) images in [\d.,]+ s: [\d.,]+ s until the first came, then [\d,]+ images/s")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 images: several blocks, whatever their size is."""
    root = tmp_path_factory.mktemp("photographs") / "images"
    few = [jpeg(photograph(seed, (300, 200))) for seed in range(20)]
    for label in range(NUM_CLASSES):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(PER_CLASS):
            # A comment makes every file another one without drawing it anew.
            name = f"{label} {number}".encode()
            comment = b"\xff\xfe" + (len(name) + 2).to_bytes(2, "big") + name
            image = few[(label * PER_CLASS + number) % len(few)]
            (root / f"class{label}" / f"{number:03}.jpg").write_bytes(image[:2] + comment + image[2:])
    return root


def config_at(root: Path, cache: Path) -> FolderConfig:
    return config_of(root, image_size=SIZE, input_size=SIZE, cache=str(cache))


def run_data(action: str, root: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command("data", action, root, f"cache={cache}", f"image_size={SIZE}", f"input_size={SIZE}")],
        env=environment() | {"XDG_CACHE_HOME": str(cache.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.usefixtures("ray_here")
def test_ray_decodes_what_threads_decode(root: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    done = prepare(
        config_at(root, tmp_path / "ray"), progress=lambda count, total: told.append((count, total)), verbose=True
    )
    by_threads = open_images(config_at(root, tmp_path / "threads"), with_test=True)
    assert done.num_decoded == NUM_CLASSES * PER_CLASS
    assert (told[0], told[-1]) == ((0, done.num_decoded), (done.num_decoded, done.num_decoded))
    assert done.images.fingerprint == by_threads.fingerprint
    assert done.images.sources == by_threads.sources
    assert np.array_equal(done.images.labels, by_threads.labels)
    assert np.array_equal(done.images.images, by_threads.images)
    assert (done.entry.name, done.entry.parent) == (by_threads.fingerprint, tmp_path / "ray")
    assert done.num_bytes == sum(path.stat().st_size for path in done.entry.iterdir())
    assert 0 < done.start_s <= done.seconds
    again = prepare(config_at(root, tmp_path / "ray"))
    assert (again.num_decoded, again.entry, again.images.fingerprint) == (0, done.entry, done.images.fingerprint)


@pytest.mark.usefixtures("ray_here")
def test_blocks_of_any_size_come_back_as_they_were_asked_for(root: Path, tmp_path: Path) -> None:
    listing = list_photos(config_at(root, tmp_path))
    positions = np.random.default_rng(0).permutation(200)
    blocks = np.split(positions, [1, 90, 93])
    found = list(decode_on_cluster(listing, SIZE, blocks, Capacity(2.0, 0.0)))
    assert sorted(tuple(block.positions) for block in found) == sorted(map(tuple, blocks))
    for block in found:
        oracle = decode_block(listing, SIZE, block.positions)
        assert np.array_equal(block.pixels, oracle.pixels)
        assert block.digests == oracle.digests
        assert block[3:] == oracle[3:]


@pytest.mark.usefixtures("ray_here")
def test_a_killed_worker_loses_nothing(root: Path, tmp_path: Path) -> None:
    """Kills every process that decodes after the first block came, once."""
    listing = list_photos(config_at(root, tmp_path))
    blocks = np.array_split(np.arange(len(listing.places)), 30)
    found, killed = [], 0
    for block in decode_on_cluster(listing, SIZE, blocks, Capacity(2.0, 0.0)):
        found.append(np.array(block.positions))
        if not killed:
            workers = [p for p in psutil.process_iter(["name", "cmdline"]) if is_decoding(p)]
            killed = len(workers)
            for worker in workers:
                worker.kill()
    assert killed
    assert sorted(np.concatenate(found).tolist()) == list(range(len(listing.places)))


def is_decoding(process: psutil.Process) -> bool:
    """A Ray task shows its name as that of its process; only children of this process's Ray count."""
    name = " ".join(process.info["cmdline"] or [])
    ours = {child.pid for child in psutil.Process().children(recursive=True)}
    return name.startswith("ray::") and "decode_rows" in name and process.pid in ours


@pytest.mark.usefixtures("ray_here")
def test_an_unreadable_image_is_named_in_one_line(root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "images"
    shutil.copytree(root, bad)
    (bad / "class3" / "007.jpg").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"class3/007\.jpg") as error:
        prepare(config_at(bad, tmp_path / "cache"))
    with pytest.raises(ConfigError) as by_threads:
        list(decode_in_threads(list_photos(config_at(bad, tmp_path)), SIZE, [np.arange(NUM_CLASSES * PER_CLASS)]))
    assert str(error.value) == str(by_threads.value)


def test_prepare_is_killed_goes_on_and_is_done(root: Path, tmp_path: Path) -> None:
    """kill -9 in the middle, then the rest, then nothing, each by the command."""
    cache = tmp_path / "cache"
    large = tmp_path / "images"
    shutil.copytree(root, large)
    arguments = [large, f"cache={cache}", f"image_size={SIZE}", f"input_size={SIZE}"]
    process = subprocess.Popen(
        command("data", "prepare", *arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: journaled(cache) > 0 or process.poll() is not None)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        process.wait()
        for child in children:
            if child.is_running():
                child.kill()
    finished_before = process.returncode != -signal.SIGKILL
    done = run_data("prepare", large, cache)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if not finished_before and (match := DECODED.search(done.stdout)):
        assert 0 < int(match[1].replace(",", "")) < NUM_CLASSES * PER_CLASS, "what was on the disk is not decoded again"
    assert f"{NUM_CLASSES * PER_CLASS:,} images of {NUM_CLASSES} classes" in done.stdout
    assert f"  next: python -m raydml.tune search_spaces/margin.yaml data.kind=folder data.root={large} " in done.stdout
    entry = re.search(rf"cache: ({re.escape(str(cache))}/\w+): ", done.stdout)
    assert entry is not None
    prepared = open_images(config_at(large, cache), with_test=True)
    assert Path(entry[1]).name == prepared.fingerprint
    oracle = open_images(config_at(large, tmp_path / "threads"), with_test=True)
    assert np.array_equal(prepared.images, oracle.images)
    before = time.process_time(), psutil.cpu_times()
    again = run_data("prepare", large, cache)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("already there\n")
    assert before


def journaled(cache: Path) -> int:
    """Blocks that an interrupted preparation will not decode again."""
    return sum(len(path.read_bytes().splitlines()) for path in cache.glob("*/*.jsonl"))


def test_the_picture_of_the_tests_is_a_photograph(root: Path) -> None:
    """Comments leave the pixels alone, and all files differ."""
    first, second = root / "class0" / "000.jpg", root / "class0" / "020.jpg"
    assert first.read_bytes() != second.read_bytes()
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))
