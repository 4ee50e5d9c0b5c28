"""A search on a cluster that has no machine yet: says what it waits for, asks for all at once, runs when they come."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.studies import command, trials_of, wait_for, write_study


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of its own: a head without CPUs."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


def report_node_types(address: str, *kinds: tuple[str, int, dict[str, int]]) -> None:
    """Tells Ray what an autoscaler may start, as a platform does that has one."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    groups = [NodeGroupConfig(name=name, max_count=most, resources=resources) for name, most, resources in kinds]
    GcsClient(address).report_cluster_config(ClusterConfig(node_group_configs=groups).SerializeToString())


def text_of(path: Path, process: subprocess.Popen[bytes]) -> str:
    """What a process has written so far; fails the test where it has ended."""
    assert process.poll() is None, path.read_text("utf-8")
    return path.read_text("utf-8")


@pytest.mark.endurance
def test_a_search_waits_for_machines_and_says_so(tmp_path: Path, cache: Path, cluster: Any) -> None:  # noqa: ANN401
    study, out, err = write_study(tmp_path, cache), tmp_path / "out", tmp_path / "err"
    arguments = ("resources.cpus_per_worker=0.5", "search.num_trials=4", "training.num_epochs=2")
    with out.open("w") as to, err.open("w") as errors:
        process = subprocess.Popen(
            command("tune", study, *arguments),
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            stdout=to,
            stderr=errors,
        )
    try:
        wait_for(lambda: "waits for a machine: the cluster has none yet but its head" in text_of(err, process))
        report_node_types(cluster.address, ("large", 2, {"CPU": 1}), ("odd", 0, {"CPU": 64}))
        wait_for(lambda: "wait, each for 1 x (0.5 CPUs, 0 GPUs)" in text_of(out, process))
        # Machines for all four are asked for before any is there.
        assert len(re.findall(r"^trial +\d starts", out.read_text("utf-8"), re.M)) == 4
        cluster.add_node(num_cpus=1)
        assert process.wait(timeout=120) == 0, err.read_text("utf-8")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
    text = out.read_text("utf-8")
    assert "0000, 0001, 0002 and 1 more wait, each for" in text
    assert "an autoscaler may have up to 2 large (1 CPUs, 0 GPUs)\n" in text
    assert text.index("nothing waits for machines any more") > text.index("wait, each for")
    assert [trial.state.is_finished() for trial in trials_of(tmp_path / "runs" / "small")] == [True] * 4
