"""How long a storage that fails is asked again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raydml.patience import Patience, StorageError, is_final, next_wait

# Seconds waited, failed attempts, patience, whether the answer is final; the next wait.
WAITS: dict[str, tuple[float, int, float, bool, float | None]] = {
    "soon": (0.0, 1, 600.0, False, 0.5),
    "twice as long": (0.5, 2, 600.0, False, 1.0),
    "again": (1.5, 3, 600.0, False, 2.0),
    "never longer than this": (300.0, 40, 600.0, False, 15.0),
    "not beyond the end": (595.0, 40, 600.0, False, 5.0),
    "the end": (600.0, 41, 600.0, False, None),
    "long after the end": (900.0, 2, 600.0, False, None),
    "no use": (0.0, 1, 600.0, True, None),
    "no patience": (0.0, 1, 0.0, False, None),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_next_wait(name: str) -> None:
    waited, attempts, patience, final, wanted = WAITS[name]
    assert next_wait(waited, attempts, patience_s=patience, final=final) == wanted


def test_what_no_waiting_mends() -> None:
    assert is_final("When writing: AWS Error ACCESS_DENIED during PutObject operation")
    assert is_final("AWS Error NO_SUCH_BUCKET during PutObject operation: The specified bucket does not exist")
    assert is_final("google::cloud::Status(PERMISSION_DENIED: ... HTTP status 403)")
    for answer in ("AWS Error SLOW_DOWN", "curlCode: 7, Couldn't connect to server", "HTTP status 503", "timed out"):
        assert not is_final(answer)


class Store:
    """Fails as often as it is told to; its clock goes on only while somebody waits."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.now, self.waits = 0.0, list[float]()

    def patience(self, seconds: float = 600.0, *, answered: bool = False) -> Patience:
        return Patience(seconds, answered=answered, clock=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)

    def __call__(self) -> str:
        if self._failures:
            raise self._failures.pop(0)
        return "answer"


REFUSED = OSError("AWS Error ACCESS_DENIED during PutObject operation")


def test_it_asks_again_until_there_is_an_answer() -> None:
    store = Store(OSError("SLOW_DOWN"), OSError("timed out"), OSError("timed out"))
    assert store.patience().asked(store, where="s3://data/runs") == "answer"
    assert store.waits == [0.5, 1.0, 2.0]


def test_patience_ends_with_place_reason_and_time() -> None:
    store = Store(*[OSError("no\n route")] * 99)
    with pytest.raises(StorageError, match=r"^storage: s3://data/runs failed 7 times in 20 s: no route$"):
        store.patience(20.0).asked(store, where="s3://data/runs")
    assert sum(store.waits) == 20.0


def test_what_the_storage_did_not_say_is_no_answer_of_it() -> None:
    """To open a store may ask nothing: a refusal behind it is the first answer, and final."""
    patience = Store().patience()
    patience.asked(lambda: "opened", where="here", answers=False)
    with pytest.raises(StorageError, match="failed 1 times in 0 s: AWS Error ACCESS_DENIED"):
        patience.asked(Store(REFUSED), where="here")
    assert not patience.answered


def test_a_refusal_is_final_only_before_the_first_answer() -> None:
    store = Store(REFUSED)
    with pytest.raises(StorageError, match="failed 1 times in 0 s: AWS Error ACCESS_DENIED"):
        store.patience().asked(store, where="here")
    # Keys are renewed in the course of a long search.
    store = Store(REFUSED, REFUSED)
    patience = store.patience()
    patience.asked(Store(), where="here")
    assert patience.asked(store, where="here") == "answer"


@pytest.mark.parametrize("error", [ValueError("no such scheme"), ImportError("no module")])
def test_what_is_no_failure_of_the_store_is_final(error: Exception) -> None:
    store = Store(error)
    with pytest.raises(StorageError, match=str(error)):
        store.patience(answered=True).asked(store, where="here")
    assert not store.waits


def test_that_a_file_is_not_there_is_an_answer() -> None:
    def absent() -> str:
        raise FileNotFoundError("nothing")

    question: Callable[[], str] = absent
    patience = Patience(sleep=lambda seconds: pytest.fail("nothing to wait for"))
    with pytest.raises(FileNotFoundError):
        patience.asked(question, where="here")
    assert not patience.answered, "a bucket that is not there answers the same"
