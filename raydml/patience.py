"""How long a storage that fails is asked again. Pure but for the clock, which tests may bring along."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from raydml.config import ConfigError

T = TypeVar("T")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
# What no waiting mends, in the words of the stores.
_FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "HTTP status 403")


class StorageError(RuntimeError):
    """A storage did not answer for so long that nobody waits any longer; the message says where and why."""


class TakenOverError(StorageError):
    """Another process has begun to write where this one wrote: to ask again is no use."""


def next_wait(waited_s: float, attempts: int, *, patience_s: float, final: bool) -> float | None:
    """Seconds until the next attempt after `attempts` failed ones; None where there is to be no other.

    `final` says that what was answered will be answered again.
    """
    if final or waited_s >= patience_s:
        return None
    wait = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (attempts - 1))
    return min(wait, patience_s - waited_s)


def is_final(answer: str) -> bool:
    """Whether what a store answered will be answered again, such as that a bucket may not be read."""
    return any(word in answer for word in _FINAL)


@dataclass
class Patience:
    """Asks again while a storage fails. What it once granted may be refused for a while: keys are renewed."""

    seconds: float = 600.0
    """How long a failure may last."""
    answered: bool = False
    """Whether the storage has answered: from then on no refusal is final."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def asked(self, question: Callable[[], T], *, where: str, answers: bool = True) -> T:
        """The answer. Raises StorageError naming `where` when patience ends; FileNotFoundError and ConfigError are one.

        `answers`: whether only the storage can have given it.
        """
        started, attempts = self.clock(), 0
        while True:
            try:
                found = question()
            except (FileNotFoundError, ConfigError):
                raise
            except (OSError, ValueError, ImportError) as error:
                reason = " ".join(str(error).split())
                final = not isinstance(error, OSError) or (not self.answered and is_final(reason))
            else:
                self.answered |= answers
                return found
            attempts += 1
            waited = self.clock() - started
            wait = next_wait(waited, attempts, patience_s=self.seconds, final=final)
            if wait is None:
                raise StorageError(f"storage: {where} failed {attempts} times in {waited:.0f} s: {reason}")
            self.sleep(wait)
