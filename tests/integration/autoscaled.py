"""A head whose autoscaler brings machines: Ray's fake provider starts them as processes of this one.

Ray's own AutoscalingCluster is no help: the configuration it begins with is not in the wheel of 2.60, and it ends every
Ray on the machine. The settings are those of autoscaler v2: the head must have the name that the provider gives it.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.integration.clusters import LocalCluster, cluster
from tests.integration.processes import processes_of

_HEAD = "f" * 51 + "00000"
_SETTINGS = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_CLOUD_INSTANCE_ID": _HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
}


@contextmanager
def autoscaled(*, most: int, cpus: int, idle_s: float) -> Iterator[LocalCluster]:
    """A head without cores; up to `most` machines of `cpus` cores come, and go when idle for `idle_s` seconds."""
    with cluster(_SETTINGS) as found:
        provider = found.folder / "provider"
        provider.mkdir()
        shutil.copy(Path(__file__).with_name("fake_machines.py"), provider)
        found.settings["PYTHONPATH"] = str(provider)
        path = found.folder / "autoscaler.json"
        path.write_text(json.dumps(_configuration(found, most=most, cpus=cpus, idle_s=idle_s)), "utf-8")
        found.start_head(f"--autoscaling-config={path}")
        yield found


def _configuration(found: LocalCluster, *, most: int, cpus: int, idle_s: float) -> dict[str, object]:
    """Every key that the autoscaler reads; JSON is YAML."""
    machine = {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": most, "labels": {}}
    head = {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0, "labels": {}}
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": "fake_machines.FakeMachines",
            "folder": str(found.folder),
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": _HEAD,
            "gcs_address": found.address,
        },
        "available_node_types": {"ray.head.default": head, "machine": machine},
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "no_restart": False,
    }


@dataclass
class Attendance:
    """Machines and trials over time, counted from outside: processes of the operating system."""

    rows: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds, machines besides the head, trials that have a process; a row for every change."""

    def note(self, seconds: float, machines: int, trials: int) -> None:
        """What there is now."""
        if not self.rows or self.rows[-1][1:] != (machines, trials):
            self.rows.append((seconds, machines, trials))

    def table(self) -> str:
        """For people."""
        return "\n".join(
            [
                "    s  machines  trials",
                *(f"{seconds:5.0f}  {machines:8d}  {trials:6d}" for seconds, machines, trials in self.rows),
            ]
        )


@contextmanager
def attendance(found: LocalCluster) -> Iterator[Attendance]:
    """Counts twice a second, in a thread."""
    counted, over, began = Attendance(), threading.Event(), time.monotonic()

    def count() -> None:
        while not over.wait(0.5):
            counted.note(time.monotonic() - began, machines_of(found), len(found.trials()))

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield counted
    finally:
        over.set()
        thread.join()


def machines_of(found: LocalCluster) -> int:
    """Machines besides the head."""
    return sum(_is_raylet(process) for process in processes_of(found.folder)) - 1


def _is_raylet(process: psutil.Process) -> bool:
    try:
        return process.name() == "raylet"
    except psutil.NoSuchProcess:
        return False
