"""What a user is told of a cluster that cannot be joined, and how a driver ends; joining itself needs a real Ray."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from raydml import session
from raydml.config import ConfigError


def test_a_job_that_is_stopped_ends_as_after_a_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), session._ending_in_order():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before, "others have their own way of ending"


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def inside() -> object:
        with session._ending_in_order():
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as others:
        assert others.submit(inside).result() == before


@pytest.mark.parametrize(
    ("below", "told"),
    [
        (
            "Traceback\n ...\nray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: wrong. Ensure that\n",
            "RPC error: InvalidAuthToken: wrong.",
        ),
        ("Traceback\n  ...\nRpcError: timed out\n", "Failed to connect to Ray cluster at a:1"),
    ],
)
def test_a_refused_token_is_the_reason_and_not_the_connection(below: str, told: str) -> None:
    error = ConnectionError("Failed to connect to Ray cluster at a:1")
    error.__cause__ = RuntimeError(f"Failed to connect to GCS. Last connection error: {below}")
    assert session._cause_of(error) == told


@pytest.mark.parametrize(("address", "attempts"), [("10.0.0.1:6379", "3"), ("", "None")])
def test_a_driver_that_joins_does_not_try_for_ten_minutes(address: str, attempts: str) -> None:
    program = "import os; from raydml.session import import_ray; import_ray(); print(os.environ.get('{}'))"
    found = subprocess.run(
        [sys.executable, "-c", program.format("RAY_NUM_REDIS_GET_RETRIES")],
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == attempts


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nonsense", "cannot be joined: Invalid address format: nonsense"),
        ("http://head:8265", "must be HOST:PORT of the head"),
        ("ray://head:10001", "must be HOST:PORT of the head"),
    ],
)
def test_an_address_that_is_none_is_told_in_a_line(address: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=f"^RAY_ADDRESS={address}: {told}") as caught, session.connected():
        pass
    assert "\n" not in str(caught.value)


def test_ray_data_has_no_parameters_for_numbers_of_retries() -> None:
    """Where it has, `numbers_of_retries` and the keywords inside it can go."""
    from ray.data import Dataset

    assert {"max_retries", "max_task_retries"}.isdisjoint(inspect.signature(Dataset.map_batches).parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with session.numbers_of_retries():
            warnings.warn("`ray_remote_args` is deprecated and will be removed", DeprecationWarning, stacklevel=1)
            with pytest.raises(DeprecationWarning):
                warnings.warn("something else", DeprecationWarning, stacklevel=1)
