"""What happens after every kind of failure, as a table; and how Ray's errors are told apart."""

from __future__ import annotations

import pytest

from raydml.config import ConfigError
from raydml.data.files import SilentStoreError
from raydml.epoch import NonFiniteLossError, TrainingLeftError
from raydml.failures import Decision, Failure, Setbacks, after, wait_s
from raydml.patience import StorageError, TakenOverError
from raydml.session import import_ray
from raydml.setbacks import failure_of, failure_told
from raydml.training import TrainingDivergedError, TrainingFailedError

import_ray()

from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo  # noqa: E402
from ray.exceptions import (  # noqa: E402
    ActorDiedError,
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError  # noqa: E402
from ray.train.v2.api.preemption import PreemptionInfo  # noqa: E402

AGAIN, END = Decision(again=True), Decision(again=False)
TABLE = [
    (Failure.NOTICE, 1, 3, AGAIN),
    (Failure.NOTICE, 1000, 0, AGAIN),
    (Failure.NODE, 1, 3, AGAIN),
    (Failure.NODE, 15, 3, AGAIN),
    (Failure.NODE, 16, 3, END),
    (Failure.NODE, 1, 0, END),
    (Failure.PEER, 15, 3, AGAIN),
    (Failure.PEER, 16, 3, END),
    (Failure.PROCESS, 3, 3, AGAIN),
    (Failure.PROCESS, 4, 3, END),
    (Failure.PROCESS, 1, 0, END),
    (Failure.CRASH, 1, 3, Decision(again=True, wait_s=2.0)),
    (Failure.CRASH, 3, 3, Decision(again=True, wait_s=32.0)),
    (Failure.REPEATS, 1, 3, END),
]


@pytest.mark.parametrize(("failure", "times", "max_retries", "expected"), TABLE)
def test_what_follows(failure: Failure, times: int, max_retries: int, expected: Decision) -> None:
    assert after(failure, times, max_retries=max_retries) == expected


def test_a_crash_beyond_the_limit_is_the_end() -> None:
    assert not after(Failure.CRASH, 4, max_retries=3).again


def test_waits_grow_to_a_minute() -> None:
    assert [wait_s(times) for times in (1, 2, 3, 4, 5, 1000)] == [2.0, 8.0, 32.0, 60.0, 60.0, 60.0]


def test_who_gets_on_never_runs_out() -> None:
    setbacks = Setbacks(max_retries=1)
    for epoch in range(1, 20):
        setbacks.finished(epoch)
        assert setbacks.met(Failure.PROCESS, "killed").decision.again
        setbacks.finished(1)  # it reports its history again, which is no progress
    assert not setbacks.met(Failure.PROCESS, "killed").decision.again


def test_kinds_are_counted_apart_and_the_reason_says_how_often() -> None:
    setbacks = Setbacks(max_retries=1)
    assert setbacks.met(Failure.PROCESS, "killed").text == "lost its process after epoch 0: killed"
    setbacks.finished(2)
    for failure in (Failure.NOTICE, Failure.NODE, Failure.PROCESS, Failure.CRASH):
        assert setbacks.met(failure, "x").decision.again
    verdict = setbacks.met(Failure.CRASH, "RuntimeError: boom")
    assert not verdict.decision.again
    assert verdict.text == "crashed 2 times after epoch 2: RuntimeError: boom"


def died(message: str, reason: int = NodeDeathInfo.UNSPECIFIED) -> ActorDiedError:
    context = ActorDiedErrorContext(error_message=message, actor_id=b"0" * 16)
    context.node_death_info.reason = reason
    return ActorDiedError(context)


def of_task(cause: Exception) -> RayTaskError:
    return RayTaskError("step", "traceback", cause)


LOST, CRASHED = died("The actor died because its node has died."), RuntimeError("boom")
# As gloo said it when the machine of the other worker was lost.
ALONE = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1234")
PREEMPTED = died("its node has died", NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
ERRORS: list[tuple[BaseException | None, Failure]] = [
    (of_task(TrainingLeftError(1, 2)), Failure.NOTICE),
    (PREEMPTED, Failure.NOTICE),
    (PreemptionError(PreemptionInfo(None, {})), Failure.NOTICE),
    (LOST, Failure.NODE),
    (died("The actor is dead because its worker process has died."), Failure.PROCESS),
    (NodeDiedError("the node that it ran on has died"), Failure.NODE),
    (LocalRayletDiedError(), Failure.NODE),
    (OutOfMemoryError("the node runs low on memory"), Failure.PROCESS),
    (WorkerCrashedError(), Failure.PROCESS),
    (WorkerGroupError("", {0: ALONE, 1: OutOfMemoryError("low")}), Failure.PROCESS),
    (ActorUnavailableError("unavailable", b"0" * 16), Failure.PROCESS),
    (of_task(CRASHED), Failure.CRASH),
    (of_task(StorageError("storage: failed")), Failure.CRASH),
    (CRASHED, Failure.CRASH),
    (None, Failure.CRASH),
    (NonFiniteLossError(1, 2), Failure.REPEATS),
    (ConfigError("loss.margin"), Failure.REPEATS),
    (SilentStoreError("data.root: s3://data does not answer"), Failure.CRASH),
    (TrainingFailedError("given up"), Failure.REPEATS),
    (TrainingDivergedError("not finite"), Failure.REPEATS),
    (TakenOverError("another"), Failure.REPEATS),
    (WorkerGroupError("", {0: CRASHED, 1: LOST}), Failure.NODE),
    (WorkerGroupError("", {0: CRASHED, 1: PREEMPTED}), Failure.NOTICE),
    (WorkerGroupError("", {0: CRASHED}), Failure.CRASH),
    (WorkerGroupError("", {0: ALONE}), Failure.PEER),
    (WorkerGroupError("", {0: ALONE, 2: of_task(ALONE)}), Failure.PEER),
    (WorkerGroupError("", {0: ALONE, 1: CRASHED}), Failure.CRASH),
    (WorkerGroupError("", {0: ALONE, 1: LOST}), Failure.NODE),
    (WorkerGroupError("", {}), Failure.CRASH),
    (ALONE, Failure.CRASH),
]


@pytest.mark.parametrize(("error", "expected"), ERRORS, ids=lambda value: str(value).splitlines()[0][:40])
def test_errors_are_told_apart(error: BaseException | None, expected: Failure) -> None:
    assert failure_of(error) == expected


def in_a_process(cause: Exception) -> str:
    """The text of an exception that an actor's method raised."""
    return f"\x1b[36mray::ResourceTrainable.train()\x1b[39m (pid=7)\n  File ...\n{type(cause).__name__}: {cause}"


@pytest.mark.parametrize(
    ("text", "preempted", "expected"),
    [
        (in_a_process(TrainingLeftError(1, 2)), False, Failure.NOTICE),
        (str(PREEMPTED), True, Failure.NOTICE),
        (str(LOST), False, Failure.NODE),
        (str(died("The actor is dead because its worker process has died.")), False, Failure.PROCESS),
        (in_a_process(CRASHED), False, Failure.CRASH),
        ("", False, Failure.PROCESS),
    ],
)
def test_texts_of_errors_are_told_apart(text: str, preempted: bool, expected: Failure) -> None:
    assert failure_told(text, preempted=preempted) == expected
