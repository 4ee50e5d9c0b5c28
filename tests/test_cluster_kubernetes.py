"""The manifests for KubeRay: accepted by its own definitions made strict, refused with any key misspelt, and safe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

from tests.cluster_kubernetes import complaints, walk
from tests.misspelt import Json, places, with_misspelt, with_value

KUBERAY = Path(__file__).parents[1] / "cluster" / "kuberay"
NAMES = ("access.yaml", "raycluster.yaml", "rayjob.yaml")
# Their keys are the user's, or names of labels.
FREE = frozenset({"labels", "annotations", "matchLabels", "nodeSelector"})
PODS = {"raycluster.yaml": 3, "rayjob.yaml": 4}


def documents(name: str) -> list[Json]:
    return list(yaml.safe_load_all((KUBERAY / name).read_text(encoding="utf-8")))


def only(name: str) -> Json:
    (document,) = documents(name)
    return document


def cluster(name: str) -> Json:
    """What RayCluster and RayJob share."""
    spec = only(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(name: str) -> list[Json]:
    """Every pod of a manifest: of the head, the workers, and what submits the job."""
    templates = (("template",), ("submitterPodTemplate",))
    found = [value["spec"] for place, value in walk(only(name)) if place[-1:] in templates]
    assert len(found) == PODS[name]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_accepts_it(name: str) -> None:
    assert [list(complaints(document)) for document in documents(name)] == [[] for _ in documents(name)]


@pytest.mark.parametrize("name", NAMES)
def test_any_misspelt_key_is_refused(name: str) -> None:
    """The cluster of rayjob.yaml is that of raycluster.yaml, held to the same definition."""
    for document in documents(name):
        found = [place for place in places(document, free=FREE) if place[1:-1][:1] != ("rayClusterSpec",)]
        assert len(found) >= 4
        assert [place for place in found if next(complaints(with_misspelt(document, place)), None) is None] == []


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("spec", "authOptions", "mode"), "tokens", "'tokens' is not one of"),
        (("spec", "headGroupSpec", "rayStartParams"), {"num-cpu": "0"}, "rayStartParams: unknown num-cpu"),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "is not of type 'string'"),
        (("spec", "workerGroupSpecs", 0, "maxReplicas"), "16", "is not of type 'integer'"),
        (("spec", "workerGroupSpecs", 0, "template", "spec", "containers"), {}, "is not of type 'array'"),
        (("kind",), "RayClusters", "is none of"),
    ],
)
def test_a_wrong_value_is_named(place: tuple[str | int, ...], value: Json, says: str) -> None:
    assert any(says in text for text in complaints(with_value(only("raycluster.yaml"), place, value)))


def test_the_job_brings_the_cluster_that_stays_otherwise() -> None:
    assert cluster("rayjob.yaml") == cluster("raycluster.yaml")


def test_the_autoscaler_prefers_spot_and_starts_with_none() -> None:
    spec = cluster("rayjob.yaml")
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    spot, other = spec["workerGroupSpecs"]
    assert spot["groupName"] == "gpu-spot"
    assert spot["priority"] > other["priority"]
    for group in (spot, other):
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_token_is_asked_for() -> None:
    assert cluster("rayjob.yaml")["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", PODS)
def test_pods_have_no_more_rights_than_they_need(name: str) -> None:
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.get("automountServiceAccountToken") is (
            None if pod["serviceAccountName"] == "raydml-head" else False
        )
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("name", PODS)
def test_pods_say_what_they_need_and_take_no_more(name: str) -> None:
    for pod in pods(name):
        for container in pod["containers"]:
            asked, most = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= asked.keys() == most.keys()


@pytest.mark.parametrize("name", PODS)
def test_nodes_of_ray_are_probed_where_ray_answers_without_a_token(name: str) -> None:
    nodes = [pod for pod in pods(name) if pod["containers"][0]["name"].startswith("ray-") and "volumes" in pod]
    assert len(nodes) == 3
    for pod in nodes:
        (container,) = pod["containers"]
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": 52365}
        (volume,) = pod["volumes"]
        assert volume["emptyDir"]["medium"] == "Memory"
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
    assert "/api/healthz" in PUBLIC_EXACT_PATHS


def test_a_worker_drains_before_it_ends_and_has_the_time() -> None:
    for group in cluster("rayjob.yaml")["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        *command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == ["python", "-m", "raydml.notice", "kubernetes", "--seconds"]
        assert int(seconds) + 30 <= pod["terminationGracePeriodSeconds"]


def test_the_job_is_tried_again_ends_in_the_end_and_leaves_nothing() -> None:
    spec = only("rayjob.yaml")["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["submitterConfig"]["backoffLimit"] > spec["backoffLimit"], "each lost head costs one"


def test_the_operator_waits_for_a_new_head() -> None:
    """KubeRay 1.7 gives a RayJob up for good after 300 s without an answer, in which no new head can come.

    Where Kubernetes notices a lost node after 300 s, and an image of 8 GB is pulled then.
    """
    readme = (KUBERAY.parent / "README.md").read_text(encoding="utf-8")
    command = r"^kubectl set env deployment/kuberay-operator RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS=(\d+)$"
    (seconds,) = re.findall(command, readme, re.MULTILINE)
    assert int(seconds) >= 300 + 900


def test_only_the_pods_of_the_cluster_reach_each_other() -> None:
    accounts, policy = documents("access.yaml")[:2], documents("access.yaml")[2]
    assert [account["metadata"]["name"] for account in accounts] == ["raydml-head", "raydml-worker"]
    ours = policy["spec"]["podSelector"]["matchLabels"]
    for name in PODS:
        labels = [
            value["labels"] for place, value in walk(only(name)) if place[-1:] == ("metadata",) and "labels" in value
        ]
        assert labels == [ours] * PODS[name]
    assert policy["spec"]["ingress"][0] == {"from": [{"podSelector": {"matchLabels": ours}}]}


@pytest.mark.parametrize("name", ["kuberay", "kuberay-operator"])
def test_the_operator_reaches_the_head(name: str) -> None:
    """By the labels that KubeRay 1.7 gives its pod: with `config/default` of its repository, and with its Helm chart.

    It asks Ray how the job does; where it may not, a RayJob never ends.
    """
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": "kuberay-operator"}
    (peer,) = documents("access.yaml")[2]["spec"]["ingress"][1]["from"]
    assert peer["namespaceSelector"] == {}
    assert peer["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("name", PODS)
def test_no_autoscaler_of_machines_moves_a_pod_to_save_one(name: str) -> None:
    """A pod that is moved loses the head with its job, or the epoch that it trains."""
    kept = [value["annotations"] for _, value in walk(only(name)) if "annotations" in value]
    stays = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
    assert kept == [stays] * PODS[name]
