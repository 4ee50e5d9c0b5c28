"""Machines that share no disk lose their power while the storage fails: a bucket has all that is needed to go on."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from raydml.storage import RemoteFolder, below, snapshots_below
from tests.integration.buckets import Bucket
from tests.integration.clusters import LocalCluster, cluster, working_copy
from tests.integration.gates import Gate
from tests.integration.recounts import undisturbed
from tests.integration.studies import curves_of, trials_of, wait_for, write_study
from tests.integration.test_nodes import machine_of, submit

_EPOCHS = 12
_FINISHED = re.compile(r"/trials/(\d+)/checkpoint/meta\.json~(\w+)-\d+$")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Where each machine has a disk of its own, under the same name."""
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture
def here(bucket: Bucket, disk: Path) -> Iterator[LocalCluster]:
    """A head without cores and two machines of one core, of which none sees another's home, cache or images."""
    del bucket  # before the cluster, which takes over its credentials
    with cluster({"HOME": str(disk), "XDG_CACHE_HOME": str(disk / "cache")}) as found:
        found.start_head(before=own_disk(disk))
        found.join(1, 1, before=own_disk(disk))
        yield found


def own_disk(place: Path) -> list[str]:
    """Starts a command in a mount namespace of its own, with an empty disk in that place."""
    return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{place}" && exec "$@"', "sh"]


def finished(bucket: Bucket) -> dict[str, list[str]]:
    """Who stored the epochs of each trial, the first epoch first. A request that was sent twice counts once."""
    keys = dict.fromkeys(unquote(path) for verb, path in list(bucket.requests) if verb in ("PUT", "POST"))
    writers: dict[str, list[str]] = {}
    for found in filter(None, map(_FINISHED.search, keys)):
        writers.setdefault(found[1], []).append(found[2])
    return writers


def lose_one(here: LocalCluster, bucket: Bucket) -> str:
    """Kills the machine of a trial that is neither at its beginning nor near its end; the trial's name."""
    lost: list[str] = []

    def in_the_middle() -> bool:
        assert here.status("search") in ("PENDING", "RUNNING"), here.logs("search")
        for name, writers in finished(bucket).items():
            if 2 <= len(writers) <= _EPOCHS - 3 and (machine := machine_of(here, name)) is not None:
                machine.lose()
                lost.append(name)
                break
        return bool(lost)

    wait_for(in_the_middle, timeout=300)
    return lost[0]


def fetched(uri: str, folder: Path) -> Path:
    """What is stored of a study."""
    for run in ("", *snapshots_below(uri)):
        RemoteFolder(below(uri, run) if run else uri, folder / run, elsewhere=lambda path: "/" in path).pull()
    return folder


@pytest.mark.endurance
@pytest.mark.timeout(1200)
def test_a_lost_machine_and_a_storage_that_fails_twice_cost_one_epoch(
    here: LocalCluster, bucket: Bucket, gate: Gate, disk: Path, tmp_path: Path
) -> None:
    study = write_study(tmp_path, disk / "images")
    storage = bucket._replace(host=f"localhost:{gate.port}").uri("runs")
    # In the file: `ray job submit` does not quote an `&` for the shell that starts the job.
    study.write_text(study.read_text("utf-8").replace(str(tmp_path / "runs"), storage), "utf-8")
    working = working_copy(tmp_path, version="nodes")
    began = time.monotonic()
    submit(here, working, study, "search.num_trials=3", f"training.num_epochs={_EPOCHS}")
    wait_for(lambda: any(map(len, finished(bucket).values())), timeout=300)
    gate.shut_for("refuses", 30.0)
    lost = lose_one(here, bucket)
    gate.shut_for("hangs", 30.0)
    assert here.wait_for_end("search", timeout=600) == "SUCCEEDED", here.logs("search")
    took = time.monotonic() - began

    folder = fetched(bucket.uri("runs/small"), tmp_path / "here")
    assert {trial.state.name for trial in trials_of(folder)} == {"COMPLETE"}
    curves, writers = curves_of(folder), finished(bucket)
    assert [len(curve) for curve in curves.values()] == [_EPOCHS] * 3
    begun_twice = {name: len(set(found)) - 1 for name, found in writers.items()}
    again = {name: len(found) - _EPOCHS for name, found in writers.items()}
    print(f"{took:.0f} s; lost in the middle of {lost}; epochs begun twice {begun_twice}, stored twice {again}")
    assert {name for name, number in begun_twice.items() if number} == {lost}
    assert begun_twice[lost] == 1
    # It may have lost its machine between the last file of an epoch and the list that names it.
    assert all(number == 0 or (name == lost and number == 1) for name, number in again.items())
    assert not list(disk.iterdir()), "the machines had disks of their own"
    assert curves == undisturbed(folder, tmp_path / "undisturbed")
