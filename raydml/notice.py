"""Turns a cloud's notice that this machine goes into a Ray drain: `python -m raydml.notice aws|gcp|kubernetes`.

Ray places nothing more on a machine that drains, and raydml's trainings leave it with a checkpoint. Ray's launchers ask
no cloud, so on `aws` and `gcp` this runs beside `ray start` and asks the machine's metadata server every few seconds,
whatever happens; where the machine is not to go it does nothing. On `kubernetes` it is the `preStop` hook of a worker:
it drains at once, and returns when the trainings had their time, because the container is stopped then.

AWS gives notice of a spot interruption two minutes ahead, GCP of a preemption 30 s, and of a maintenance that ends a
machine an hour where it has a GPU. AWS's recommendation to rebalance is not heeded: it may come hours before, or for
nothing. Needs the standard library and the `ray` command.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_LOGGER = logging.getLogger("raydml.notice")

# AWS asks to be asked every five seconds; of GCP's thirty each one counts.
_EVERY_S = {"aws": 5.0, "gcp": 1.0}
_ANSWER_S, _DRAIN_S = 2.0, 30.0
# AWS's address is link-local, the same on every machine; in pieces, because no other address may stand in a source.
_AWS, _GCP = "http://" + "169.254.169.254", "http://metadata.google.internal"
_TOKEN, _ACTION = "/latest/api/token", "/latest/meta-data/spot/instance-action"
_PREEMPTED = "/computeMetadata/v1/instance/preempted"
_MAINTENANCE = "/computeMetadata/v1/instance/maintenance-event"
# What is promised; for the maintenance of a machine without a GPU, the shorter of two.
_PREEMPTED_S, _MAINTENANCE_S = 30.0, 60.0
_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404


@dataclass(frozen=True)
class Answer:
    """What a metadata server said; or did not, with the reason as text and status 0."""

    status: int
    text: str = ""


@dataclass(frozen=True)
class Stays:
    """The machine stays, as far as anybody knows."""

    trouble: str = ""
    """Why that is not sure."""


@dataclass(frozen=True)
class Goes:
    """The machine goes."""

    seconds: float
    """Until then; 0 where the time is over."""
    reason: str


def aws_notice(answer: Answer, *, now: datetime) -> Stays | Goes:
    """What `spot/instance-action` means: nothing there (404), or an action with its time (UTC)."""
    if answer.status == _NOT_FOUND:
        return Stays()
    if answer.status != _OK:
        return Stays(f"{_ACTION}: {answer.status or 'no answer'} {answer.text}".strip())
    try:
        found = json.loads(answer.text)
        action = str(found["action"])
        at = datetime.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (ValueError, KeyError, TypeError) as error:
        return Stays(f"{_ACTION}: not understood: {answer.text[:80]!r} ({type(error).__name__})")
    return Goes(max(0.0, (at - now).total_seconds()), f"AWS: {action} at {found['time']}")


def gcp_notice(answer: Answer) -> Stays | Goes:
    """What `instance/preempted` means: TRUE or FALSE."""
    match answer.status, answer.text.strip().upper():
        case (200, "TRUE"):
            return Goes(_PREEMPTED_S, "GCP: preempted")
        case (200, "FALSE"):
            return Stays()
    return _not_understood(_PREEMPTED, answer)


def gcp_maintenance(answer: Answer) -> Stays | Goes:
    """What `instance/maintenance-event` means. A machine with a GPU cannot move: the maintenance of its host stops it.

    Ray's launcher neither sees nor ends a machine that was stopped, so its disk would cost on.
    """
    match answer.status, answer.text.strip().upper():
        case (200, "TERMINATE_ON_HOST_MAINTENANCE"):
            return Goes(_MAINTENANCE_S, "GCP: maintenance of the host")
        case (200, "NONE" | "MIGRATE_ON_HOST_MAINTENANCE"):
            return Stays()
    return _not_understood(_MAINTENANCE, answer)


def _not_understood(path: str, answer: Answer) -> Stays:
    return Stays(f"{path}: {answer.status or 'no answer'} {answer.text[:80]}".strip())


def asked(url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    """One request, to the machine itself and never through a proxy. Raises nothing."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(url, method=method, headers=headers or {})  # noqa: S310
        with opener.open(request, timeout=_ANSWER_S) as response:
            return Answer(response.status, response.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.reason)
    except Exception as error:  # a metadata server may be anything for a while, and this must outlive it
        return Answer(0, str(error))


