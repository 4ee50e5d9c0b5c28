"""A machine's metadata server, as a test wants it to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Metadata:
    """A metadata server whose answers a test writes: by method and path, with the headers it saw."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[dict[str, str]], tuple[int, str]]] = {}
        self.seen: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                asked = f"{self.command} {self.path}"
                outer.seen.append(asked)
                known = outer.answers.get(asked)
                status, text = (404, "") if known is None else known(dict(self.headers))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def do_GET(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def log_message(self, *arguments: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
