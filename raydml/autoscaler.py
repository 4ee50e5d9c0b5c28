"""What a cluster's autoscaler may start and what it cannot: the one place that looks into Ray's.

Ray 2.60 has a place for the configuration of node types in its GCS, which only some platforms fill: no autoscaler of
its own does. What `ray up` and `ray start --autoscaling-config` were given stands on the command line of the monitor,
which runs beside a submitted job, on the head; of KubeRay the custom resource says it. What cannot be read is not
known, and a cluster then counts as what it has.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from raydml import yamlfile
from raydml.capacity import Machine, NodeType

# A failure to start a machine is told for so long.
_RECENT_S = 900.0
_LONGEST_REASON = 200
_TIMEOUT_S = 5
_ANY_NUMBER = 10**6
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Growth(NamedTuple):
    """What an autoscaler may start."""

    node_types: tuple[NodeType, ...]
    most_workers: float
    """Machines of all types together."""


NONE = Growth((), math.inf)


def growth() -> Growth:
    """What the autoscaler of the cluster that is connected may start; nothing where none is known of."""
    from ray._private.state import state

    reported = of_reported(state.get_cluster_config())
    return reported or next((of_config(config) for config in _configurations()), NONE)


def of_config(config: Mapping[str, Any]) -> Growth:
    """What a configuration of `ray up` allows."""
    most = config.get("max_workers", math.inf)
    head = config.get("head_node_type")
    types = []
    for name, kind in config.get("available_node_types", {}).items():
        number = kind.get("max_workers", 0 if name == head else min(most, _ANY_NUMBER))
        types.append(NodeType(name, machine_of(kind.get("resources") or {}), int(number)))
    return Growth(tuple(kind for kind in types if kind.most > 0), float(most))


def machine_of(resources: Mapping[str, float]) -> Machine:
    """A machine with what Ray calls its resources."""
    memory = resources.get("memory", math.inf)
    return Machine(float(resources.get("CPU", 0.0)), float(resources.get("GPU", 0.0)), float(memory))


def of_reported(config: Any) -> Growth | None:  # noqa: ANN401
    """What a platform told Ray, as Ray keeps it; None where none did."""
    if config is None or not config.node_group_configs:
        return None
    # -1 stands for any number.
    types = tuple(
        NodeType(kind.name, machine_of(kind.resources), kind.max_count if kind.max_count >= 0 else _ANY_NUMBER)
        for kind in config.node_group_configs
        if kind.max_count != 0
    )
    return Growth(types, math.inf)


def _configurations() -> Iterator[Mapping[str, Any]]:
    import ray

    for path in monitors_files(ray.get_runtime_context().gcs_address):
        # Of a Ray that another user started it may not be read.
        if os.access(path, os.R_OK):
            yield yamlfile.load(path)
    if found := kuberay():
        yield found


def monitors_files(gcs_address: str) -> Iterator[Path]:
    """From the command line of a cluster's monitor, where it runs on this machine."""
    gcs = f"--gcs-address={gcs_address}"
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended, or is another user's
        if gcs in words:
            given = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
            yield from (Path(place).expanduser() for place in given)


def kuberay() -> Mapping[str, Any] | None:
    """The custom resource of this cluster, as far as the head's service account may read it."""
    name = os.environ.get("RAY_CLUSTER_NAME")
    if not name or not _NAMESPACE.is_file():
        return None
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider
    from requests import RequestException

    try:
        client = node_provider.KubernetesHttpApiClient(namespace=_NAMESPACE.read_text(encoding="utf-8").strip())
        resource = client.get(f"rayclusters/{name}")
    except (RequestException, OSError):
        return None
    return of_custom_resource(autoscaling_config, resource)


def of_custom_resource(module: Any, resource: Mapping[str, Any]) -> Mapping[str, Any] | None:  # noqa: ANN401
    """A RayCluster's configuration as `ray up` would be given it; None where nothing scales it."""
    if not resource["spec"].get("enableInTreeAutoscaling"):
        return None
    found: dict[str, Any] = module._derive_autoscaling_config_from_ray_cr(resource)
    return found


def troubles() -> tuple[str, ...]:
    """Why machines do not come, as the autoscaler says it (version 2; version 1 writes it to its log only)."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
    from ray.exceptions import RaySystemError, RpcError

    reply = GetClusterStatusReply()
    try:
        client = GcsClient(ray.get_runtime_context().gcs_address)
        reply.ParseFromString(client.get_cluster_status(timeout_s=_TIMEOUT_S))
    except (RpcError, RaySystemError):
        return ()  # a head that is busy, or restarting
    return failures_in(reply.autoscaling_state, now_s=time.time())


def failures_in(state: Any, *, now_s: float) -> tuple[str, ...]:  # noqa: ANN401
    """Each kind of failure of the last minutes, once."""
    recent = {
        (request.ray_node_type_name, " ".join(request.reason.split())[:_LONGEST_REASON] or "no reason given")
        for request in state.failed_instance_requests
        if now_s - request.failed_ts < _RECENT_S
    }
    return tuple(f"the autoscaler cannot start {name}: {reason}" for name, reason in sorted(recent))
