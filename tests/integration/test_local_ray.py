"""A Ray of this machine alone: who may speak to it."""

from __future__ import annotations

import ipaddress
import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from raydml.session import connected, joining

pytestmark = pytest.mark.usefixtures("ray_here")


def listening() -> list[tuple[str, str]]:
    """Name and address of every socket that a process of this Ray listens at."""
    me = psutil.Process()
    found = []
    for process in (me, *me.children(recursive=True)):
        try:
            sockets = process.net_connections("inet")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found += [(process.name(), s.laddr.ip) for s in sockets if s.status == psutil.CONN_LISTEN]
    return found


def test_nothing_listens_where_other_machines_are() -> None:
    """Fails where Ray binds otherwise than it did, and when it takes the address itself, without our way around."""
    found = listening()
    assert {"gcs_server", "raylet"} <= {name for name, _ in found}
    outside = [(name, ip) for name, ip in found if not ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback]
    assert not outside


def test_the_way_around_is_still_needed() -> None:
    """Where this fails, Ray keeps the loopback address it is given: `_node_ip_address` then says all of it."""
    code = "from ray._private import services as s; print(s.resolve_ip_for_localhost('127.0.0.1'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    addresses = {a.address for of_one in psutil.net_if_addrs().values() for a in of_one if a.family.name == "AF_INET"}
    if addresses == {"127.0.0.1"}:
        pytest.skip("a machine without a network has no other address")
    assert done.stdout.strip() != "127.0.0.1"


def test_a_process_that_is_told_joins_it() -> None:
    code = "from raydml.session import connected\nwith connected() as found: print(found.machines)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **joining()}, capture_output=True, text=True, check=False
    )
    with connected() as found:
        assert done.stdout.strip().endswith(str(found.machines)), done.stderr


def test_its_token_is_nobody_elses() -> None:
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        pytest.skip("whoever gave another token looks after it")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    token = Path.home() / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) & 0o077 == 0
