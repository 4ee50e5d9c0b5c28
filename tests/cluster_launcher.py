"""What Ray, EC2 and Compute Engine would say to a file of `ray up`, without any of them."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import googleapiclient
from botocore.model import Shape
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

Json = Any
# Whose sources tell which keys of `provider` are read, beside those of the cloud.
READERS = ("autoscaler", "commands", "updater", "command_runner")
READ = re.compile(r"""provider(?:_config|"\])(?:\.get\(|\[)\s*"(\w+)\"""")
RESOURCES = {"CPU", "GPU"}


def complaints(config: Json) -> Iterator[str]:
    """What is wrong with a launcher file; the cheap questions come first."""
    cloud = config.get("provider", {}).get("type")
    check = {"aws": aws_complaints, "gcp": gcp_complaints}.get(cloud)
    if check is None:
        yield f"provider.type: neither aws nor gcp, but {cloud}"
        return
    for name, node in config.get("available_node_types", {}).items():
        yield from (f"{name}: {text}" for text in check(node.get("node_config", {})))
        yield from (f"{name}.resources: unknown {key}" for key in node.get("resources", {}).keys() - RESOURCES)
    yield from (f"provider: nobody reads {key}" for key in config["provider"].keys() - read_keys(cloud))
    yield from mount_complaints(config.get("file_mounts", {}))
    yield from twin_complaints(config.get("available_node_types", {}))
    yield from ray_complaints(config)


def ray_complaints(config: Json) -> Iterator[str]:
    """Ray's own opinion, which looks into no node_config and knows no key of a provider."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            validate_config(prepare_config(config))
    except Exception as error:
        yield f"ray: {str(error).splitlines()[0]}"


@cache
def run_instances() -> Shape:
    """The request of EC2 that starts machines."""
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def aws_complaints(node: Mapping[str, Json]) -> Iterator[str]:
    """Against the model of RunInstances. Ray takes one of `SubnetIds`, and adds the counts."""
    subnets = node.get("SubnetIds", ())
    rest = {key: value for key, value in node.items() if key != "SubnetIds"}
    request = {**rest, "MinCount": 1, "MaxCount": 1, **({"SubnetId": subnets[0]} if subnets else {})}
    if not subnets:
        yield "SubnetIds is missing"
    yield from ParamValidator().validate(request, run_instances()).generate_report().splitlines()
    yield from strange_words(request, run_instances(), "")


def strange_words(value: Json, shape: Shape, place: str) -> Iterator[str]:
    """Words that are none of an enumeration's: botocore lets them pass."""
    if shape.type_name == "structure" and isinstance(value, Mapping):
        for key in value.keys() & shape.members.keys():
            yield from strange_words(value[key], shape.members[key], f"{place}.{key}")
    elif shape.type_name == "list" and isinstance(value, list):
        for item in value:
            yield from strange_words(item, shape.member, f"{place}[]")
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield f"{place}: {value} is none of {shape.enum[:4]}..."


@cache
def compute_schemas() -> dict[str, Json]:
    """Schemas of Compute Engine's interface, as its Python client ships them."""
    folder = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    schemas: dict[str, Json] = json.loads((folder / "compute.v1.json").read_text(encoding="utf-8"))["schemas"]
    return schemas


def gcp_complaints(node: Json) -> Iterator[str]:
    """Against the schema of an instance, which Ray sends as it stands but for names it turns into addresses."""
    if not {"machineType", "disks", "networkInterfaces", "serviceAccounts"} <= node.keys():
        yield "one of machineType, disks, networkInterfaces, serviceAccounts is missing"
    yield from discovered(node, {"$ref": "Instance"}, "")


def discovered(value: Json, schema: Mapping[str, Json], place: str) -> Iterator[str]:
    """Where a value departs from a schema of a discovery document."""
    if "$ref" in schema:
        schema = compute_schemas()[schema["$ref"]]
    kind = schema["type"]
    if not _is(value, kind, schema.get("format", "")):
        yield f"{place}: {value!r} is no {kind}"
    elif kind == "object" and "properties" in schema:
        for key, inner in value.items():
            if key in schema["properties"]:
                yield from discovered(inner, schema["properties"][key], f"{place}.{key}")
            else:
                yield f"{place}: unknown {key}"
    elif kind == "array":
        for item in value:
            yield from discovered(item, schema["items"], f"{place}[]")
    elif value not in schema.get("enum", [value]):
        yield f"{place}: {value} is none of {schema['enum']}"


def _is(value: Json, kind: str, form: str) -> bool:
    """A 64-bit integer is a string there, and taken as a number too."""
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": float}
    return isinstance(value, int if form in ("int64", "uint64") and isinstance(value, int) else types[kind])


@cache
def read_keys(cloud: str) -> frozenset[str]:
    """Keys of `provider` that Ray's sources read."""
    names = [f"ray.autoscaler._private.{name}" for name in READERS]
    names += [f"ray.autoscaler._private.{cloud}.{name}" for name in ("config", "node_provider")]
    sources = "".join(inspect.getsource(importlib.import_module(name)) for name in names)
    return frozenset(READ.findall(sources)) | {"type"}


def mount_complaints(mounts: Mapping[str, str]) -> Iterator[str]:
    """What is copied exists here, and arrives where the commands look for it."""
    root = Path(__file__).parents[1]
    for there, here in mounts.items():
        if here.startswith("~/.ray/"):
            expected = here
        elif (root / here).exists():
            expected = f"~/raydml/{here}"
        else:
            yield f"file_mounts: {here} does not exist"
            continue
        if there != expected:
            yield f"file_mounts: {here} is looked for at {expected}, not at {there}"


def twin_complaints(types: Mapping[str, Json]) -> Iterator[str]:
    """A spot type has one on demand that differs in its price only, comes after it, and holds as much."""
    for name, node in types.items():
        if name == "head":
            continue
        size = name.removesuffix("_spot").removesuffix("_on_demand")
        spot, other = types.get(f"{size}_spot"), types.get(f"{size}_on_demand")
        if spot is None or other is None:
            yield f"{name}: no twin"
        elif node.get("resources") != other.get("resources"):
            yield f"{name}: its twin has other resources"
        elif spot.get("priority", 0) <= other.get("priority", 0):
            yield f"{name}: the twin on demand comes first"
