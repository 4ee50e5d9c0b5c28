"""One connection to Ray, for every command: settings that must precede its import, and what the cluster has."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from rich.console import Console

from raydml import autoscaler
from raydml.capacity import Capacity, Machine, this_machine
from raydml.config import ConfigError
from raydml.local_ray import environment_to_join, guard_token, on_loopback

# Read by Ray when it is imported or a worker starts.
_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0 the old output is the silent one; ours replaces it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # metrics.jsonl and event files are ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports its reason instead of a metric
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # raydml.admission decides how many trials wait for machines
    # What waits for machines is told by raydml: Tune's own warning knows no autoscaler.
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1e9",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # raydml says in a line what happened and what becomes of it
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    # A report takes at least this long: the default of 2 s would cost more than a small epoch.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Workers wait for their machines as long as it takes (a month): Ray Train counts a time-out as a failure.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "2592000",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# An attempt to join takes a second where the token is refused, and half a minute where nobody answers: not twenty.
_JOINING = {"RAY_NUM_REDIS_GET_RETRIES": "3"}

_POLL_S = 1.0


def import_ray() -> Any:  # noqa: ANN401
    """The ray module, imported under raydml's settings; those of the user's environment come first."""
    for name, value in {**_SETTINGS, **(_JOINING if joins_cluster() else {})}.items():
        os.environ.setdefault(name, value)
    import ray

    return ray


@contextmanager
def connected(*, verbose: bool = False) -> Iterator[Capacity]:
    """A running Ray: the cluster of RAY_ADDRESS (a submitted job has it), else one on this machine that ends with us.

    A connection that exists already, as in a notebook or a test, is used and left open. A cluster of which nothing is
    known that could hold a worker is waited for.
    """
    ray = import_ray()
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, verbose=verbose)
    try:
        with _ending_in_order() if ours else nullcontext():
            yield _known_capacity(ray)
    finally:
        if ours:
            ray.shutdown()


def capacity_ahead() -> Capacity | None:
    """What `connected` will find; None where that is a cluster which is yet to be joined, or has no machine yet."""
    ray = import_ray()
    if ray.is_initialized():
        found = _capacity(ray)
        return found if found.known else None
    return None if joins_cluster() else this_machine()


def joins_cluster() -> bool:
    """Whether `connected` will join a cluster, whose machines this one cannot know before."""
    return bool(os.environ.get("RAY_ADDRESS"))


def now(capacity: Capacity) -> Capacity:
    """The same cluster with the machines that it has now."""
    head, machines = _machines(import_ray())
    return replace(capacity, head=head, machines=machines)


def _capacity(ray: Any) -> Capacity:  # noqa: ANN401
    head, machines = _machines(ray)
    growth = autoscaler.growth()
    return Capacity(machines, growth.node_types, growth.most_workers, head)


def _machines(ray: Any) -> tuple[Machine | None, tuple[Machine, ...]]:  # noqa: ANN401
    """The head, and all that are alive, with the memory that Ray gives to tasks and actors."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    heads = [autoscaler.machine_of(resources) for resources in alive if "node:__internal_head__" in resources]
    return (heads[0] if heads else None), tuple(map(autoscaler.machine_of, alive))


def _known_capacity(ray: Any) -> Capacity:  # noqa: ANN401
    """Waits for a first machine where the cluster has none but its head, and no node types that could be read."""
    capacity = _capacity(ray)
    if capacity.known:
        return capacity
    Console(stderr=True).print("waits for a machine: the cluster has none yet but its head", highlight=False)
    # An autoscaler starts none before something asks for it.
    from ray.util import placement_group, remove_placement_group

    asking = placement_group([{"CPU": 1}])
    try:
        while not (capacity := _capacity(ray)).known:
            time.sleep(_POLL_S)
    finally:
        remove_placement_group(asking)
    return capacity


def _connect(ray: Any, *, verbose: bool) -> None:  # noqa: ANN401
    settings = {name: os.environ[name] for name in _SETTINGS}
    options: dict[str, Any] = {
        "runtime_env": {"env_vars": settings},
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
    }
    if joins_cluster():
        _join(ray, options)
        return
    # Our own: not what a forgotten `ray start` left behind. No dashboard, nothing here asks it anything.
    options |= {"address": "local", "include_dashboard": False, "num_cpus": int(this_machine().cpus)}
    guard_token()
    with on_loopback(ray):
        ray.init(**options)


def _join(ray: Any, options: dict[str, Any]) -> None:  # noqa: ANN401
    address = os.environ.get("RAY_ADDRESS", "")
    # Ray Client's drivers see no machines, and a dashboard is no head.
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS={address}: must be HOST:PORT of the head, for a command that runs on a machine of the "
            "cluster; from elsewhere submit it: ray job submit --address http://HOST:8265 -- python -m raydml..."
        )
    try:
        ray.init(**options)
    # No such place; no such address; another version of Ray or Python there.
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"RAY_ADDRESS={address}: cannot be joined: {_cause_of(error)}") from None


def _cause_of(error: BaseException) -> str:
    """A refused token is said in what led to the error, below a traceback of Ray's own."""
    found = re.search(r"^[\w.]*AuthenticationError: (.*?\.) ", str(error.__cause__), re.MULTILINE)
    return found[1] if found else reason_of(error)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """`ray job stop` sends SIGTERM, which Ray's own handler answers with a stack of the native code: as Ctrl-C here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        # None is a handler that is not Python's, which it cannot put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def joining() -> dict[str, str]:
    """Variables with which a process that is started here joins the Ray that is connected."""
    return environment_to_join(import_ray().get_runtime_context().gcs_address)


@contextmanager
def numbers_of_retries() -> Iterator[None]:
    """Around a step of Ray Data that gets one: Ray 2.60 has no parameter for it, and warns of other options."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        yield


def reason_of(error: BaseException) -> str:
    """The last line of the innermost error: Ray wraps a worker's own in several pages."""
    return last_line(str(error)) or type(error).__name__


def failure_told(error: BaseException) -> str:
    """`reason_of` an error that ends work of Ray Data, which gives a block to a few workers before it gives up."""
    from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError

    lost = isinstance(error, RayActorError | WorkerCrashedError | OutOfMemoryError)
    return f"workers were lost again and again, the last time: {reason_of(error)}" if lost else reason_of(error)


def last_line(text: str) -> str:
    """The last line that is not empty; of a text without one nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
