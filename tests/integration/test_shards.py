"""A gallery on several actors: the numbers of one process, bit for bit, also where an actor is killed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from raydml import sharded
from raydml.capacity import Worker
from raydml.config import Resources, wanted_metrics
from raydml.data.building import Progress
from raydml.data.listing import GALLERY
from raydml.per_query import QueryMetrics
from raydml.retrieval import EveryOther, protocol_metrics, protocol_of_roles
from raydml.session import capacity_ahead, import_ray
from raydml.shard_actor import ShardActor
from raydml.sharded import CountingFailedError, count_sharded
from raydml.shards import read_columns
from raydml.stored import Stored, open_stored
from tests.integration.conftest import FinishedSearch
from tests.integration.processes import signal_to
from tests.integration.studies import run_here, wait_for
from tests.shard_cases import mixed_roles, plain_rows, tied_rows, write_parts
from tests.test_shard_counts import require_equal

pytestmark = pytest.mark.usefixtures("ray_here", "small_blocks")
WANTED = wanted_metrics((1, 2, 4, 1000), ("map", "mrr", "map@3"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no actor of an earlier test, which would be killed for one of this."""
    monkeypatch.setattr("raydml.shards._MOST_QUERIES", 37)
    wait_for(lambda: not shard_actors())


def counted(root: Path, num_shards: int, *, cpus: float = 0.5, progress: Progress | None = None) -> QueryMetrics:
    stored = open_stored(root)
    resources = Resources(cpus_per_worker=cpus, gpus_per_worker=0)
    return count_sharded(stored, read_columns(stored), WANTED, num_shards, resources, progress=progress)


def shard_actors() -> list[psutil.Process]:
    """Of the Ray that this process started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ShardActor" in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill_another(killed: list[int]) -> None:
    """Kills an actor as soon as there is one that was not killed, and notes it."""
    found: list[int] = []

    def seen() -> bool:
        found.extend(actor.pid for actor in shard_actors() if actor.pid not in killed)
        return bool(found)

    wait_for(seen)
    killed.append(found[0])
    os.kill(found[0], signal.SIGKILL)


def test_more_shards_than_actors_find_what_one_process_finds(tmp_path: Path) -> None:
    rows, labels = tied_rows(307)
    roles = mixed_roles(307)
    root = write_parts(tmp_path, rows, labels, roles, cuts=(90, 190))
    unit = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
    told: list[tuple[int, int]] = []
    capacity = capacity_ahead()
    assert capacity is not None
    cpus = capacity.cpus / 2
    found = counted(root, 7, cpus=cpus, progress=lambda done, total: told.append((done, total)))
    require_equal(found, protocol_metrics(protocol_of_roles(roles, "x"), unit, labels, wanted=WANTED))
    assert told == sorted(told)
    assert told[-1] == (int((roles != GALLERY).sum()),) * 2
    wait_for(lambda: not shard_actors())


def test_actors_that_are_killed_change_nothing(tmp_path: Path) -> None:
    """The first two at once, as with the machine that holds them."""
    rows, labels = plain_rows(307)
    root = write_parts(tmp_path, rows, labels)
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        if not killed and done > total / 4:
            kill_another(killed)
            kill_another(killed)
        elif len(killed) == 2 and any(actor.pid not in killed for actor in shard_actors()):
            kill_another(killed)

    found = counted(root, 2, progress=kill_one)
    assert len(set(killed)) == 3
    unit = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
    require_equal(found, protocol_metrics(EveryOther(), unit, labels, wanted=WANTED))


def test_an_actor_that_is_killed_while_it_starts_changes_nothing(tmp_path: Path) -> None:
    rows, labels = plain_rows(307)
    root = write_parts(tmp_path, rows, labels)
    killed: list[int] = []

    # The next one imports torch for a while before it answers for the first time.
    watcher = threading.Thread(target=kill_another, args=(killed,))

    def kill_the_only_one(done: int, total: int) -> None:
        if not killed:
            kill_another(killed)
            watcher.start()

    found = counted(root, 1, progress=kill_the_only_one)
    watcher.join()
    assert len(set(killed)) == 2
    unit = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
    require_equal(found, protocol_metrics(EveryOther(), unit, labels, wanted=WANTED))


def test_an_actor_is_not_missed_where_no_machine_comes_for_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, labels = plain_rows(307)
    root = write_parts(tmp_path, rows, labels)
    made, killed = list[Worker](), list[int]()
    new_actor = sharded._new_actor

    def two(stored: Stored, worker: Worker, num_bytes: int) -> object:
        made.append(worker)
        if len(made) <= 2:
            return new_actor(stored, worker, num_bytes)
        return import_ray().remote(ShardActor).options(resources={"absent": 1}).remote(stored, 1)

    def kill_one_near_the_end(done: int, total: int) -> None:
        if not killed and done > total * 3 / 4:
            killed.append(shard_actors()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(sharded, "_new_actor", two)
    found = counted(root, 2, progress=kill_one_near_the_end)
    assert len(killed) == 1
    unit = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)
    require_equal(found, protocol_metrics(EveryOther(), unit, labels, wanted=WANTED))


def test_a_row_that_is_not_finite_is_named_by_the_command(tmp_path: Path) -> None:
    """What an actor finds reaches the user as one line."""
    rows, labels = plain_rows(307)
    rows[200, 3] = torch.nan
    process = run_here("evaluate", write_parts(tmp_path / "x", rows, labels), "shards=2", f"storage={tmp_path}")
    assert process.returncode == 2, process.stderr
    [line] = process.stderr.strip().splitlines()
    assert "part-000000.parquet: embeddings must be finite" in line
    assert "rows 200 (" in line


def test_a_folder_of_embeddings_gives_the_same_files_with_shards_and_without(tmp_path: Path) -> None:
    rows, labels = plain_rows(307)
    root = write_parts(tmp_path / "embeddings", rows, labels, cuts=(90,))
    contents = []
    for shards in ([], ["shards=2"]):
        process = run_here("evaluate", root, f"storage={tmp_path}", "metrics=[map, mrr]", *shards)
        assert process.returncode == 0, process.stderr
        [folder] = tmp_path.glob("evaluations/embeddings-*")
        # An event file tells the time.
        files = [path for path in folder.iterdir() if not path.name.startswith("events.")]
        contents.append({path.name: path.read_bytes() for path in files})
        assert {"metrics.json", "per_class.csv", "protocol.json"} <= contents[-1].keys()
        shutil.rmtree(folder)
    assert contents[0] == contents[1]


def test_a_run_gives_the_same_numbers_with_shards(tmp_path: Path, finished: FinishedSearch) -> None:
    folders = []
    for shards in ([], ["shards=3"]):
        process = run_here("evaluate", finished.folder / "best.yaml", *shards)
        assert process.returncode == 0, process.stderr
        [folder] = finished.folder.glob("trials/*/evaluation/val")
        folders.append({name: (folder / name).read_bytes() for name in ("metrics.json", "per_class.csv")})
    assert folders[0] == folders[1]


def test_a_shard_that_loses_its_actor_again_and_again_ends_the_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydml.sharded._LIVES", 1)
    root = write_parts(tmp_path, *plain_rows(307))

    def kill(done: int, total: int) -> None:
        for actor in shard_actors():
            signal_to(actor, "kill")

    with pytest.raises(CountingFailedError, match=r"^an actor.* was lost 1 times, the last time: "):
        counted(root, 1, progress=kill)
    wait_for(lambda: not shard_actors())
