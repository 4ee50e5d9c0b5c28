"""Data-parallel workers of one training through Ray Train: what each runs, the stream of reports, a clean end.

Ray Train's own reports are throttled, kept only with checkpoints and delivered to its controller; here they go on
through an unbounded queue, so that nothing ever waits for a reader. Checkpoints are raydml's own, in the run's folder:
a group of workers that starts again goes on from there. How often it does `raydml.failures` says and not Ray, which
counts over the whole life of a training. An elastic group chooses its number of workers at every start
(`raydml.seats`). Ray internals touched: the controller's handle and its `abort`, the error of a group without a place.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raydml.config import ConfigError
from raydml.distributed import Agreement, rank
from raydml.draining import Notice
from raydml.epoch import TrainingLeftError, TrainingStoppedError
from raydml.failures import Failure, Setbacks, told
from raydml.recorded import Task, end_curves, recorded
from raydml.scratch import Scratch
from raydml.seats import MayGrow, Seats, bundle_of, given, room
from raydml.session import import_ray, reason_of
from raydml.setbacks import failure_of
from raydml.training import TrainingDivergedError, TrainingFailedError

ray = import_ray()

from ray.exceptions import RayError  # noqa: E402
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback  # noqa: E402
from ray.train import report as report_to_controller  # noqa: E402
from ray.train.torch import TorchTrainer, get_device  # noqa: E402
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError  # noqa: E402
from ray.train.v2.api.exceptions import ControllerError  # noqa: E402
from ray.util.queue import Empty, Queue  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

_FAILURE, _STOPPED, _LEFT = "failure", "stopped", "left"
_ABORT_TIMEOUT_S = 15.0
# Who drives a group that waits for machines is asked so often whether it is to wait on.
_SILENCE_S = 5.0
# Read from the environment of the process that starts a group: how long its workers wait for their machines.
_WAIT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_AS_LONG_AS_IT_TAKES = os.environ[_WAIT]
# There was room a moment ago: somebody was faster, or a machine has gone since.
_AS_LONG_AS_THERE_IS_ROOM = "30"

Report = dict[str, float] | str
"""An epoch's metrics; or, in words, what disturbed the workers, which go on; no words while they wait for machines."""


def _train_worker(config: dict[str, Any]) -> None:
    """The loop of one worker. What a retry would only repeat is reported, not raised: bad input, a loss not finite.

    All workers leave where the machine of one is about to go, and where there is room for those that are missing.
    """
    # The first report carries the controller's handle out, before anything slow happens.
    report_to_controller({})
    task: Task = config["task"]
    torch.set_num_threads(max(1, int(task.worker.cpus)))
    seats: str | None = config["seats"]
    grows = () if seats is None or rank() != 0 else (MayGrow(partial(given, seats)),)
    notice, device = Notice(*grows), get_device()
    try:
        with recorded(task, device=device, leave=Agreement(notice, device=device)) as run:
            while (row := run.advance()) is not None:
                report_to_controller(row)
    except TrainingLeftError as error:
        report_to_controller({_LEFT: str(error)})
    except (TrainingStoppedError, ConfigError) as error:
        if failure_of(error) != Failure.REPEATS:
            raise
        report_to_controller({_FAILURE: str(error), _STOPPED: isinstance(error, TrainingStoppedError)})
    finally:
        notice.close()


