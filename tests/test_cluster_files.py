"""What cluster/ says fits together: commands of its README exist, files name what there is, no secret lies there."""

from __future__ import annotations

import importlib.util
import math
import re
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

import raydml.space

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
README = (CLUSTER / "README.md").read_text(encoding="utf-8")
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
CLOUDS = ("AWS", "Google Cloud", "Kubernetes")
# Keys of AWS, Google Cloud and GitHub, private keys, long runs of letters and digits: written so as not to match here.
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|AIza[\w-]{30}|gh[po]_\w{30}|PRIVATE KEY-|\b(?=\w*[0-9])(?=\w*[a-zA-Z])\w{36,}\b"
    r"|(?i:password|secret_key|auth_token)\s*[:=]\s*['\"]?\w{6,}"
)


def blocks(section: str) -> list[str]:
    """The shell of a section of the README, block by block."""
    text = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)


def commands(shell: str) -> list[str]:
    """One command a line, continued lines joined."""
    return [line for line in shell.replace("\\\n", " ").splitlines() if line.strip()]


SHELL = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
EVERY_COMMAND = [line for shell in SHELL for line in commands(shell)]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ten_commands_lead_from_nothing_to_nothing(cloud: str) -> None:
    (shell,) = blocks(cloud)
    listed = commands(shell)
    assert 5 <= len(listed) <= 10
    assert any("raydml.tune" in line or "rayjob.yaml" in line for line in listed)
    assert any(line.startswith("python -m raydml.report") for line in listed)
    assert re.match(r"aws cloudformation delete-stack|cluster/gcp-network.sh down|kubectl delete -k", listed[-1])


def test_what_the_commands_name_is_there() -> None:
    named = {word for line in EVERY_COMMAND for word in re.findall(r"(?:cluster|search_spaces)/[\w./-]+", line)}
    assert len(named) >= 6
    assert not [name for name in named if not (ROOT / name).exists()]
    for name in re.findall(r"`([\w.-]+\.(?:yaml|sh))`", README.partition("## AWS")[0]):
        assert (CLUSTER / name).exists() or (CLUSTER / "kuberay" / name).exists(), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_modules_that_are_run_exist(path: Path) -> None:
    for name in re.findall(r"python,? -m,? (raydml[\w.]*)", path.read_text(encoding="utf-8")):
        assert importlib.util.find_spec(name) is not None, name


def test_studies_that_are_run_are_read() -> None:
    texts = [README, (CLUSTER / "kuberay" / "rayjob.yaml").read_text(encoding="utf-8")]
    runs = [match for text in texts for match in re.findall(r"raydml\.tune (\S+)((?: [\w.-]+(?:=\S+)?)*)", text)]
    assert len(runs) >= 4
    for study, rest in runs:
        overrides = [word for word in rest.split() if "=" in word]
        raydml.space.read(ROOT / study, overrides)


def test_commands_of_ray_have_the_options_they_are_given() -> None:
    seen = set()
    for line in EVERY_COMMAND:
        words = shlex.split(line.replace("(", " ").replace("&)", " ").replace(")", " "))
        if "ray" not in words:
            continue
        words = words[words.index("ray") + 1 :]
        command: click.Command = ray_cli
        while isinstance(command, click.Group):
            seen.add(words[0])
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        given = takewhile(lambda word: word not in ("--", ";"), words)
        assert {word for word in given if word.startswith("-")} <= known, line
    assert {"up", "down", "dashboard", "job", "submit", "get-auth-token"} <= seen


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_secret_is_in_a_file(path: Path) -> None:
    assert SECRETS.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "password: " + "hunter22",
        "token = " + "3f9a" * 16,
        "-----BEGIN RSA PRIVATE " + "KEY-----",
    ],
)
def test_a_secret_would_be_seen(text: str) -> None:
    assert SECRETS.search(text)


def test_the_prices_are_of_the_machines_in_the_files() -> None:
    used = set()
    for cloud, key in (("aws", "InstanceType"), ("gcp", "machineType")):
        types = yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text(encoding="utf-8"))["available_node_types"]
        used |= {node["node_config"][key] for node in types.values()}
    table = README.partition("## What it costs")[2].partition("\n## ")[0]
    assert used == set(re.findall(r"`((?:m7i|g6|n2|g2)[\w.-]+)`", table))


def sums(text: str) -> list[tuple[float, float]]:
    """What each reckoning of a text comes to, and what the text says that it does."""
    terms = r"((?:[\d.]+|\+|x|\(|\)| |\n)+) = about (\d+) dollars"
    return [(reckoned(left), float(right)) for left, right in re.findall(terms, text)]


def reckoned(text: str) -> float:
    """Sums of products, one of which may be times a sum in brackets."""
    factor, bracket, inner = text.partition("(")
    if bracket:
        return float(factor.replace("x", "")) * reckoned(inner.replace(")", ""))
    return sum(math.prod(float(number) for number in term.split("x")) for term in text.split("+"))


def test_the_costs_are_reckoned_right() -> None:
    costs = README.partition("## What it costs")[2].partition("\n## ")[0]
    found = sums(costs)
    assert len(found) == 2
    assert [round(sum_) for sum_, _ in found] == [said for _, said in found]
    (hourly,) = re.findall(r"price_per_hour=([\d.]+)", costs)
    assert found[0][0] == pytest.approx(3 * float(hourly)), "three hours"
    for cloud in ("aws", "gcp"):
        types = yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text(encoding="utf-8"))["available_node_types"]
        most = [str(node["max_workers"]) for name, node in types.items() if name != "head" and node["max_workers"] > 1]
        assert re.search(r" x [\d.]+ \+ ".join(most) + r" x ", costs), "the most there can be is that of the files"


def test_every_link_in_the_chain_has_a_heading() -> None:
    headings = re.findall(r"^## (.+)$", README, flags=re.MULTILINE)
    assert headings[:3] == list(CLOUDS)
    assert headings[-1] == "Threat model"
