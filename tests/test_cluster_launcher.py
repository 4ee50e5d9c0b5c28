"""The files of `ray up`: accepted by Ray and by the cloud's own model, refused with any key misspelt, and safe."""

from __future__ import annotations

import inspect
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.commands import teardown_cluster
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from raydml.yamlfile import load
from tests.cluster_launcher import complaints, read_keys
from tests.misspelt import Json, places, with_misspelt, with_value

CLUSTER = Path(__file__).parents[1] / "cluster"
CLOUDS = ("aws", "gcp")


def launcher(cloud: str) -> Json:
    """As Ray reads it."""
    return yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text(encoding="utf-8"))


@pytest.fixture(params=CLOUDS)
def config(request: pytest.FixtureRequest) -> Json:
    return launcher(request.param)


def test_ray_and_the_cloud_accept_it(config: Json) -> None:
    assert list(complaints(config)) == []


def test_any_misspelt_key_is_refused(config: Json) -> None:
    found = list(places(config, free=frozenset()))
    assert len(found) > 100
    assert [place for place in found if next(complaints(with_misspelt(config, place)), None) is None] == []


@pytest.mark.parametrize(
    ("cloud", "place", "value", "says"),
    [
        ("aws", ("available_node_types", "gpu_1_spot", "node_config", "InstanceType"), "g6.3xlarge", "none of"),
        ("aws", ("available_node_types", "head", "node_config", "MetadataOptions", "HttpTokens"), "always", "none of"),
        ("aws", ("available_node_types", "head", "node_config", "SubnetIds"), [], "SubnetIds is missing"),
        ("aws", ("available_node_types", "head", "resources", "CPU"), 0.5, "ray: 0.5 is not of type 'integer'"),
        ("aws", ("provider", "type"), "azure", "neither aws nor gcp"),
        ("aws", ("head_node_type",), "leader", "must be one of"),
        (
            "gcp",
            ("available_node_types", "gpu_1_spot", "node_config", "scheduling", "provisioningModel"),
            "spot",
            "none",
        ),
        ("gcp", ("available_node_types", "head", "node_config", "disks"), {}, "is no array"),
        ("gcp", ("available_node_types", "gpu_4_spot", "resources", "GPU"), 8, "other resources"),
        ("gcp", ("available_node_types", "gpu_4_spot", "priority"), -1, "comes first"),
    ],
)
def test_a_wrong_value_is_named(cloud: str, place: tuple[str, ...], value: Json, says: str) -> None:
    assert any(says in text for text in complaints(with_value(launcher(cloud), place, value)))


def test_yaml_1_2_reads_the_same(config: Json) -> None:
    """No word that one reader takes for a truth value, and no key twice."""
    assert load(CLUSTER / f"{config['provider']['type']}.yaml") == config


def test_the_keys_of_the_provider_are_read_from_the_sources() -> None:
    assert {"region", "use_internal_ips", "cache_stopped_nodes"} <= read_keys("aws") & read_keys("gcp")
    assert "project_id" in read_keys("gcp") - read_keys("aws")


def test_workers_come_and_go_and_the_head_runs_nothing(config: Json) -> None:
    types = dict(config["available_node_types"])
    assert types.pop(config["head_node_type"])["resources"] == {"CPU": 0}
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in types.values())
    assert config["max_workers"] == sum(node["max_workers"] for node in types.values())
    assert config["idle_timeout_minutes"] <= 10
    assert config["provider"]["cache_stopped_nodes"] is False
    assert {node["resources"]["GPU"] for node in types.values()} == {1, 4}


def test_no_machine_has_a_public_address(config: Json) -> None:
    assert config["provider"]["use_internal_ips"] is True
    assert config["auth"]["ssh_proxy_use_node_id"] is True
    for node in config["available_node_types"].values():
        interfaces = node["node_config"].get("networkInterfaces", [])
        assert not any("accessConfigs" in interface for interface in interfaces)


