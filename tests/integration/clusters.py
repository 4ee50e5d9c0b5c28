"""Real Ray clusters on this machine: one `ray start` a machine, tokens asked for, and no process left behind.

Every machine has an address, a temporary folder and a log of its own below one short folder, so its processes are those
that hold a file there: Ray rewrites their command lines and environments. A machine is lost as power is: all its
processes at once, without a word.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil

from tests.integration.processes import command_line, kill_all, processes_of, signal_to
from tests.integration.studies import command, wait_for

ROOT = Path(__file__).parents[2]
# A machine that is gone refuses at once and is noticed within two seconds; one that is only slow has its time.
_QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "3",
}
_STORE_BYTES = 100_000_000
_LOCAL = "127.0.0.1"
# An actor that waits has the name of its class, one that works that of Tune's class around it.
_TRIAL = re.compile(r"ray::(InlineTrial|ResourceTrainable)\b")


class Machine:
    """One machine of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def processes(self) -> list[psutil.Process]:
        """Everything that runs there."""
        return processes_of(self.folder)

    def lose(self) -> None:
        """All its processes die at once."""
        for process in self.processes():
            # What starts others must not start one more between the look and the kill.
            signal_to(process, "suspend" if "raylet" in command_line(process) else "kill")
        kill_all(self.folder)


