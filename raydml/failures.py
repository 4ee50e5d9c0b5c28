"""What happens after a training was disturbed: whether it goes on, when, and when it is given up. Pure decisions.

A training always goes on from its last checkpoint. What is counted is counted since its last finished epoch: one that
gets on may be disturbed as often as spot machines like, one that does not is given up after a while.

| disturbed by                                  | goes on            | given up                                  |
|-----------------------------------------------|--------------------|-------------------------------------------|
| a notice that its machine goes                | at once            | never: it left with what it had           |
| a machine that comes for an elastic group     | at once            | never: it left with what it had           |
| the loss of its machine                       | at once            | after five times `max_retries`            |
| the loss of one of several workers            | at once            | after five times `max_retries`            |
| the loss of its process                       | at once            | after `max_retries`                       |
| an exception; a store that failed for long    | after 2, 8, 32 s   | after `max_retries`                       |
| bad input, a loss that is not finite          |                    | at once: it would stop at the same place  |

A driver or a head that is lost takes the counts along: the same command goes on with all that was not finished.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum


class Failure(Enum):
    """How a training was disturbed, in the words of its reason."""

    NOTICE = "left its machine"
    NODE = "lost its machine"
    PEER = "lost a worker"
    """Of several: what the others see first of a machine that is gone is a connection that is."""
    PROCESS = "lost its process"
    CRASH = "crashed"
    REPEATS = "stopped"


@dataclass(frozen=True)
class Decision:
    """Whether a training goes on from its last checkpoint."""

    again: bool
    wait_s: float = 0.0
    """Before it does."""


# A machine says nothing about the training it carried: several go before one training is suspected.
_NODES_PER_RETRY = 5
_FIRST_WAIT_S, _WAIT_FACTOR, _LONGEST_WAIT_S = 2.0, 4.0, 60.0


def after(failure: Failure, times: int, *, max_retries: int) -> Decision:
    """`times`: how often this failure has come since the last finished epoch, this one included."""
    match failure:
        case Failure.NOTICE:
            return Decision(again=True)
        case Failure.NODE | Failure.PEER:
            return Decision(again=times <= _NODES_PER_RETRY * max_retries)
        case Failure.PROCESS:
            return Decision(again=times <= max_retries)
        case Failure.CRASH:
            return Decision(again=times <= max_retries, wait_s=wait_s(times))
        case Failure.REPEATS:
            return Decision(again=False)


def wait_s(times: int) -> float:
    """Seconds before the next try of what failed so many times in a row: 2, 8, 32, then 60."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * _WAIT_FACTOR ** min(times - 1, 8))


@dataclass(frozen=True)
class Verdict:
    """A decision with its reason, for people."""

    decision: Decision
    text: str


def told(name: str, verdict: Verdict) -> str:
    """What is said of a training, by its name, that was disturbed and goes on."""
    return f"{name} {verdict.text}; it goes on"


class Setbacks:
    """The failures of one training since its last finished epoch."""

    def __init__(self, max_retries: int) -> None:
        self._max_retries = max_retries
        self._epoch = 0
        self._times: Counter[Failure] = Counter()

    def finished(self, epoch: int) -> None:
        """An epoch is finished; earlier ones, which a training that goes on reports again, say nothing new."""
        if epoch > self._epoch:
            self._epoch = epoch
            self._times.clear()

    def met(self, failure: Failure, reason: str) -> Verdict:
        """Decides about a failure, and remembers it."""
        self._times[failure] += 1
        times = self._times[failure]
        decision = after(failure, times, max_retries=self._max_retries)
        often = "" if times == 1 else f" {times} times"
        text = f"{failure.value}{often} after epoch {self._epoch}: {reason}"
        return Verdict(decision, text)
