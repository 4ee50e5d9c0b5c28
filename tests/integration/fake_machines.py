"""Ray's fake provider with machines that share no folder: each is a `ray start` of its own.

Those of the original work in the folder of the head, and the first that goes takes the job's working directory along.
The autoscaler imports this file by its own name, from a folder that holds nothing else.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class FakeMachines(FakeMultiNodeProvider):  # type: ignore[misc]
    """Machines that the autoscaler asks for."""

    def _create_node_with_resources_and_labels(
        self, node_config: object, tags: Mapping[str, str], count: int, resources: Mapping[str, Any], labels: object
    ) -> None:
        del node_config, count, labels
        with self.lock:
            name = self._next_hex_node_id()
            folder = Path(self.provider_config["folder"]) / f"machine{self._next_node_id}"
            folder.mkdir()
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={self._gcs_address}"]
            command += [f"--node-ip-address=127.0.0.{self._next_node_id + 1}", f"--num-cpus={resources['CPU']}"]
            command += [f"--temp-dir={folder}", "--dashboard-agent-listen-port=0", "--object-store-memory=100000000"]
            own = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": name, "RAY_CLOUD_INSTANCE_ID": name}
            own["RAY_NODE_TYPE_NAME"] = tags["ray-user-node-type"]
            with (folder / "start.log").open("wb") as log:
                process = subprocess.Popen(
                    command, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True
                )
            self._nodes[name] = {
                "tags": {"ray-node-kind": "worker", "ray-node-name": name, "ray-node-status": "up-to-date", **tags},
                "group": process.pid,
            }

    def _terminate_node(self, node: Mapping[str, Any]) -> None:
        with suppress(ProcessLookupError):  # one that was drained went by itself
            os.killpg(node["group"], signal.SIGKILL)
