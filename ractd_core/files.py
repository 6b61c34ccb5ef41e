"""Writing so that a reader sees the whole thing or nothing, and the project's folders."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STAGE_SCHEMA = 5
"""Version of what a stage leaves: part of its key and of its model file's header.

So a release never finds a model in the store that it cannot read.
"""


class FileError(ValueError):
    """A file of the project's own that cannot be read; the message names it."""


def home() -> Path:
    """``RACTD_HOME`` (default ``~/.ractd``): caches and the default storage."""
    return Path(os.environ.get("RACTD_HOME") or Path.home() / ".ractd").expanduser().absolute()


def lacks_room(error: BaseException | None) -> bool:
    """Whether ``error`` or what caused it, here or in another process, is a full disk or quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = getattr(error, "cause", None) or error.__cause__
    return False


def sha256(path: Path) -> str:
    """The file's checksum, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to a temporary neighbour, flush it to disk, and rename it into place."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """As :func:`write_text`, for bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON; NaN and infinity are refused (ValueError)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_json_once(path: Path, value: Any) -> bool:
    """As :func:`write_json`, unless ``path`` exists; of several writers at once, one succeeds."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.whole")
    write_json(part, value)
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        part.unlink()
    return True


def read_json(path: Path) -> Any:
    """Read JSON; :class:`FileError` names the file if it is not valid."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path} is not valid JSON ({error})") from error


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``final`` when the block ends without an error.

    If somebody else made ``final`` in the meantime, theirs stays and this copy is dropped.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    part.mkdir()
    try:
        yield part
        try:
            part.rename(final)
        except OSError:
            if not final.exists():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
