"""The Dockerfile, as far as it can be checked without an engine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
KNOWN = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}


def instructions(text: str) -> list[tuple[str, str]]:
    """Instruction and arguments, comments dropped and continued lines joined."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = [line for line in kept.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], " ".join(line.split(maxsplit=1)[1].split())) for line in lines]


def given(name: str) -> list[str]:
    """The arguments of every instruction of a name."""
    return [rest for word, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")) if word == name]


def copied() -> list[str]:
    return [source for rest in given("COPY") for source in rest.split()[:-1]]


def project() -> dict[str, str | list[str]]:
    table: dict[str, str | list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def test_every_instruction_is_known() -> None:
    words = [word for word, _ in instructions(DOCKERFILE.read_text(encoding="utf-8"))]
    assert words[0] == "FROM"
    assert set(words) == KNOWN, "an ARG would be a place for a secret; ADD fetches"


def test_the_base_is_pinned_to_the_python_of_the_project() -> None:
    (base,) = given("FROM")
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", base)
    assert version is not None
    assert project()["requires-python"] == f">={version[1]}"


def test_what_is_copied_is_in_the_repository_and_not_ignored() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    rules = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert "*" in rules
    assert set(copied()) == set(allowed)
    for source in copied():
        assert any(name == source or name.startswith(f"{source}/") for name in tracked), source
        assert not fnmatch(source, "**/__pycache__")


def test_dependencies_come_before_the_code_that_changes() -> None:
    order = [rest for word, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")) if word in ("COPY", "RUN")]
    first = next(number for number, rest in enumerate(order) if "pip install ." in rest)
    code = next(number for number, rest in enumerate(order) if rest.startswith("raydml "))
    assert order[first - 1] == "pyproject.toml ./"
    assert first < code
    assert "pip install --no-deps ." in order[code + 1]


def test_it_runs_as_a_user_whose_number_kubernetes_can_see() -> None:
    assert given("USER") == ["1000:1000"]
    last = [word for word, _ in instructions(DOCKERFILE.read_text(encoding="utf-8"))][-2:]
    assert last == ["USER", "CMD"]
    assert any("useradd --uid 1000 " in rest for rest in given("RUN"))


def test_no_environment_is_a_secret() -> None:
    names = re.findall(r"(\w+)=", " ".join(given("ENV")))
    assert names
    assert not [name for name in names if re.search("TOKEN|KEY|SECRET|PASSWORD", name)]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_manifests_have_the_version_of_the_project_and_the_user_of_the_image(name: str) -> None:
    text = (ROOT / "cluster" / "kuberay" / name).read_text(encoding="utf-8")
    spec = yaml.safe_load(text)["spec"]
    (ray,) = [need for need in project()["dependencies"] if need.startswith("ray[")]
    pinned = re.search(r"==(\d+\.\d+)\.\*$", ray)
    assert pinned is not None
    assert spec.get("rayClusterSpec", spec)["rayVersion"].startswith(f"{pinned[1]}.")
    assert set(re.findall(r"image: (\S+)", text)) == {f"REGISTRY/raydml:{project()['version']}"}
    assert set(re.findall(r"runAsUser: (\d+)", text)) == {"1000"}


def test_the_job_runs_where_the_image_has_the_studies() -> None:
    """A job begins in the folder where its node of Ray was started: the image's own."""
    assert given("WORKDIR") == ["/opt/raydml"]
    assert "search_spaces ./search_spaces" in given("COPY")
    job = yaml.safe_load((ROOT / "cluster" / "kuberay" / "rayjob.yaml").read_text(encoding="utf-8"))
    assert job["spec"]["entrypoint"].endswith(" search_spaces/margin.yaml")
