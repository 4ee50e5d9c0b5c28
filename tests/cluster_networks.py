"""What CloudFormation would say to a template: the keys of every resource, against the schemas that cfn-lint ships."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from tests.misspelt import Json

REGION = "us-west-2"
TOP = {"AWSTemplateFormatVersion", "Description", "Parameters", "Conditions", "Resources", "Outputs"}
OF_A_RESOURCE = {"Type", "Properties", "DependsOn", "Condition", "DeletionPolicy", "UpdateReplacePolicy"}
OF_A_PARAMETER = {"Type", "Description", "Default", "AllowedValues"}
OF_AN_OUTPUT = {"Description", "Value"}
FUNCTIONS = {"Ref", "Fn::Sub", "Fn::GetAtt", "Fn::Select", "Fn::GetAZs", "Fn::Equals"}
# The grammar of IAM's policies, which the schemas leave open.
POLICY = {"Version", "Statement"}
STATEMENT = {"Effect", "Action", "Resource", "NotResource", "Principal", "Condition"}
CONDITIONS = {
    *("aws:RequestTag/ray-cluster-name", "aws:ResourceTag/ray-cluster-name", "ec2:CreateAction"),
    *("iam:PassedToService", "iam:AWSServiceName"),
}


def complaints(template: Json) -> Iterator[str]:
    """Every key of a template that nobody reads."""
    yield from unknown(template, TOP, "template")
    for section, known in (("Parameters", OF_A_PARAMETER), ("Outputs", OF_AN_OUTPUT)):
        for name, entry in template.get(section, {}).items():
            yield from unknown(entry, known, name)
            yield from against(entry.get("Value"), {}, {}, name)
    for name, condition in template.get("Conditions", {}).items():
        yield from against(condition, {}, {}, name)
    yield from used(template)
    for name, resource in template.get("Resources", {}).items():
        yield from unknown(resource, OF_A_RESOURCE, name)
        schema = {}
        if "Type" in resource:
            schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, resource["Type"]).schema
        yield from against(resource.get("Properties", {}), schema, schema, name)


def unknown(value: Mapping[str, Json], known: set[str], place: str) -> Iterator[str]:
    """Keys that are none of those known."""
    yield from (f"{place}: unknown {key}" for key in value.keys() - known)


def used(template: Json) -> Iterator[str]:
    """What is referred to exists, and what is a parameter or a condition is referred to."""
    text = str(template)
    for section in ("Parameters", "Conditions"):
        for name in template.get(section, {}):
            if not any(form in text for form in (f"'Ref': '{name}'", f"${{{name}}}", f"'Condition': '{name}'")):
                yield f"{section}: nobody reads {name}"
    known = template.get("Parameters", {}).keys() | template.get("Resources", {}).keys()
    for name in references(template):
        if name.partition(".")[0] not in known and not name.startswith("AWS::"):
            yield f"nothing is called {name}"
    yield from (f"no output {name}" for name in {"Edit"} - template.get("Outputs", {}).keys())


def references(value: Json) -> Iterator[str]:
    """Names in `!Ref`, `!GetAtt` and in `DependsOn`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("Ref", "DependsOn"):
                yield inner
            elif key == "Fn::GetAtt":
                yield inner[0] if isinstance(inner, list) else inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def against(value: Json, schema: Json, root: Json, place: str) -> Iterator[str]:
    """Keys of a value that its schema does not list, all the way down."""
    schema = resolved(schema, root)
    if isinstance(value, Mapping):
        properties = schema.get("properties", {})
        for key, inner in value.items():
            if key in FUNCTIONS and len(value) == 1:
                yield from against(inner, {}, {}, f"{place}.{key}")
            elif key in ("PolicyDocument", "AssumeRolePolicyDocument") and key in properties:
                yield from policy(inner, f"{place}.{key}")
            elif key in properties:
                yield from against(inner, properties[key], root, f"{place}.{key}")
            else:
                yield f"{place}: unknown {key}"
    elif isinstance(value, list):
        for item in value:
            yield from against(item, schema.get("items", {}), root, f"{place}[]")


def resolved(schema: Json, root: Json) -> Json:
    """What a reference within a schema stands for."""
    while "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def policy(document: Json, place: str) -> Iterator[str]:
    """Keys of a policy that are none of IAM's."""
    yield from unknown(document, POLICY, place)
    for statement in document.get("Statement", []):
        yield from unknown(statement, STATEMENT, place)
        yield from unknown(statement.get("Principal", {}), {"Service"}, place)
        yield from unknown(statement.get("Condition", {}), {"StringEquals"}, place)
        compared = statement.get("Condition", {}).get("StringEquals", {})
        yield from unknown(compared, CONDITIONS, place)
        for value in (statement.get("Resource"), statement.get("NotResource"), *compared.values()):
            yield from against(value, {}, {}, place)
