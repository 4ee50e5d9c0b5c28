"""How Ray tells that a training was disturbed, as one of raydml's failures. Ray internals touched: texts of errors."""

from __future__ import annotations

import re

from raydml.config import ConfigError
from raydml.data.files import SilentStoreError
from raydml.epoch import TrainingLeftError, TrainingStoppedError
from raydml.failures import Failure
from raydml.patience import TakenOverError
from raydml.session import import_ray, last_line
from raydml.training import TrainingFailedError

import_ray()

from ray.exceptions import (  # noqa: E402
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError  # noqa: E402

# Ray has one error for a dead actor; only its text says that the whole machine is gone.
_NODE_DIED = "its node has died"
_IN_A_METHOD = "ray::"
# Of the errors of several workers the first of these is the cause: when one dies, the others fail in collectives.
_CAUSES = (Failure.REPEATS, Failure.NOTICE, Failure.NODE, Failure.PROCESS)
# What collectives of gloo and NCCL say when another worker is gone. It comes before Ray knows of a dead machine.
_PEER_LOST = re.compile(
    r"gloo.*(Connection (reset|closed) by peer|Broken pipe|timed out)|remote process exited|NCCL.*connection closed",
    re.IGNORECASE,
)


def failure_of(error: BaseException | None) -> Failure:
    """What an error stands for that a training, its process or its group of workers ended with."""
    match error:
        case RayTaskError():
            return failure_of(error.cause if isinstance(error.cause, BaseException) else None)
        case WorkerGroupError():
            errors = error.worker_failures.values()
            found = {failure_of(of_worker) for of_worker in errors}
            cause = next((failure for failure in _CAUSES if failure in found), Failure.CRASH)
            # Where one crashed, the others lose it too: only if that is all that anyone has to say.
            lost = cause == Failure.CRASH and all(_PEER_LOST.search(_text_of(of_worker)) for of_worker in errors)
            return Failure.PEER if lost and errors else cause
        case TrainingLeftError() | PreemptionError():
            return Failure.NOTICE
        case RayActorError():
            if error.preempted:
                return Failure.NOTICE
            return Failure.NODE if _NODE_DIED in str(error) else Failure.PROCESS
        case NodeDiedError() | LocalRayletDiedError():
            return Failure.NODE
        case OutOfMemoryError() | WorkerCrashedError():
            return Failure.PROCESS
        case SilentStoreError():
            return Failure.CRASH
        case TrainingStoppedError() | TrainingFailedError() | ConfigError() | TakenOverError():
            return Failure.REPEATS
        case _:
            return Failure.CRASH


def _text_of(error: BaseException) -> str:
    return str(error.cause if isinstance(error, RayTaskError) else error)


def failure_told(text: str, *, preempted: bool) -> Failure:
    """As `failure_of`, of an error that Tune keeps only as text. `preempted`: whether Tune took it for a preemption."""
    if preempted or TrainingLeftError.__name__ in last_line(text):
        return Failure.NOTICE
    if _NODE_DIED in text:
        return Failure.NODE
    # The text of an exception in a process that lives begins with the method that raised it.
    return Failure.CRASH if _IN_A_METHOD in text.partition("\n")[0] else Failure.PROCESS
