"""What an autoscaler may start, from the configurations that clusters are described by; Ray's own readers of them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.core.generated.autoscaler_pb2 import AutoscalingState, ClusterConfig, FailedInstanceRequest, NodeGroupConfig

from raydml import autoscaler
from raydml.capacity import Machine, NodeType

LAUNCHER = {
    "max_workers": 6,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}},
        "spot": {"resources": {"CPU": 8, "GPU": 1, "memory": 30 * 10**9}, "min_workers": 0, "max_workers": 4},
        "on_demand": {"resources": {"CPU": 8, "GPU": 1}},
        "never": {"resources": {"CPU": 64}, "max_workers": 0},
    },
}


def test_a_launchers_file_has_node_types_with_their_most() -> None:
    assert autoscaler.of_config(LAUNCHER) == (
        (NodeType("spot", Machine(8, 1, 30e9), 4), NodeType("on_demand", Machine(8, 1), 6)),
        6.0,
    )


def test_a_head_type_that_may_have_workers_is_one_too() -> None:
    kinds = {"head": {"resources": {"CPU": 4}, "max_workers": 2}}
    found = autoscaler.of_config({"max_workers": 2, "head_node_type": "head", "available_node_types": kinds})
    assert found.node_types == (NodeType("head", Machine(4, 0), 2),)
    assert autoscaler.of_config({}) == autoscaler.NONE


def test_what_a_file_leaves_out_is_no_limit_and_no_resource() -> None:
    kinds = {"cpu": {"resources": {"CPU": 4}}, "bare": {"resources": None}}
    found = autoscaler.of_config({"available_node_types": kinds})
    assert [(kind.name, kind.machine, kind.most) for kind in found.node_types] == [
        ("cpu", Machine(4, 0), 10**6),
        ("bare", Machine(0, 0), 10**6),
    ]
    assert found.most_workers == math.inf


def custom_resource(*, scaled: bool) -> dict[str, object]:
    """A RayCluster as Kubernetes gives it: containers with limits."""

    def template(**limits: str) -> dict[str, object]:
        return {"spec": {"containers": [{"name": "ray", "resources": {"limits": limits, "requests": limits}}]}}

    head = {"rayStartParams": {"num-cpus": "0"}, "template": template(cpu="2", memory="8Gi")}
    gpu = {
        "groupName": "gpu",
        "minReplicas": 0,
        "maxReplicas": 5,
        "rayStartParams": {},
        "template": template(cpu="7", memory="28Gi", **{"nvidia.com/gpu": "1"}),
    }
    spec = {"headGroupSpec": head, "workerGroupSpecs": [gpu], "enableInTreeAutoscaling": scaled}
    return {"metadata": {"name": "dml", "namespace": "ml"}, "spec": spec}


def test_kuberays_custom_resource_says_what_its_groups_may_have() -> None:
    config = autoscaler.of_custom_resource(autoscaling_config, custom_resource(scaled=True))
    assert config is not None
    growth = autoscaler.of_config(config)
    assert growth.node_types == (NodeType("gpu", Machine(7, 1, 28 * 2**30), 5),)
    assert growth.most_workers == 5


def test_a_custom_resource_that_nothing_scales_promises_no_machine() -> None:
    assert autoscaler.of_custom_resource(autoscaling_config, custom_resource(scaled=False)) is None


def test_what_a_platform_told_ray_has_names_and_numbers() -> None:
    groups = [
        NodeGroupConfig(name="gpu", max_count=3, resources={"CPU": 8, "GPU": 1}),
        NodeGroupConfig(name="any", max_count=-1, resources={"CPU": 2}),
        NodeGroupConfig(name="none", max_count=0, resources={"CPU": 2}),
    ]
    growth = autoscaler.of_reported(ClusterConfig(node_group_configs=groups))
    assert growth is not None
    assert [(kind.name, kind.most > 1000) for kind in growth.node_types] == [("gpu", False), ("any", True)]
    assert growth.node_types[0] == NodeType("gpu", Machine(8, 1), 3)
    assert autoscaler.of_reported(None) is None
    assert autoscaler.of_reported(ClusterConfig()) is None


def test_the_monitor_of_this_cluster_and_of_no_other_tells_its_file(tmp_path: Path) -> None:
    """As Ray starts it; what runs here is anything with such a command line."""
    code = "import time; print('up', flush=True); time.sleep(60)"
    flags = ["--gcs-address=10.0.0.7:6379", f"--autoscaling-config={tmp_path / 'cluster.yaml'}"]
    with subprocess.Popen([sys.executable, "-c", code, *flags], stdout=subprocess.PIPE, text=True) as monitor:
        assert monitor.stdout is not None
        monitor.stdout.readline()
        try:
            assert list(autoscaler.monitors_files("10.0.0.7:6379")) == [tmp_path / "cluster.yaml"]
            assert list(autoscaler.monitors_files("10.0.0.7:637")) == []
        finally:
            monitor.kill()


def test_ray_still_starts_its_monitor_with_these_flags() -> None:
    """Told by Ray's source: a release that names them otherwise is noticed here."""
    from ray._private import services

    text = Path(services.__file__).read_text(encoding="utf-8")
    start = text[text.index("def start_monitor(") :]
    body = start[: start.index("\ndef ")]
    assert 'f"--gcs-address={gcs_address}"' in body
    assert '"--autoscaling-config=" + str(autoscaling_config)' in body


def test_outside_kubernetes_no_custom_resource_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_CLUSTER_NAME", raising=False)
    assert autoscaler.kuberay() is None
    monkeypatch.setenv("RAY_CLUSTER_NAME", "dml")  # but no service account
    assert autoscaler.kuberay() is None


@pytest.mark.parametrize(
    ("age_s", "reason", "said"),
    [
        (
            10,
            "Out of\n  capacity in b",
            ["the autoscaler cannot start spot: Out of capacity in b"],
        ),
        (10, "", ["the autoscaler cannot start spot: no reason given"]),
        (10, "x" * 5000, ["the autoscaler cannot start spot: " + "x" * 200]),
        (3600, "long ago", []),
    ],
)
def test_why_machines_do_not_come_is_one_short_line(age_s: int, reason: str, said: list[str]) -> None:
    request = FailedInstanceRequest(ray_node_type_name="spot", failed_ts=10_000 - age_s, reason=reason, count=1)
    state = AutoscalingState(failed_instance_requests=[request, request])
    assert list(autoscaler.failures_in(state, now_s=10_000)) == said
    assert list(autoscaler.failures_in(SimpleNamespace(failed_instance_requests=[]), now_s=0)) == []


def test_memory_that_nobody_tells_is_no_limit() -> None:
    assert autoscaler.machine_of({"CPU": 2.0, "memory": 5.0, "node:1.2.3.4": 1.0}) == Machine(2, 0, 5)
    assert autoscaler.machine_of({}) == Machine(0, 0, math.inf)
