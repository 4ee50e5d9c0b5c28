"""What Kubernetes with KubeRay's definitions would say to a manifest, made strict: an unknown key is an error."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from ray.scripts.scripts import start

Json = Any
DEFINITION = Path(__file__).parent / "kuberay" / "rayjob.v1.json.gz"
QUANTITIES = {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"}


def complaints(document: Json) -> Iterator[str]:
    """What is wrong with one document of a manifest."""
    kind = document.get("kind")
    if kind not in schemas():
        yield f"kind: {kind} is none of {sorted(schemas())}"
        return
    for error in schemas()[kind].iter_errors(document):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
    yield from quantity_complaints(document)
    yield from start_complaints(document)


@cache
def schemas() -> dict[str, Draft202012Validator]:
    """By kind."""
    job = strict(json.loads(gzip.decompress(DEFINITION.read_bytes())))
    spec = job["properties"]["spec"]
    cluster = spec["properties"]["rayClusterSpec"]
    pod = cluster["properties"]["headGroupSpec"]["properties"]["template"]
    metadata = {**pod["properties"]["metadata"], "required": ["name"]}
    whole = {
        "RayJob": _top("ray.io/v1", metadata, {"spec": {**spec, "required": ["entrypoint", "rayClusterSpec"]}}),
        "RayCluster": _top("ray.io/v1", metadata, {"spec": cluster}),
        "ServiceAccount": _top("v1", metadata, {"automountServiceAccountToken": {"type": "boolean"}}),
        "NetworkPolicy": _top("networking.k8s.io/v1", metadata, {"spec": _network_policy(cluster)}),
    }
    return {kind: Draft202012Validator(schema) for kind, schema in whole.items()}


def _top(version: str, metadata: Json, more: dict[str, Json]) -> Json:
    known = {"apiVersion": {"const": version}, "kind": {"type": "string"}, "metadata": metadata, **more}
    required = ["apiVersion", "kind", "metadata", *(["spec"] if "spec" in more else [])]
    return {"type": "object", "properties": known, "required": required, "additionalProperties": False}


def _network_policy(cluster: Json) -> Json:
    """Kubernetes' own rules are those that KubeRay takes for its networkPolicy."""
    rules = cluster["properties"]["networkPolicy"]["properties"]["head"]["properties"]
    peer = rules["ingressRules"]["items"]["properties"]["from"]["items"]["properties"]
    known = {
        "podSelector": peer["podSelector"],
        "policyTypes": {"type": "array", "items": {"enum": ["Ingress", "Egress"]}},
        "ingress": rules["ingressRules"],
        "egress": rules["egressRules"],
    }
    required = ["podSelector", "policyTypes", "ingress"]
    return {"type": "object", "properties": known, "required": required, "additionalProperties": False}


def strict(schema: Json) -> Json:
    """The same schema, where an object that lists its keys takes no other, and a number may stand for a quantity."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    new = {key: strict(value) for key, value in schema.items()}
    # The properties of an object are a mapping too: one of them may be called `type`.
    if isinstance(new.get("properties"), dict) and new.get("type") == "object" and "additionalProperties" not in new:
        new["additionalProperties"] = False
    if new.pop("x-kubernetes-int-or-string", False):
        new["type"] = ["integer", "string"]
    return new


def walk(value: Json, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Every mapping inside of a document, with the keys that lead to it."""
    if isinstance(value, dict):
        yield place, value
        for key, inner in value.items():
            yield from walk(inner, (*place, key))
    elif isinstance(value, list):
        for item in value:
            yield from walk(item, place)


def quantity_complaints(document: Json) -> Iterator[str]:
    """The schema leaves the names of resources open."""
    for place, found in walk(document):
        if place[-1:] in (("requests",), ("limits",)):
            yield from (f"{'.'.join(place)}: unknown {key}" for key in found.keys() - QUANTITIES)


def start_complaints(document: Json) -> Iterator[str]:
    """`rayStartParams` are options of `ray start`, which the schema leaves open."""
    options = {option.lstrip("-") for parameter in start.params for option in parameter.opts}
    for place, found in walk(document):
        if place[-1:] == ("rayStartParams",):
            yield from (f"{'.'.join(place)}: unknown {key}" for key in found.keys() - options)
