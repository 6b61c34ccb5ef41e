"""A real S3 server on this machine, and a line to it that can be slow, cut and mended.

The server is moto's, a process of its own in a virtual environment of its own, for what it needs
does not go together with what the project needs.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import pytest

from sweeps.background import beside

_CHUNK = 1 << 14
_START = 60.0


def server_command() -> str:
    """The server's command; the test is skipped, saying why, where it is not installed."""
    default = Path(__file__).parents[2] / ".venv-s3" / "bin" / "moto_server"
    command = os.environ.get("RACTD_S3_SERVER", str(default))
    if not Path(command).exists():
        pytest.skip(f"no S3 server at {command}; `make s3-server` installs it")
    return command


@contextmanager
def s3_server(log: Path, bucket: str) -> Iterator[int]:
    """The port of a server on loopback with one empty bucket."""
    port = _free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [server_command(), "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _make_bucket(f"http://127.0.0.1:{port}/{bucket}", process)
            yield port
        finally:
            process.terminate()
            process.wait()


def _make_bucket(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"))
        except (URLError, ConnectionError):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)
        else:
            return


@dataclass
class Line:
    """A TCP line to a local port. ``pause`` are seconds before each chunk in either direction."""

    port: int
    pause: float = 0.0
    cuts: int = 0
    _cut: bool = False

    def __post_init__(self) -> None:
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def cut(self) -> None:
        """End every connection in the middle of whatever it does, and take no new one."""
        self._cut = True
        self.cuts += 1
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        self._cut = False

    def close(self) -> None:
        """End for good."""
        self.cut()
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.port))
            self._sockets |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(_CHUNK):
                time.sleep(self.pause)
                target.sendall(content)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()


@contextmanager
def cut_now_and_then(line: Line, up: float, down: float) -> Iterator[None]:
    """While the block runs, the line is up and down for so many seconds, again and again."""

    def cut(over: threading.Event) -> None:
        while not over.wait(up):
            line.cut()
            over.wait(down)
            line.mend()

    with beside(cut):
        yield


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port
