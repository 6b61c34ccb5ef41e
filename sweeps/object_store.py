"""Objects under one prefix of an S3-compatible store, through pyarrow.

Credentials come from where the AWS tools look for them: the environment, or a role of the machine.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from ractd_core.files import lacks_room

_PAUSES = (0.2, 0.5, 1.0)
"""Seconds between the tries of one call, on top of those that the AWS library makes itself."""
_PATIENCE = (2.0, 5.0, 10.0, 20.0, 30.0)
"""Seconds between the looks of who waits for a store that is away; the last one for ever."""
_AGAIN = 60.0
"""Seconds between two warnings that the store is still away."""
_TIMEOUT = 10.0
_CHUNK = 8 << 20
_SETTINGS = ("endpoint_override", "scheme", "region")
_log = logging.getLogger(__name__)

T = TypeVar("T")


class StoreUriError(ValueError):
    """A URI that does not name a place in an object store; secrets in it are not repeated."""


class StoreAwayError(OSError):
    """The store did not answer, or refused, after some tries."""


@dataclass(frozen=True)
class StoreUri:
    """``s3://BUCKET/PREFIX``, and where the store is if it is not AWS."""

    bucket: str
    prefix: str
    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> StoreUri:
        """The parts of ``text``; :class:`StoreUriError` if they do not name a place."""
        scheme, _, rest = text.partition("://")
        if scheme != "s3":
            raise StoreUriError(f"storage on {scheme}:// is not supported; use a path or s3://")
        parts = urlsplit(text)
        settings = dict(parse_qsl(parts.query, keep_blank_values=True))
        if "@" in rest or any(_is_secret(name) for name in settings):
            raise StoreUriError(
                "the storage's URI holds credentials, which would show in logs and process lists; "
                "leave them out and give them in the environment (AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
            )
        unknown = sorted(settings.keys() - set(_SETTINGS))
        if unknown:
            raise StoreUriError(
                f"the storage's URI has unknown settings {', '.join(unknown)}; known: "
                f"{', '.join(_SETTINGS)}"
            )
        prefix = parts.path.strip("/")
        if not parts.netloc or parts.fragment or ".." in prefix.split("/"):
            raise StoreUriError("expected storage as s3://BUCKET/PREFIX")
        return cls(parts.netloc, prefix, tuple(sorted(settings.items())))

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.settings)
        return f"{self.place}{f'?{query}' if query else ''}"

    @property
    def place(self) -> str:
        """The URI without its settings, for people."""
        return f"s3://{self.bucket}{f'/{self.prefix}' if self.prefix else ''}"

    def open(self) -> ObjectStore:
        """The store; nothing is asked of it yet."""
        # Half a second, and only where there is an object store.
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        known = dict(self.settings)
        endpoint = known.get("endpoint_override") or _environment_endpoint()
        scheme, _, host = endpoint.rpartition("://")
        files = S3FileSystem(
            region=known.get("region"),
            endpoint_override=host.rstrip("/") or None,
            scheme=known.get("scheme") or scheme or None,
            request_timeout=_TIMEOUT,
            connect_timeout=_TIMEOUT,
            # A small object is then one request, which is there whole or not at all.
            allow_delayed_open=True,
            background_writes=False,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=2),
        )
        root = f"{self.bucket}/{self.prefix}".rstrip("/")
        return ObjectStore(files, root, self.place)


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in ("key", "secret", "token", "password"))


def _environment_endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@dataclass(frozen=True)
class Entry:
    """An object: its key under the store's root, size in bytes, and when the store got it.

    ``changed`` is by the store's own clock, in nanoseconds since 1970.
    """

    key: str
    size: int
    changed: int


@dataclass(frozen=True)
class ObjectStore:
    """Objects under ``root`` of a pyarrow file system, called ``name`` in messages.

    A call that fails is tried again a few times and then raises :class:`StoreAwayError`; if the
    store is ``patient``, never: it warns and waits until the store is back.
    """

    files: Any
    root: str
    name: str
    patient: bool = False
    pauses: tuple[float, ...] = _PAUSES
    patience: tuple[float, ...] = _PATIENCE

    def patiently(self) -> ObjectStore:
        """The same store for a caller that cannot do without its answer."""
        return replace(self, patient=True)

    def read(self, key: str) -> bytes | None:
        """An object's content, None if it is not there."""

        def read() -> bytes:
            with self.files.open_input_stream(self._path(key)) as stream:
                content: bytes = stream.read()
                return content

        return self._try(_absent_is_none(read))

    def write(self, key: str, content: bytes) -> None:
        """Put an object, over any there is."""

        def write() -> None:
            with self.files.open_output_stream(self._path(key)) as stream:
                stream.write(content)

        self._try(write)

    def upload(self, path: Path, key: str) -> None:
        """Put the file ``path`` as an object."""

        def upload() -> None:
            with (
                path.open("rb") as source,
                self.files.open_output_stream(self._path(key)) as target,
            ):
                shutil.copyfileobj(source, target, _CHUNK)

        self._try(upload)

    def download(self, key: str, path: Path) -> bool:
        """Get an object as the file ``path``, whole or not at all; False if it is not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")

        def download() -> bool:
            with (
                self.files.open_input_stream(self._path(key)) as source,
                part.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, _CHUNK)
            part.replace(path)
            return True

        try:
            return bool(self._try(_absent_is_none(download)))
        finally:
            part.unlink(missing_ok=True)

    def list(self, prefix: str) -> list[Entry]:
        """Every object below ``prefix``, at any depth."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._path(prefix), recursive=True, allow_not_found=True)
        return [
            Entry(info.path.removeprefix(f"{self.root}/"), info.size, info.mtime_ns)
            for info in self._try(lambda: self.files.get_file_info(selector))
            if info.type == FileType.File
        ]

    def changed(self, key: str) -> int | None:
        """When the store got the object, by its own clock; None if it is not there."""
        from pyarrow.fs import FileType

        info = self._try(lambda: self.files.get_file_info(self._path(key)))
        return info.mtime_ns if info.type == FileType.File else None

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._try(_absent_is_none(lambda: self.files.delete_file(self._path(key))))

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}" if key else self.root

    def _try(self, call: Callable[[], T]) -> T:
        pauses = list(self.pauses)
        warned = None
        rounds = 0
        while True:
            try:
                return call()
            except OSError as error:
                if _is_local(error):
                    raise
                reason = " ".join(str(error).split())
            if pauses:
                time.sleep(pauses.pop(0))
                continue
            if not self.patient:
                raise StoreAwayError(f"storage {self.name} cannot be reached ({reason})")
            now = time.monotonic()
            if warned is None or now - warned > _AGAIN:
                warned = now
                _log.warning(
                    "storage %s cannot be reached (%s); waiting until it can, nothing is lost",
                    self.name,
                    reason,
                )
            time.sleep(self.patience[min(rounds, len(self.patience) - 1)])
            rounds += 1


def _absent_is_none(call: Callable[[], T]) -> Callable[[], T | None]:
    def attempt() -> T | None:
        try:
            return call()
        except FileNotFoundError:
            return None

    return attempt


def _is_local(error: OSError) -> bool:
    """Whether it is this machine's file or disk that failed, and not the store."""
    return error.filename is not None or lacks_room(error)
