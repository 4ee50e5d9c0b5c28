"""The token of a Ray on this machine, and how its children find it; who else hears it is an integration test."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from raydml.local_ray import _make, environment_to_join, guard_token, on_loopback
from raydml.session import import_ray

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user without any has his."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_for_its_user_alone(token: Path) -> None:
    before = os.umask(0)
    try:
        guard_token()
    finally:
        os.umask(before)
    assert mode(token) == 0o600
    assert mode(token.parent) == 0o700
    assert len(bytes.fromhex(token.read_text())) == 32
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


def test_one_that_is_there_stays_and_is_closed(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("mine")
    token.chmod(0o644)
    guard_token()
    assert (token.read_text(), mode(token)) == ("mine", 0o600)
    token.chmod(0o400)
    guard_token()
    assert mode(token) == 0o400


def test_of_two_processes_that_begin_at_once_the_first_makes_it(token: Path) -> None:
    guard_token()
    first = token.read_text()
    _make(token)
    assert token.read_text() == first
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", "elsewhere")],
)
def test_who_looks_after_it_himself_is_left_alone(
    token: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    guard_token()
    assert not token.parent.exists()


def test_a_place_that_cannot_be_written_is_rays_to_report(token: Path) -> None:
    token.parent.write_text("a file")
    guard_token()


def test_children_join_where_it_listens() -> None:
    here = environment_to_join("127.0.0.1:6379")
    assert here == {"RAY_ADDRESS": "127.0.0.1:6379", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    assert environment_to_join("10.0.0.7:6379") == {"RAY_ADDRESS": "10.0.0.7:6379"}


def test_the_setting_is_rays_own_again_afterwards() -> None:
    """Also where the start fails: another Ray of this process may be one of many machines."""
    constants = import_ray()._private.ray_constants
    before, seen = constants.ENABLE_RAY_CLUSTER, []

    def start() -> None:
        with on_loopback(import_ray()):
            seen.append(constants.ENABLE_RAY_CLUSTER)
            raise OSError

    with pytest.raises(OSError, match=r"^$"):
        start()
    assert (seen, constants.ENABLE_RAY_CLUSTER) == ([False], before)
