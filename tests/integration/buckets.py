"""An S3 of this machine, whose credentials come by the environment as a user's do."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import quote

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

# What no file and no message may hold.
SECRET = "nobody-may-see-this"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": SECRET}


class Bucket(NamedTuple):
    """The bucket `data` of an S3, and every request that was answered."""

    host: str
    requests: list[tuple[str, str]]
    """`("GET", "/data/a.png")`, the oldest first."""

    @property
    def query(self) -> str:
        return f"?endpoint_override={self.host}&scheme=http&region=us-east-1"

    def uri(self, path: str, *, options: bool = True) -> str:
        return f"s3://data/{quote(path)}{self.query if options else ''}"

    def write(self, path: str, content: bytes) -> None:
        with self.filesystem().open_output_stream(f"data/{path}") as stream:
            stream.write(content)

    def filesystem(self) -> fs.FileSystem:
        return fs.FileSystem.from_uri(f"s3://data{self.query}&allow_bucket_creation=true")[0]

    def read_below(self, folder: str) -> list[str]:
        """Files whose content somebody asked for since the last question, as often as they were asked for."""
        asked = [path for verb, path in self.requests if verb == "GET"]
        self.requests.clear()
        return [path for path in asked if path.startswith(quote(f"/data/{folder}/"))]


class _Requests(logging.Handler):
    def __init__(self, found: list[tuple[str, str]]) -> None:
        super().__init__()
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        # On a terminal the server writes in colours.
        if found := re.search(r"(GET|HEAD|PUT|POST|DELETE) (/\S*) HTTP/", record.getMessage()):
            self._found.append((found[1], found[2].partition("?")[0]))


@contextmanager
def serving() -> Iterator[Bucket]:
    """An empty bucket while the server lives; this process and its children have the credentials."""
    log, requests = logging.getLogger("werkzeug"), list[tuple[str, str]]()
    handler = _Requests(requests)
    server = ThreadedMotoServer(ip_address="localhost", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setattr(log, "propagate", False)
        log.setLevel(logging.INFO)
        log.addHandler(handler)
        server.start()
        try:
            host, port = server.get_host_and_port()
            bucket = Bucket(f"{host}:{port}", requests)
            bucket.filesystem().create_dir("data")
            yield bucket
        finally:
            server.stop()
            log.removeHandler(handler)
