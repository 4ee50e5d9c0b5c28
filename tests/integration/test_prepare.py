"""`python -m raydml.data prepare`: Ray Data decodes what threads would, goes on after a kill, and names what is bad."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from raydml.capacity import Capacity
from raydml.config import ConfigError, FolderConfig
from raydml.data.building import decode_block, decode_in_threads
from raydml.data.catalog import list_photos
from raydml.data.decoding import decode_image
from raydml.data.opening import open_images
from raydml.prepare import PreparationFailedError, decode_on_cluster, prepare
from tests.integration.studies import command, environment, run, run_here, wait_for
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
    found = list(decode_on_cluster(listing, SIZE, blocks, Capacity.single(2.0, 0.0)))
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
    for block in decode_on_cluster(listing, SIZE, blocks, Capacity.single(2.0, 0.0)):
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


@pytest.mark.endurance
@pytest.mark.usefixtures("ray_here")
def test_images_that_kill_every_worker_end_the_preparation(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydml.prepare._RETRIES", 1)
    monkeypatch.setattr("raydml.prepare._decode_rows", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(PreparationFailedError, match=r"^workers were lost again and again, the last time: "):
        prepare(config_at(root, tmp_path))


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
    """kill -9 in the middle, then the rest, then nothing, each by the command. Large pixels: blocks of 85 images."""
    cache, few, size = tmp_path / "cache", tmp_path / "images", 512
    for path in sorted(root.glob("*/0[0-2]?.jpg")):
        (few / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, few / path.parent.name)
    arguments = ["prepare", few, f"cache={cache}", f"image_size={size}", "num_folds=2"]
    process = subprocess.Popen(command("data", *arguments), env=environment(), stdout=subprocess.DEVNULL)
    wait_for(lambda: bool(journaled(cache)) or process.poll() is not None)
    kill(process)
    before = journaled(cache)
    assert process.returncode == -signal.SIGKILL
    assert 0 < before < 300, "killed in the middle"

    done = run("data", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    match = DECODED.search(done.stdout)
    assert match is not None
    assert int(match[1]) == 300 - before, "what was on the disk is not decoded again"
    assert f"300 images of {NUM_CLASSES} classes" in done.stdout
    assert f"  next: python -m raydml.tune search_spaces/margin.yaml data.kind=folder data.root={few} " in done.stdout
    prepared = open_images(config_of(few, image_size=size, cache=str(cache)), with_test=True)
    assert f"cache: {cache / prepared.fingerprint}: " in done.stdout
    for row in range(0, 300, 13):
        oracle = decode_image((few / prepared.sources[row]).read_bytes(), size)
        assert np.array_equal(prepared.images[row], oracle)

    again = run_here("data", *arguments)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("already there\n")


def kill(process: subprocess.Popen[bytes]) -> None:
    """As a machine's end would: nothing of it gets a last word, and nothing goes on while the rest is looked for."""
    process.send_signal(signal.SIGSTOP)
    processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def journaled(cache: Path) -> int:
    """Images that an interrupted preparation will not decode again."""
    lines = [line for path in cache.glob("builds/*/journal.jsonl") for line in path.read_text("utf-8").splitlines()]
    return sum(len(json.loads(line.partition(" ")[2])["checksums"]) for line in lines)


def test_the_picture_of_the_tests_is_a_photograph(root: Path) -> None:
    """Comments leave the pixels alone, and all files differ."""
    first, second = root / "class0" / "000.jpg", root / "class0" / "020.jpg"
    assert first.read_bytes() != second.read_bytes()
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(second)))