class Aws:
    """Asks AWS, version 2 of its protocol: with a token, renewed when it is no longer taken."""

    def __init__(self, host: str = _AWS) -> None:
        self._host = host
        self._token: str | None = None

    def __call__(self) -> Stays | Goes:
        """What is known now."""
        answer = self._action()
        if answer.status == _UNAUTHORIZED:
            self._token = None
            answer = self._action()
        return aws_notice(answer, now=datetime.now(UTC))

    def _action(self) -> Answer:
        if self._token is None:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
            given = asked(self._host + _TOKEN, method="PUT", headers=headers)
            if given.status != _OK:
                return Answer(given.status if given.status != _NOT_FOUND else 0, f"no token: {given.text}")
            self._token = given.text
        return asked(self._host + _ACTION, headers={"X-aws-ec2-metadata-token": self._token})


class Gcp:
    """Asks GCP."""

    def __init__(self, host: str = _GCP) -> None:
        self._host = host

    def __call__(self) -> Stays | Goes:
        """What is known now."""
        found = gcp_notice(self._asked(_PREEMPTED))
        return found if found != Stays() else gcp_maintenance(self._asked(_MAINTENANCE))

    def _asked(self, path: str) -> Answer:
        return asked(self._host + path, headers={"Metadata-Flavor": "Google"})


def watch(ask: Callable[[], Stays | Goes], drain: Callable[[Goes], bool], *, every_s: float) -> None:
    """Asks until the machine goes and is drained. Says what changes, a line each."""
    said = Stays()
    while True:
        found = ask()
        if isinstance(found, Goes):
            if drain(found):
                return
        elif found != said:
            _LOGGER.warning("%s", found.trouble or "the metadata server answers again")
            said = found
        time.sleep(every_s)


@dataclass(frozen=True)
class Raylet:
    """Ray's process on a machine."""

    node_id: str
    address: str
    """The head's, `host:port`."""


def raylet_of(command_line: Sequence[str]) -> Raylet | None:
    """The raylet that a command line belongs to; None for another process."""
    if not command_line or Path(command_line[0]).name != "raylet":
        return None
    options = dict(part.lstrip("-").split("=", 1) for part in command_line if part.startswith("--") and "=" in part)
    try:
        return Raylet(options["node_id"], options["gcs-address"])
    except KeyError:
        return None


def raylets() -> Iterator[Raylet]:
    """Those of this machine."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if (found := raylet_of(line)) is not None:
            yield found


def _ray_command() -> str:
    """A service has another PATH than its user: then the `ray` beside this Python."""
    return shutil.which("ray") or str(Path(sys.executable).with_name("ray"))


def drained(raylet: Raylet, notice: Goes) -> bool:
    """Tells the head of a cluster that a machine goes. Whether it took that in; says so. Raises nothing."""
    arguments = [
        *("drain-node", "--address", raylet.address, "--node-id", raylet.node_id),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", notice.reason),
        *("--deadline-remaining-seconds", str(int(notice.seconds))),
    ]
    try:
        done = subprocess.run(  # noqa: S603
            [_ray_command(), *arguments], capture_output=True, text=True, timeout=_DRAIN_S, check=False
        )
        trouble = "" if done.returncode == 0 else (done.stderr.strip() or "no message").splitlines()[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if trouble:
        _LOGGER.warning("%s; but this machine cannot be drained: %s", notice.reason, trouble)
        return False
    _LOGGER.warning("%s; drained, %.0f s are left", notice.reason, notice.seconds)
    return True


def drained_here(notice: Goes) -> bool:
    """Drains this machine, whatever clusters it belongs to. Whether all took that in; False before Ray has started."""
    found = list(raylets())
    if not found:
        _LOGGER.warning("%s; but no raylet runs here", notice.reason)
    return bool(found) and all(drained(raylet, notice) for raylet in found)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m raydml.notice", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cloud", choices=("aws", "gcp", "kubernetes"))
    parser.add_argument("--host", help="URL of the metadata server, where it is another one than the cloud's")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="between two questions (aws 5, gcp 1)")
    parser.add_argument(
        "--seconds", type=float, default=25.0, help="kubernetes: how long trainings have to leave (default 25)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns when this machine is drained: 0; on kubernetes in any case, because the container goes."""
    logging.basicConfig(format="%(asctime)s raydml.notice: %(message)s", stream=sys.stderr)
    options = _arguments(argv)
    if options.cloud == "kubernetes":
        if drained_here(Goes(options.seconds, "Kubernetes: the pod ends")):
            time.sleep(options.seconds)
        return 0
    ask = Aws(options.host or _AWS) if options.cloud == "aws" else Gcp(options.host or _GCP)
    watch(ask, drained_here, every_s=options.every or _EVERY_S[options.cloud])
    return 0


if __name__ == "__main__":
    sys.exit(main())
