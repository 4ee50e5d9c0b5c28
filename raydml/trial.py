"""One Tune trial: inline in its reused actor, or driving a group of Ray Train workers. Same training code, same files.

A trial reports every epoch of its run from the first, those of an earlier process included: who listens decides what
is new. It needs no Tune checkpoint, because its run's folder holds everything. What would only happen again is a
result, `failure` and its reason. Another error ends the process: Tune starts the trial again in a new one, elsewhere
where the machine is about to go, and `raydml.tuner` decides how often.

Ray's documented pattern, a Tune function around `TorchTrainer.fit()`, deadlocks on a busy driver, leaks placement
groups and loses history (specs/ray.md, section 2); a class that pulls reports one by one has none of this.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch

from raydml import gpu_memory
from raydml.config import Resources
from raydml.draining import Notice
from raydml.epoch import TrainingStoppedError
from raydml.failures import Failure, Verdict
from raydml.record import FAILURE, NEWS, STOPPED
from raydml.recorded import RecordedRun, Task
from raydml.session import import_ray
from raydml.setbacks import failure_of
from raydml.training import TrainingDivergedError, TrainingFailedError
from raydml.workers import Report, WorkerGroup

import_ray()

from ray import tune  # noqa: E402

# A sliver of the resource that every cluster's head node has: the driver of a worker group must hold no CPU, or it
# would hold the one its own workers wait for.
_HEAD = {"node:__internal_head__": 0.001}


VERDICT = "verdict"
"""Key of a trial's configuration: what was decided when it was last disturbed; None where it was not."""


class InlineTrial(tune.Trainable):
    """A trial of one worker, in the actor itself. The actor is reused: imports, caches and device context stay."""

    def setup(self, config: dict[str, Any]) -> None:
        """Takes the task; work begins with the first step, where an error can be reported."""
        self._task: Task = config["task"]
        self._verdict: Verdict | None = config[VERDICT]
        self._run: RecordedRun | None = None
        self._notice: Notice | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Goes over to another trial."""
        self.cleanup()
        gpu_memory.give_back()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        if _is_given_up(self._verdict):
            return _failed(TrainingFailedError(self._verdict.text))
        try:
            row = self._advance()
        except Exception as error:
            failure = failure_of(error)
            self._close(failed=failure != Failure.NOTICE)
            if failure != Failure.REPEATS:
                raise
            return _failed(error)
        return _result(row, self._task)

    def cleanup(self) -> None:
        """Closes the run, ended or pruned."""
        self._close(failed=False)

    def _advance(self) -> dict[str, float]:
        if self._run is None:
            _wait(self._verdict)
            torch.set_num_threads(max(1, int(self._task.worker.cpus)))
            gpu_memory.keep_to_share(self._task.worker.gpus)
            self._notice = Notice()
            device = torch.device("cuda" if self._task.worker.gpus > 0 else "cpu")
            self._run = RecordedRun(self._task, device=device, leave=self._notice)
        row = self._run.advance()
        assert row is not None, "a trial is not stepped behind its last epoch"
        return row

    def _close(self, *, failed: bool) -> None:
        if self._run is not None:
            self._run.close(failed=failed)
        if self._notice is not None:
            self._notice.close()
        self._run = self._notice = None


class GroupTrial(tune.Trainable):
    """A trial of several workers: drives their group and holds no CPU itself."""

    def setup(self, config: dict[str, Any]) -> None:
        """Takes the task; workers start with the first step."""
        self._task: Task = config["task"]
        self._verdict: Verdict | None = config[VERDICT]
        self._num_workers: int = config["num_workers"]
        self._fewest: int = config["fewest_workers"]
        self._max_failures: int = config["max_failures"]
        self._group: WorkerGroup | None = None
        self._reports: Iterator[Report] = iter(())
        self._epoch = 0

    def step(self) -> dict[str, Any]:
        """One epoch, or what happens to the workers before it ends."""
        if _is_given_up(self._verdict):
            return _failed(TrainingFailedError(self._verdict.text))
        try:
            if self._group is None:
                _wait(self._verdict)
                self._group = WorkerGroup(
                    self._task, num_workers=self._num_workers, fewest=self._fewest, max_failures=self._max_failures
                )
                self._reports = self._group.reports()
            report = next(self._reports, None)
        except Exception as error:
            if failure_of(error) != Failure.REPEATS:
                raise
            return _failed(error)
        if report is None:
            return _failed(TrainingFailedError("the workers ended before the last epoch"))
        if isinstance(report, str):
            return {NEWS: report, "training_iteration": self._epoch}
        self._epoch = int(report["epoch"])
        return _result(report, self._task)

    def cleanup(self) -> None:
        """Stops the workers, so that the next trial finds their resources free."""
        if self._group is not None:
            self._group.close()
        self._group = None


def trainable_of(resources: Resources, worker_cpus: float, worker_gpus: float) -> Any:  # noqa: ANN401
    """The kind of trial that the resources ask for, with what Tune must reserve for it."""
    if resources.workers_per_trial == 1:
        return tune.with_resources(InlineTrial, {"CPU": worker_cpus, "GPU": worker_gpus})
    return tune.with_resources(GroupTrial, dict(_HEAD))


def _result(row: dict[str, float], task: Task) -> dict[str, Any]:
    epoch = int(row["epoch"])
    return {**row, "training_iteration": epoch, "done": epoch >= task.spec.config.training.num_epochs}


def _failed(error: Exception) -> dict[str, Any]:
    stopped = isinstance(error, TrainingStoppedError | TrainingDivergedError)
    return {FAILURE: " ".join(str(error).split()), STOPPED: stopped, "done": True}


def _is_given_up(verdict: Verdict | None) -> TypeGuard[Verdict]:
    return verdict is not None and not verdict.decision.again


def _wait(verdict: Verdict | None) -> None:
    if verdict is not None:
        time.sleep(verdict.decision.wait_s)
