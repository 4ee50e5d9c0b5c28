"""A way to a server of this machine that can be shut for a while: connections are refused, or nobody answers them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Shut = Literal["refuses", "hangs"]


class Gate:
    """Listens on a port of its own and hands on what comes, while it is open."""

    def __init__(self, host: str) -> None:
        name, _, port = host.partition(":")
        self._target = name, int(port)
        self._listener = socket.create_server(("localhost", 0))
        self.port: int = self._listener.getsockname()[1]
        self._hangs = False
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listen()

    def shut(self, how: Shut) -> None:
        """Ends every connection, and refuses new ones or leaves them without an answer."""
        self._hangs = how == "hangs"
        if how == "refuses":
            self._end(self._listener)
        self._end_all()

    def open(self) -> None:
        """Hands on again."""
        self._hangs = False
        self._end_all()
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("localhost", self.port))
            self._listen()

    def shut_for(self, how: Shut, seconds: float) -> None:
        """Shuts, waits and opens."""
        self.shut(how)
        time.sleep(seconds)
        self.open()

    def close(self) -> None:
        """For good."""
        self._end(self._listener)
        self._end_all()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                with self._lock:
                    self._open.add(here)
                if not self._hangs:
                    there = socket.create_connection(self._target)
                    with self._lock:
                        self._open.add(there)
                    for source, sink in ((here, there), (there, here)):
                        threading.Thread(target=self._hand_on, args=(source, sink), daemon=True).start()

    def _hand_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(2**16):
                sink.sendall(block)
        for end in (source, sink):
            self._end(end)
            with self._lock:
                self._open.discard(end)

    def _end_all(self) -> None:
        with self._lock:
            ends, self._open = self._open, set()
        for end in ends:
            self._end(end)

    @staticmethod
    def _end(end: socket.socket) -> None:
        # Who waits in accept or recv wakes up.
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextmanager
def gate_to(host: str) -> Iterator[Gate]:
    """An open gate to `name:port`."""
    gate = Gate(host)
    try:
        yield gate
    finally:
        gate.close()