class LocalCluster:
    """A head and the machines that joined it."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.token = _new_token(folder / "token")
        self.port, self.dashboard_port, self._client_port = _free_ports(3)
        self.head = Machine(folder / "0")
        self.machines: list[Machine] = []
        self.settings: dict[str, str] = {**_QUICK_TO_NOTICE, **(settings or {})}

    @property
    def api(self) -> str:
        """Where jobs are submitted."""
        return f"http://{_LOCAL}:{self.dashboard_port}"

    @property
    def address(self) -> str:
        """Where machines and drivers join."""
        return f"{own_address()}:{self.port}"

    def environment(self, **changes: str) -> dict[str, str]:
        """What a user of the cluster has: the token, and no way to a raydml but the installed one."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        return {
            **ours,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{ours['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            **changes,
        }

    def start_head(self, *options: str, cpus: int = 0, before: Sequence[str] = ()) -> None:
        """The machine that everything else hangs on, started by `before` and the command."""
        self._start(
            self.head,
            "--head",
            f"--port={self.port}",
            f"--dashboard-host={_LOCAL}",
            f"--dashboard-port={self.dashboard_port}",
            f"--ray-client-server-port={self._client_port}",
            f"--num-cpus={cpus}",
            *options,
            before=before,
        )()

    def join(self, *cpus: int, before: Sequence[str] = ()) -> list[Machine]:
        """Machines with so many cores, started side by side, each by `before` and the command."""
        first = len(self.machines)
        joining = [Machine(self.folder / f"{first + place + 1}") for place in range(len(cpus))]
        self.machines += joining
        started = [
            self._start(
                machine,
                f"--address={self.address}",
                # Of its own, or it would be taken for the head by whoever asks for "the machine I am on".
                f"--node-ip-address=127.0.0.{first + place + 2}",
                f"--num-cpus={cpus[place]}",
                before=before,
            )
            for place, machine in enumerate(joining)
        ]
        for wait in started:
            wait()
        return joining

    def _start(self, machine: Machine, *options: str, before: Sequence[str] = ()) -> Callable[[], None]:
        machine.folder.mkdir()
        line = [*before, *ray_command("start"), *options, f"--temp-dir={machine.folder}"]
        # Several machines are this one: an agent of each, and workers that take any port, not the first of a list.
        line += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        line += [f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats"]
        # Not a pipe: its daemons would hold it open.
        with (machine.folder / "start.log").open("wb") as log:
            process = subprocess.Popen(
                line, env=self.environment(**self.settings), stdout=log, stderr=log, cwd=self.folder
            )

        def wait() -> None:
            assert process.wait(timeout=120) == 0, (machine.folder / "start.log").read_text("utf-8")

        return wait

    def ray(self, *arguments: str, changes: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command of Ray's command line, as a user of this cluster types it; `changes` of the environment."""
        return subprocess.run(
            ray_command(*arguments),
            env=self.environment(**{"RAY_API_SERVER_ADDRESS": self.api, **(changes or {})}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.folder,
        )

    def submit(self, name: str, working_directory: Path, *entrypoint: str) -> None:
        """Submits a job and does not wait for it."""
        options = ["--no-wait", "--submission-id", name, "--working-dir", str(working_directory)]
        found = self.ray("job", "submit", "--address", self.api, *options, "--", *entrypoint)
        assert found.returncode == 0, found.stdout + found.stderr

    @contextmanager
    def driver(self, name: str, *arguments: object, out: Path, err: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A command of this raydml that joins from outside, and what it prints; ended behind it, whatever it did."""
        joining = self.environment(RAY_ADDRESS=self.address, PYTHONPATH=str(ROOT))
        with out.open("wb") as to, err.open("wb") as errors:
            process = subprocess.Popen(command(name, *arguments), env=joining, stdout=to, stderr=errors, cwd=ROOT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def ask(self, path: str) -> Any:  # noqa: ANN401
        """What the job server answers, with the token."""
        request = Request(f"{self.api}{path}", headers={"Authorization": f"Bearer {self.token.read_text()}"})
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def status(self, job: str) -> str:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
        return str(self.ask(f"/api/jobs/{job}")["status"])

    def free_cpus(self) -> float:
        """Cores that nothing has reserved."""
        found = self.ray("status", "--address", self.address)
        numbers = re.search(r"([\d.]+)/([\d.]+) CPU", found.stdout)
        assert numbers is not None, found.stdout + found.stderr
        return float(numbers[2]) - float(numbers[1])

    def logs(self, job: str) -> str:
        """What a job has printed."""
        found = self.ray("job", "logs", job)
        return found.stdout + found.stderr

    def wait_for_end(self, job: str, *, timeout: float) -> str:
        """The state a job ends in."""
        wait_for(lambda: self.status(job) not in ("PENDING", "RUNNING"), timeout=timeout)
        return self.status(job)

    def trials(self) -> list[psutil.Process]:
        """Processes of inline trials, wherever they are."""
        return [process for process in processes_of(self.folder) if _TRIAL.match(command_line(process))]


@contextmanager
def cluster(settings: Mapping[str, str] | None = None) -> Iterator[LocalCluster]:
    """A place for a cluster; whatever was started in it has ended behind it."""
    # The path of a socket has at most 107 characters: too few for a folder of pytest.
    folder = Path(tempfile.mkdtemp(prefix="raydml-"))
    try:
        yield LocalCluster(folder, settings)
    finally:
        kill_all(folder)
        left = [command_line(process) for process in processes_of(folder)]
        shutil.rmtree(folder, ignore_errors=True)
        assert not left


def working_copy(folder: Path, *, version: str) -> Path:
    """A working directory with what a search needs, of a raydml that calls itself `version`."""
    copy = folder / "working"
    for name in ("raydml", "search_spaces"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    init = copy / "raydml" / "__init__.py"
    text = init.read_text("utf-8")
    marked = text.replace('__version__ = "', f'__version__ = "{version}+', 1)
    assert marked != text
    init.write_text(marked, "utf-8")
    return copy


def own_address() -> str:
    """The address that `ray start` gives to this machine, where a Ray of this process has another one too."""
    from raydml.session import import_ray

    import_ray()
    from ray._raylet import node_ip_address_from_perspective  # type: ignore[attr-defined]  # compiled

    return str(node_ip_address_from_perspective())


def ray_command(*arguments: str) -> list[str]:
    """`ray ...` of this interpreter's installation."""
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def _new_token(path: Path) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    return path


def _free_ports(number: int) -> list[int]:
    """Below those that the system gives to whoever asks for any: nothing takes them before Ray does."""
    found: list[int] = []
    while len(found) < number:
        port = 20000 + secrets.randbelow(12000)
        with suppress(OSError), socket.create_server(("", port)):
            found.append(port)
    return found
