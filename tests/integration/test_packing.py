"""A search on a cluster that has no machine yet: says what it waits for, asks for all at once, runs when they come."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.clusters import LocalCluster, cluster
from tests.integration.studies import trials_of, wait_for, write_study

# Tells Ray what an autoscaler may start, as a platform does that has one.
REPORT = """
import sys
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

groups = [
    NodeGroupConfig(name="large", max_count=2, resources={"CPU": 1}),
    NodeGroupConfig(name="odd", max_count=0, resources={"CPU": 64}),
]
GcsClient(sys.argv[1]).report_cluster_config(ClusterConfig(node_group_configs=groups).SerializeToString())
"""


@pytest.fixture
def here() -> Iterator[LocalCluster]:
    """A head without cores, and nothing else."""
    with cluster() as found:
        found.start_head("--include-dashboard=false")
        yield found


def text_of(path: Path, process: subprocess.Popen[bytes]) -> str:
    """What a process has written so far; fails the test where it has ended."""
    assert process.poll() is None, path.read_text("utf-8")
    return path.read_text("utf-8")


def test_a_search_waits_for_machines_and_says_so(here: LocalCluster, tmp_path: Path, cache: Path) -> None:
    study, out, err = write_study(tmp_path, cache), tmp_path / "out", tmp_path / "err"
    arguments = ("resources.cpus_per_worker=0.5", "search.num_trials=4", "training.num_epochs=2")
    with here.driver("tune", study, *arguments, out=out, err=err) as process:
        wait_for(lambda: "waits for a machine: the cluster has none yet but its head" in text_of(err, process))
        subprocess.run([sys.executable, "-c", REPORT, here.address], env=here.environment(), timeout=120, check=True)
        wait_for(lambda: "wait, each for 1 x (0.5 CPUs, 0 GPUs)" in text_of(out, process))
        # Machines for all four are asked for before any is there.
        assert len(re.findall(r"^trial +\d starts", out.read_text("utf-8"), re.M)) == 4
        here.join(1)
        assert process.wait(timeout=240) == 0, err.read_text("utf-8")
    text = out.read_text("utf-8")
    assert "0000, 0001, 0002 and 1 more wait, each for" in text
    assert "an autoscaler may have up to 2 large (1 CPUs, 0 GPUs)\n" in text
    assert text.index("nothing waits for machines any more") > text.index("wait, each for")
    assert [trial.state.is_finished() for trial in trials_of(tmp_path / "runs" / "small")] == [True] * 4
