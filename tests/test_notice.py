"""A cloud's notice becomes a drain, once; whatever a metadata server does, the watcher outlives it."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raydml import notice
from raydml.notice import (
    Answer,
    Aws,
    Gcp,
    Goes,
    Raylet,
    Stays,
    aws_notice,
    drained,
    gcp_maintenance,
    gcp_notice,
    raylet_of,
    watch,
)
from tests.metadata_server import Metadata

NOW = datetime(2026, 11, 21, 8, 20, 0, tzinfo=UTC)


def action(kind: str, at: str) -> str:
    return json.dumps({"action": kind, "time": at})


SURE = [
    (Answer(404, "Not Found"), Stays()),
    (Answer(200, action("terminate", "2026-11-21T08:22:00Z")), Goes(120.0, "AWS: terminate at 2026-11-21T08:22:00Z")),
    (Answer(200, action("stop", "2026-11-21T08:20:01Z")), Goes(1.0, "AWS: stop at 2026-11-21T08:20:01Z")),
    (Answer(200, action("hibernate", "2026-11-21T08:20:00Z")), Goes(0.0, "AWS: hibernate at 2026-11-21T08:20:00Z")),
    (Answer(200, action("stop", "2026-11-21T07:00:00Z")), Goes(0.0, "AWS: stop at 2026-11-21T07:00:00Z")),
]
UNSURE = [
    (Answer(401, "Unauthorized"), "401 Unauthorized"),
    (Answer(500, "Internal"), "500 Internal"),
    (Answer(0, "timed out"), "no answer timed out"),
    (Answer(200, "<html>"), "not understood: '<html>' (JSONDecodeError)"),
    (Answer(200, "[]"), "not understood: '[]' (TypeError)"),
    (Answer(200, '{"action": "stop"}'), "(KeyError)"),
    (Answer(200, action("stop", "tomorrow")), "(ValueError)"),
    (Answer(200, '{"action": "stop", "time": 7}'), "(TypeError)"),
]


@pytest.mark.parametrize(("answer", "expected"), SURE)
def test_what_aws_means(answer: Answer, expected: Stays | Goes) -> None:
    assert aws_notice(answer, now=NOW) == expected


@pytest.mark.parametrize(("answer", "trouble"), UNSURE)
def test_what_aws_cannot_mean_is_no_notice(answer: Answer, trouble: str) -> None:
    found = aws_notice(answer, now=NOW)
    assert isinstance(found, Stays)
    assert trouble in found.trouble


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, "TRUE"), Goes(30.0, "GCP: preempted")),
        (Answer(200, "true\n"), Goes(30.0, "GCP: preempted")),
        (Answer(200, "FALSE"), Stays()),
        (Answer(200, "<html>"), Stays("/computeMetadata/v1/instance/preempted: 200 <html>")),
        (Answer(404, "Not Found"), Stays("/computeMetadata/v1/instance/preempted: 404 Not Found")),
        (Answer(0, "refused"), Stays("/computeMetadata/v1/instance/preempted: no answer refused")),
    ],
)
def test_what_gcp_means(answer: Answer, expected: Stays | Goes) -> None:
    assert gcp_notice(answer) == expected


MAINTENANCE_PATH = "/computeMetadata/v1/instance/maintenance-event"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, "TERMINATE_ON_HOST_MAINTENANCE"), Goes(60.0, "GCP: maintenance of the host")),
        (Answer(200, "MIGRATE_ON_HOST_MAINTENANCE"), Stays()),
        (Answer(200, "NONE\n"), Stays()),
        (Answer(200, "TRUE"), Stays(f"{MAINTENANCE_PATH}: 200 TRUE")),
        (Answer(503, "Unavailable"), Stays(f"{MAINTENANCE_PATH}: 503 Unavailable")),
    ],
)
def test_what_a_maintenance_means(answer: Answer, expected: Stays | Goes) -> None:
    assert gcp_maintenance(answer) == expected


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    # A proxy must never be asked about this machine.
    monkeypatch.setenv("http_proxy", "http://localhost:9")
    server = Metadata()
    yield server
    server.close()


TOKEN, ACTION = "PUT /latest/api/token", "GET /latest/meta-data/spot/instance-action"
PREEMPTED, MAINTENANCE = "GET /computeMetadata/v1/instance/preempted", f"GET {MAINTENANCE_PATH}"


def with_header(name: str, value: str, then: tuple[int, str]) -> Callable[[dict[str, str]], tuple[int, str]]:
    def answer(headers: dict[str, str]) -> tuple[int, str]:
        lowered = {key.lower(): found for key, found in headers.items()}
        return then if lowered.get(name.lower()) == value else (401, "")

    return answer


def test_aws_is_asked_with_a_token_that_is_renewed(metadata: Metadata) -> None:
    metadata.answers[TOKEN] = with_header("X-aws-ec2-metadata-token-ttl-seconds", "21600", (200, "one"))
    metadata.answers[ACTION] = with_header("X-aws-ec2-metadata-token", "one", (404, ""))
    ask = Aws(metadata.url)
    assert [ask(), ask()] == [Stays(), Stays()]
    assert metadata.seen == [TOKEN, ACTION, ACTION], "a token is kept"
    metadata.answers[TOKEN] = lambda headers: (200, "two")
    metadata.answers[ACTION] = with_header(
        "X-aws-ec2-metadata-token", "two", (200, action("terminate", "2020-01-01T00:00:00Z"))
    )
    assert ask() == Goes(0.0, "AWS: terminate at 2020-01-01T00:00:00Z")
    assert metadata.seen[3:] == [ACTION, TOKEN, ACTION]


def test_a_machine_without_tokens_is_no_spot_machine_for_sure(metadata: Metadata) -> None:
    found = Aws(metadata.url)()
    assert isinstance(found, Stays)
    assert "no token" in found.trouble


def test_gcp_is_asked_with_its_header(metadata: Metadata) -> None:
    metadata.answers[PREEMPTED] = with_header("Metadata-Flavor", "Google", (200, "TRUE"))
    assert Gcp(metadata.url)() == Goes(30.0, "GCP: preempted")
    metadata.answers[PREEMPTED] = lambda headers: (200, "FALSE")
    metadata.answers[MAINTENANCE] = with_header("Metadata-Flavor", "Google", (200, "NONE"))
    assert Gcp(metadata.url)() == Stays()
    metadata.answers[MAINTENANCE] = lambda headers: (200, "TERMINATE_ON_HOST_MAINTENANCE")
    assert Gcp(metadata.url)() == Goes(60.0, "GCP: maintenance of the host")
    assert metadata.seen == [PREEMPTED, PREEMPTED, MAINTENANCE, PREEMPTED, MAINTENANCE]


def test_a_server_that_is_not_there_is_no_notice() -> None:
    for ask in (Aws("http://localhost:9"), Gcp("http://localhost:9"), Gcp("no url")):
        found = ask()
        assert isinstance(found, Stays)
        assert "no answer" in found.trouble


def test_the_watcher_says_each_change_once_and_drains_until_it_is_taken_in(caplog: pytest.LogCaptureFixture) -> None:
    bad, goes = Stays("500"), Goes(30.0, "it goes")
    answers: Iterator[Stays | Goes] = iter([Stays(), bad, bad, Stays(), goes, goes])
    drains: list[Goes] = []

    def drain(found: Goes) -> bool:
        drains.append(found)
        return len(drains) == 2

    with caplog.at_level(logging.WARNING, "raydml.notice"):
        watch(lambda: next(answers), drain, every_s=0.0)
    assert [record.getMessage() for record in caplog.records] == ["500", "the metadata server answers again"]
    assert drains == [goes, goes]


LINE = ["/ray/core/raylet", "--node_id=ab12", "--head", "--gcs-address=10.0.0.1:6379", "--worker=python --node-id=x"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (LINE, Raylet("ab12", "10.0.0.1:6379")),
        (["python", *LINE[1:]], None),
        (LINE[:2], None),
        ([], None),
        ([""], None),
    ],
)
def test_a_raylet_is_known_by_its_command_line(line: list[str], expected: Raylet | None) -> None:
    assert raylet_of(line) == expected


@pytest.fixture
def ray_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `ray` that writes its arguments down and fails where a file says so."""
    script = tmp_path / "ray"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n[ ! -e {tmp_path}/bad ] || {{ echo no >&2; exit 1; }}\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return tmp_path