class _Forward(UserCallback):
    """Runs in the controller: hands on every report of rank 0, and once the controller's own handle."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._introduced = False

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: object) -> None:  # noqa: ANN401
        del run_context, checkpoint
        handle = None if self._introduced else ray.get_runtime_context().current_actor
        self._introduced = True
        self._queue.put((dict(metrics[0]), handle))


class WorkerGroup:
    """A training in the background, read report by report and stopped at any time."""

    def __init__(self, task: Task, *, num_workers: int, max_failures: int, fewest: int | None = None) -> None:
        """Starts the workers. `max_failures`: as `search.max_retries`.

        An elastic group has at least `fewest` and at most `num_workers`, one that is not has always all.
        """
        self._own = Scratch() if task.uri is not None else None
        self._scratch = (self._own.folder if self._own is not None else task.spec.directory) / ".ray_train"
        # On this machine: with the queue the training would be lost, and a machine of workers may go.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._running = False
        self._task, self._most, self._fewest = task, num_workers, fewest or num_workers
        self._size = num_workers
        self._seats = Seats(task.worker, owner=task.uri or str(task.spec.directory))
        self._setbacks = Setbacks(max_failures)
        self._start()

    def _start(self) -> None:
        self._controller: Any = None
        self._error: BaseException | None = None
        self._seats.give_back()
        self._resize()
        # Fewer than the fewest may not start: they wait.
        waits = self._size == self._fewest
        os.environ[_WAIT] = _AS_LONG_AS_IT_TAKES if waits else _AS_LONG_AS_THERE_IS_ROOM
        trainer = _make_trainer(
            self._task,
            self._queue,
            self._scratch,
            num_workers=self._size,
            # Another size is tried at once, the only one again.
            failures_to_start=5 if waits else 0,
            seats=self._seats.name if self._size < self._most else None,
        )
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

    def _resize(self) -> None:
        """Chooses the number of workers: as many as there is room for now."""
        if self._fewest < self._most:
            self._size = max(self._fewest, room(self._task.worker, self._most))

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self._error = error

    def reports(self) -> Iterator[Report]:
        """Every epoch's metrics once, in order, as they come, and between them what happens to the workers.

        Raises TrainingDivergedError where the loss is not finite, TrainingFailedError where workers are lost for good.
        """
        last_epoch = 0
        if self._size < self._most:
            yield self._size_told()
        while True:
            left = ""
            while (row := self._next()) is not None:
                if isinstance(row, str):
                    yield row
                    continue
                if _FAILURE in row:
                    self._running = False
                    raise (TrainingDivergedError if row[_STOPPED] else TrainingFailedError)(row[_FAILURE])
                left = row.get(_LEFT, left)
                # Workers that were started again report their history again.
                if row.get("epoch", 0) > last_epoch:
                    last_epoch = int(row["epoch"])
                    self._running = last_epoch < self._task.spec.config.training.num_epochs
                    self._setbacks.finished(last_epoch)
                    yield row
            if not left and self._error is None:
                return
            yield from self._begin_again(left)

    def epochs(self) -> Iterator[dict[str, float]]:
        """The metrics alone, raising as `reports` does."""
        return (report for report in self.reports() if not isinstance(report, str))

    def _begin_again(self, left: str) -> Iterator[str]:
        """Starts workers anew who all `left` or were lost, and tells of it.

        Raises TrainingFailedError where that is the end.
        """
        name = self._task.spec.directory.name
        # Whoever leaves to grow, or found no room, was not disturbed.
        if (left and self._seats.given()) or _without_a_place(self._error):
            yield f"{name}: {left or f'no room for {self._size} workers any more'}"
        else:
            failure = Failure.NOTICE if left else failure_of(self._error)
            verdict = self._setbacks.met(failure, left or reason_of(self._error or RuntimeError()))
            if not verdict.decision.again:
                self._end_curves(failed=True)
                raise TrainingFailedError(verdict.text) from self._error
            yield told(name, verdict)
            time.sleep(verdict.decision.wait_s)
        before = self._size
        self._start()
        if self._size != before:
            yield self._size_told()

    def _size_told(self) -> str:
        return f"{self._task.spec.directory.name} trains with {self._size} of {self._most} workers"

    def _end_curves(self, *, failed: bool) -> None:
        # Workers that end by themselves say so themselves.
        if self._running:
            end_curves(self._task, failed=failed)
        self._running = False

    def _next(self) -> dict[str, Any] | str | None:
        """The next report of the workers; no words where none has begun for a while; None behind the last one."""
        since = time.monotonic()
        while True:
            finished = not self._thread.is_alive()
            try:
                row, controller = self._queue.get(timeout=0.2)
            except Empty:
                # Only an empty queue seen after the end is the end: the last report may come with it.
                if finished:
                    return None
                if self._controller is None and time.monotonic() - since >= _SILENCE_S:
                    return ""
            else:
                self._controller = controller or self._controller
                self._ask_for_more()
                return dict(row)

    def _ask_for_more(self) -> None:
        # With a report: before the first one the workers have no places, and these could be theirs.
        if self._size < self._most:
            self._seats.ask_in_turn(self._most - self._size)
        else:
            self._seats.close()

    def close(self) -> None:
        """Stops the workers if they still run, and frees what they occupied."""
        # Before the first report there is no handle: the controller then ends with this process, which owns it.
        if self._thread.is_alive() and self._controller is not None:
            # abort ends with the controller's exit, an error here; and whatever else happens, a stop must not fail.
            with suppress(RayError, TimeoutError):
                ray.get(self._controller.abort.remote(), timeout=_ABORT_TIMEOUT_S)
            self._thread.join(timeout=_ABORT_TIMEOUT_S)
        self._end_curves(failed=False)
        self._seats.close()
        self._queue.shutdown(force=True)
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._own is not None:
            self._own.remove()


def _without_a_place(error: BaseException | None) -> bool:
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)


def _make_trainer(
    task: Task, queue: Queue, scratch: Path, *, num_workers: int, failures_to_start: int, seats: str | None
) -> TorchTrainer:
    """A TorchTrainer whose own files go to a scratch folder of the run and are of no further use."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    worker = task.worker
    return TorchTrainer(
        _train_worker,
        train_loop_config={"task": task, "seats": seats},
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=worker.gpus > 0,
            resources_per_worker=bundle_of(worker),
        ),
        run_config=RunConfig(
            # The name of an earlier run would resume that run's controller.
            name=uuid.uuid4().hex[:12],
            storage_path=str(scratch),
            failure_config=FailureConfig(
                max_failures=0, max_preemption_failures=0, controller_failure_limit=failures_to_start
            ),
            callbacks=[_Forward(queue)],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
