"""What the clusters stand on: networks, accounts, buckets. That on EC2 is made, in a cloud of this machine."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from cfnlint.decode import cfn_yaml
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster_networks import REGION, complaints
from tests.misspelt import Json, places, with_misspelt

CLUSTER = Path(__file__).parents[1] / "cluster"
TEMPLATE = CLUSTER / "aws-network.yaml"
SCRIPT = CLUSTER / "gcp-network.sh"
# The names are ours.
NAMED_BY_US = {("Parameters",), ("Conditions",), ("Resources",)}


@pytest.fixture(scope="module")
def template() -> Json:
    """With the short forms of the functions written out."""
    return json.loads(json.dumps(cfn_yaml.load(str(TEMPLATE))))


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Json]:
    """The stack, made; a home for the key that Ray makes."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("HOME", str(tmp_path))
    with mock_aws():
        formation = boto3.client("cloudformation")
        formation.create_stack(
            StackName="raydml",
            TemplateBody=TEMPLATE.read_text(encoding="utf-8"),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "studies"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield formation.describe_stacks(StackName="raydml")["Stacks"][0]


def filled_in(stack: Json) -> Json:
    """cluster/aws.yaml as README.md's command fills it in."""
    edit = next(output["OutputValue"] for output in stack["Outputs"] if output["OutputKey"] == "Edit")
    done = subprocess.run(["sed", edit, CLUSTER / "aws.yaml"], capture_output=True, text=True, check=True)
    return yaml.safe_load(done.stdout)


def test_cloudformation_would_take_it() -> None:
    found = lint(TEMPLATE.read_text(encoding="utf-8"), config=ManualArgs(regions=[REGION], ignore_checks=["I"]))
    assert [str(problem) for problem in found] == []


def test_any_misspelt_key_is_refused(template: Json) -> None:
    assert list(complaints(template)) == []
    found = [place for place in places(template, free=frozenset()) if place[:-1] not in NAMED_BY_US]
    assert len(found) > 200
    assert [place for place in found if next(complaints(with_misspelt(template, place)), None) is None] == []


def test_ray_starts_and_ends_every_type_of_machine(cloud: Json, template: Json) -> None:
    """Stack, edit, Ray's own bootstrap and provider: what `ray up` and the autoscaler do, with the rights they have."""
    config = prepare_config(filled_in(cloud))
    validate_config(config)
    ready = bootstrap_aws(config)
    assert ready["head_node"] == {}, "Ray would add a role that may do anything on EC2 and S3"
    provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
    called = listened_to(provider)
    for name, node in ready["available_node_types"].items():
        provider.create_node(node["node_config"], {"ray-node-name": name, "ray-user-node-type": name}, 1)
    groups = boto3.client("ec2").describe_instances()["Reservations"]
    machines = [machine for group in groups for machine in group["Instances"]]
    assert len(machines) == 5
    for machine in machines:
        tags = {tag["Key"]: tag["Value"] for tag in machine["Tags"]}
        assert tags["ray-cluster-name"] == "raydml"
        assert (machine.get("InstanceLifecycle") == "spot") == tags["ray-user-node-type"].endswith("_spot")
        assert "PublicIpAddress" not in machine
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
    provider.set_node_tags(provider.non_terminated_nodes({})[0], {"ray-node-status": "up-to-date"})
    provider.terminate_nodes(provider.non_terminated_nodes({}))
    assert provider.non_terminated_nodes({}) == []
    assert {"ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"} <= called <= actions(template, "HeadRole")


def listened_to(provider: AWSNodeProvider) -> set[str]:
    """What a provider asks of EC2 from now on, as a policy calls it."""
    called: set[str] = set()
    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register("before-call.ec2", lambda model, **_: called.add(f"ec2:{model.name}"))
    return called


def actions(template: Json, role: str) -> set[str]:
    """What a role of the template itself allows."""
    policies = template["Resources"][role]["Properties"]["Policies"]
    statements = [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]
    return {action for statement in statements for action in _listed(statement["Action"])}


def test_the_bucket_is_private_and_stays_when_the_stack_goes(template: Json) -> None:
    studies = template["Resources"]["Studies"]
    block = studies["Properties"]["PublicAccessBlockConfiguration"]
    assert list(block.values()) == [True] * 4
    assert "BucketEncryption" in studies["Properties"]
    assert studies["DeletionPolicy"] == studies["UpdateReplacePolicy"] == "Retain"


def test_the_machines_may_do_no_more_than_they_need(template: Json) -> None:
    worker = template["Resources"]["WorkerPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    head = template["Resources"]["HeadRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    actions = [action for statement in (*worker, *head) for action in _listed(statement["Action"])]
    assert not [action for action in actions if "*" in action]
    anywhere = [statement for statement in (*worker, *head) if statement.get("Resource") == "*"]
    allowed = {"ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "iam:CreateServiceLinkedRole"}
    assert {action for statement in anywhere for action in _listed(statement["Action"])} == allowed
    assert template["Resources"]["AmongThemselves"]["Properties"].keys() == {
        *("GroupId", "IpProtocol", "SourceSecurityGroupId"),
    }


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.fixture
def gcloud(tmp_path: Path) -> dict[str, str]:
    """An environment whose `gcloud` notes what it is asked, and knows what it has made."""
    made = tmp_path / "made"
    made.touch()
    command = tmp_path / "gcloud"
    command.write_text(
        "#!/usr/bin/env bash\n"
        f'echo "$*" >> {tmp_path}/asked\n'
        'shift 3; words=(); for word in "$@"; do case $word in --*) ;; *) words+=("$word") ;; esac; done\n'
        "for i in ${!words[@]}; do case ${words[$i]} in\n"
        f"  list) cat {tmp_path}/left 2>/dev/null ;;\n"
        f"  add-iam-policy-binding) echo >> {tmp_path}/bound; [ $(wc -l < {tmp_path}/bound) -gt 2 ]; exit ;;\n"
        f'  describe) unset "words[$i]"; name="${{words[*]}}"; grep -qxF "${{name%%@*}}" {made}; exit ;;\n'
        f'  create) unset "words[$i]"; echo "${{words[*]}}" >> {made} ;;\n'
        "esac; done\n",
        encoding="utf-8",
    )
    command.chmod(0o700)
    (tmp_path / "sleep").write_text("#!/bin/sh\n", encoding="utf-8")
    (tmp_path / "sleep").chmod(0o700)
    (tmp_path / ".ssh").mkdir()
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def set_up(environment: dict[str, str]) -> tuple[str, list[str]]:
    """The file of the cluster, and what was made by this run."""
    asked = Path(environment["HOME"]) / "asked"
    asked.unlink(missing_ok=True)
    done = subprocess.run(
        [SCRIPT, "up", "my-project", "studies", "europe-west4"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, asked.read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(not Path("/usr/bin/ssh-keygen").exists(), reason="no ssh-keygen on this machine")
def test_the_network_on_compute_engine_is_made_once(gcloud: dict[str, str]) -> None:
    text, first = set_up(gcloud)
    created = [call for call in first if " create " in call]
    assert len(created) == 11
    assert any("--enable-private-ip-google-access" in call for call in created)
    again, second = set_up(gcloud)
    assert [call for call in second if " create " in call] == []
    assert again == text
    key = Path(gcloud["HOME"]) / ".ssh" / "raydml"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.skipif(not Path("/usr/bin/ssh-keygen").exists(), reason="no ssh-keygen on this machine")
def test_it_fills_in_the_file_of_the_cluster(gcloud: dict[str, str]) -> None:
    text, calls = set_up(gcloud)
    config = yaml.safe_load(text)
    validate_config(prepare_config(config))
    for placeholder in ("PROJECT", "SSH-PUBLIC-KEY", "us-central1"):
        assert placeholder in (CLUSTER / "gcp.yaml").read_text(encoding="utf-8")
        assert placeholder not in text
    roles = [word for call in calls for word in call.split() if word.startswith("--role=")]
    assert not [role for role in roles if role.endswith(("admin", "owner", "editor"))]


@pytest.mark.skipif(not Path("/usr/bin/ssh-keygen").exists(), reason="no ssh-keygen on this machine")
def test_rights_are_given_again_until_the_new_account_is_known(gcloud: dict[str, str]) -> None:
    """The `gcloud` of these tests refuses the first two times, as that of Google may for a minute."""
    _, calls = set_up(gcloud)
    given = [call for call in calls if "add-iam-policy-binding" in call]
    assert given[0] == given[1] == given[2]
    assert len(set(given)) == len(given) - 2 == 6


def test_machines_that_are_left_end_before_their_network(gcloud: dict[str, str]) -> None:
    """Ray does not see one that the maintenance of its host stopped: `ray down` leaves it, with a disk that costs."""
    home = Path(gcloud["HOME"])
    (home / "left").write_text("ray-a europe-west4-a\nray-b europe-west4-b\n")
    assert subprocess.run([SCRIPT, "down", "my-project", "studies", "europe-west4"], env=gcloud).returncode == 0
    asked = (home / "asked").read_text(encoding="utf-8").splitlines()
    assert "list --filter=labels.ray-cluster-name=raydml --format=value(name,zone.basename())" in asked[0]
    assert [call.partition("instances ")[2] for call in asked[1:3]] == [
        *("delete ray-a --zone=europe-west4-a", "delete ray-b --zone=europe-west4-b"),
    ]
    assert "firewall-rules delete" in asked[3]
    assert not any("buckets" in call for call in asked)


def test_the_script_is_shell_and_names_what_it_does_not_know() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    wrong = subprocess.run([SCRIPT, "upp", "my-project", "studies"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr) == (2, "up or down, but got upp\n")
