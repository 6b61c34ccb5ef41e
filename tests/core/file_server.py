"""A file server that fails on demand, on this machine and in this process."""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FileServer:
    """What is served, how the next answers fail, and what was asked for.

    ``failures`` are used up, one per request: a status code, or the number of bytes of the body
    after which the connection is cut. ``requests`` holds each request's path and Range header,
    ``sent`` the bytes of each body.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    validator: str | None = "etag"
    ignores_if_range: bool = False
    content_range: str | None = None
    extra_length: int = 0
    chunk_pause: float = 0.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    url: str = ""

    def etag(self, path: str) -> str | None:
        """The file's ETag, as this server gives it."""
        if self.validator is None:
            return None
        digest = f'"{hashlib.sha256(self.files[path]).hexdigest()[:12]}"'
        return f"W/{digest}" if self.validator == "weak" else digest


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up whenever they like; anything else is an error of the test."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(**options: Any) -> Iterator[FileServer]:
    """A running server with these switches; its ``url`` has no slash at the end."""
    server = FileServer(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _answer(server, self)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    listener = _Listener(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def _answer(server: FileServer, handler: BaseHTTPRequestHandler) -> None:
    wanted = handler.headers.get("Range")
    server.requests.append((handler.path, wanted))
    failure = server.failures.pop(0) if server.failures else 0
    cut = failure if failure >= 1000 else None
    status, body = (failure, b"") if 0 < failure < 1000 else (200, server.files.get(handler.path))
    if body is None:
        status, body = 404, b"<html>not found</html>"
    headers: dict[str, str] = {}
    etag = server.etag(handler.path) if handler.path in server.files else None
    if status == 200:
        headers |= {"ETag": etag} if etag else {}
        same = server.ignores_if_range or handler.headers.get("If-Range") == etag
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if found and same and server.validator is not None:
            first = int(found.group(1))
            if first >= len(body):
                status, headers["Content-Range"] = 416, f"bytes */{len(body)}"
                body = b""
            else:
                span = f"bytes {first}-{len(body) - 1}/{len(body)}"
                status, headers["Content-Range"] = 206, server.content_range or span
                body = body[first:]
    handler.send_response(status)
    for key, value in headers.items():
        handler.send_header(key, value)
    extra = server.extra_length if status in (200, 206) else 0
    handler.send_header("Content-Length", str(len(body) + extra))
    handler.end_headers()
    _send(server, handler, body if cut is None else body[:cut])
    if extra or cut is not None:
        handler.close_connection = True


def _send(server: FileServer, handler: BaseHTTPRequestHandler, body: bytes) -> None:
    index = len(server.sent)
    server.sent.append(0)
    try:
        for first in range(0, len(body), 1 << 14):
            handler.wfile.write(body[first : first + (1 << 14)])
            server.sent[index] += len(body[first : first + (1 << 14)])
            if server.chunk_pause and server.chunk_pause > 0:
                threading.Event().wait(server.chunk_pause)
    except OSError:
        handler.close_connection = True