def test_machines_on_ec2_are_hardened() -> None:
    for name, node in launcher("aws")["available_node_types"].items():
        request = node["node_config"]
        assert request["MetadataOptions"]["HttpTokens"] == "required"
        assert all(
            disk["Ebs"]["Encrypted"] and disk["Ebs"]["DeleteOnTermination"] for disk in request["BlockDeviceMappings"]
        )
        assert request["IamInstanceProfile"] == {"Name": "raydml-head" if name == "head" else "raydml-worker"}
        assert ("InstanceMarketOptions" in request) == name.endswith("_spot")


def test_machines_on_compute_engine_are_hardened() -> None:
    for name, node in launcher("gcp")["available_node_types"].items():
        request = node["node_config"]
        (account,) = request["serviceAccounts"]
        assert account["email"].startswith("raydml-head@" if name == "head" else "raydml-worker@")
        assert {"key": "block-project-ssh-keys", "value": "TRUE"} in request["metadata"]["items"]
        assert all(disk["autoDelete"] for disk in request["disks"])
        spot = request.get("scheduling", {}).get("provisioningModel") == "SPOT"
        assert spot == name.endswith("_spot")
        if spot:
            assert request["scheduling"]["instanceTerminationAction"] == "DELETE"


def test_every_start_of_ray_asks_for_the_token(config: Json) -> None:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("export RAY_AUTH_MODE=token;" in command.partition("ray start")[0] for command in starts)
    assert "--dashboard-host=localhost" in starts[0]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"][0]


def test_a_spot_notice_reaches_the_node(config: Json) -> None:
    stop, watch = config["worker_start_ray_commands"][-2:]
    assert watch.endswith(f"python -m raydml.notice {config['provider']['type']}")
    # A second run finds the unit of the first.
    assert stop == "sudo systemctl stop raydml-notice 2>/dev/null || true"
    assert "--unit=raydml-notice" in watch
    assert "--collect" in watch


def test_ray_down_finds_ray_on_the_head(config: Json) -> None:
    """Else the autoscaler there starts machines for those that go, while it goes itself: nobody ends them."""
    assert 'cmd="ray stop"' in inspect.getsource(teardown_cluster), "when this fails, see whether the link can go"
    assert config["head_setup_commands"][-1] == "sudo ln -sf ~/raydml-env/bin/ray /usr/local/bin/ray"


def test_setup_outlives_another_update_of_the_machine(config: Json, tmp_path: Path) -> None:
    """`DPkg::Lock::Timeout` is not for the lock that `apt-get update` wants: where that is held, it ends at once."""
    (update,) = [command for command in config["setup_commands"] if command.endswith("done")]
    assert config["setup_commands"].index(update) == 1
    for name, shell in (("sleep", ""), ("sudo", f"echo $* >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -eq 3 ]")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{shell}\n")
        (tmp_path / name).chmod(0o700)
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert subprocess.run(["bash", "-c", update], env={"PATH": path}).returncode == 0
    assert (tmp_path / "tries").read_text() == "apt-get -qq update\n" * 3


def test_the_commands_are_shell(config: Json) -> None:
    keys = [key for key in config if key.endswith("_commands")]
    script = "\n".join(command for key in keys for command in config[key])
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_ray_does_not_lower_a_type_whose_launch_was_refused() -> None:
    """A defect of Ray 2.60, and why README.md tells what to do when spot machines do not come.

    Its scheduler passes over a type that was unavailable lately, but only a launch that timed out counts as that: one
    that the cloud refused at once is asked for again and again. When this fails, the advice can go.
    """
    monitor = CloudResourceMonitor()
    monitor.notify([InstanceUpdateEvent(instance_type="spot", new_instance_status=Instance.ALLOCATION_FAILED)])
    assert monitor.get_recoverable_resource_availabilities() == {}
    monitor.notify([InstanceUpdateEvent(instance_type="spot", new_instance_status=Instance.ALLOCATION_TIMEOUT)])
    assert monitor.get_recoverable_resource_availabilities() == {"spot": 0.0}