def test_a_drain_is_the_command_of_ray(ray_command: Path, caplog: pytest.LogCaptureFixture) -> None:
    goes = Goes(119.9, "AWS: terminate")
    assert drained(Raylet("ab12", "10.0.0.1:6379"), goes)
    expected = "drain-node --address 10.0.0.1:6379 --node-id ab12 --reason DRAIN_NODE_REASON_PREEMPTION"
    expected += " --reason-message AWS: terminate --deadline-remaining-seconds 119\n"
    assert (ray_command / "said").read_text() == expected
    (ray_command / "bad").touch()
    assert not drained(Raylet("ab12", "10.0.0.1:6379"), goes)
    assert "cannot be drained: no" in caplog.text


def test_a_service_finds_the_ray_beside_its_python(ray_command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.setattr("sys.executable", str(ray_command / "python"))
    assert drained(Raylet("ab12", "10.0.0.1:6379"), Goes(1.0, "x"))
    assert (ray_command / "said").read_text().startswith("drain-node ")


def test_without_ray_a_drain_fails_and_nothing_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert not drained(Raylet("ab12", "10.0.0.1:6379"), Goes(1.0, "x"))
    assert "cannot be drained" in caplog.text


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_command_drains_every_raylet_of_this_machine(
    cloud: str, metadata: Metadata, ray_command: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata.answers[TOKEN] = lambda headers: (200, "one")
    metadata.answers[ACTION] = lambda headers: (200, action("stop", "2020-01-01T00:00:00Z"))
    metadata.answers[PREEMPTED] = lambda headers: (200, "TRUE")
    found = iter([[], [Raylet("a", "h:1"), Raylet("b", "h:1")]])
    monkeypatch.setattr(notice, "raylets", lambda: iter(next(found)))
    assert notice.main([cloud, "--host", metadata.url, "--every", "0.01"]) == 0
    assert (ray_command / "said").read_text().count("drain-node") == 2, "before Ray has started there is none"


@pytest.mark.parametrize(("cloud", "every_s"), [("aws", 5.0), ("gcp", 1.0)])
def test_a_cloud_is_asked_as_often_as_its_notice_is_short(
    cloud: str, every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(notice, "watch", lambda ask, drain, *, every_s: asked.append(every_s))
    assert notice.main([cloud]) == notice.main([cloud, "--every", "7"]) == 0
    assert asked == [every_s, 7.0]


def test_kubernetes_waits_for_the_trainings(ray_command: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("raydml.notice.time.sleep", slept.append)
    for found in ([Raylet("a", "h:1")], []):
        monkeypatch.setattr(notice, "raylets", lambda found=found: iter(found))
        assert notice.main(["kubernetes", "--seconds", "20"]) == 0
    assert slept.count(20.0) == 1, "where there is nothing to drain there is nothing to wait for"
    assert "--deadline-remaining-seconds 20" in (ray_command / "said").read_text()


def test_it_needs_neither_torch_nor_ray() -> None:
    code = "import sys, raydml.notice; sys.exit(bool({'torch', 'ray', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_this_machine_is_searched_for_raylets() -> None:
    assert all(isinstance(found, Raylet) for found in notice.raylets())
