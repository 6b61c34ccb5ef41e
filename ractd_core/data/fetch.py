"""Fetch one file over HTTP: resumed where it stopped, whole or not there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from ractd_core.data.flat import DataError
from ractd_core.files import sha256, write_json

_CHUNK = 1 << 16
"""Small: of a block that a broken connection cuts, nothing is kept."""
_ATTEMPTS = 5
_TIMEOUT = (10.0, 60.0)
_TRANSIENT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)

Progress = Callable[[int, int | None], None]


class _RetryError(Exception):
    """A transient failure of one attempt; what has arrived is kept."""


def fetch(
    url: str, path: Path, *, progress: Progress = lambda done, total: None, pause: float = 1.0
) -> str:
    """Download ``url`` to ``path``, unless it is there, and return its sha256.

    What arrives is kept in ``path`` + ``.part``; the next call goes on from there if the server
    still has the same file (its ETag or date says so) and starts again if not. A broken connection
    is tried five times, ``pause`` seconds and then twice as long apart. ``progress`` gets the bytes
    here and in all (None if the server does not say). Raises :class:`DataError` naming the URL.
    """
    if path.exists():
        return sha256(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        try:
            _attempt(url, path, progress)
            break
        except _RetryError as error:
            if attempt + 1 == _ATTEMPTS:
                raise DataError(
                    f"{url}: the download broke off {_ATTEMPTS} times ({error}); what has arrived "
                    "is kept, so try again later, or name a mirror with --mirror"
                ) from error
            time.sleep(pause * 2**attempt)
    return sha256(path)


def _attempt(url: str, path: Path, progress: Progress) -> None:
    part, about = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
    known = _read(about)
    version = known.get("version") if known.get("url") == url else None
    have = part.stat().st_size if version and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have and version:
        # Without If-Range a server whose file has changed would send the rest of another file.
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            start = _start(url, response, part, have, version)
            total = _total(response, start)
            done = start
            with part.open("ab" if start else "wb") as file:
                # Only now: old bytes beside a new version would be taken for its beginning.
                version = _version(response) or (version if start else None)
                write_json(about, {"url": url, "version": version})
                for block in response.iter_content(_CHUNK):
                    file.write(block)
                    done += len(block)
                    progress(done, total)
    except _TRANSIENT as error:
        raise _RetryError(_short(error)) from error
    except requests.RequestException as error:
        raise DataError(f"{url} cannot be fetched: {_short(error)}") from error
    if total is not None and done != total:
        raise _RetryError(f"{done:,} of {total:,} bytes arrived")
    part.replace(path)
    about.unlink(missing_ok=True)


def _start(
    url: str, response: requests.Response, part: Path, have: int, version: str | None
) -> int:
    """The offset at which the response's body begins; a part that it does not continue goes."""
    code = response.status_code
    answer = f"{code} {response.reason}"
    if code == requests.codes.ok:
        return 0
    if have and code == requests.codes.partial_content:
        answer = f"{answer} {response.headers.get('Content-Range')!r}"
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        # Some servers ignore If-Range, but their answer says what it is a part of.
        if found and int(found.group(1)) == have and _version(response) in (None, version):
            return have
    if have and code in (requests.codes.partial_content, requests.codes.range_not_satisfiable):
        part.unlink()
        raise _RetryError(f"the server answered a request for bytes from {have} with {answer}")
    if code == requests.codes.too_many or code >= 500:
        raise _RetryError(f"the server answered {answer}")
    raise DataError(
        f"{url}: the server answered {answer}, expected a file; check the address, or name a "
        "mirror with --mirror"
    )


def _version(response: requests.Response) -> str | None:
    """What changes when the file does; a weak ETag does not promise equal bytes."""
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    return None if version is None or version.startswith("W/") else version


def _total(response: requests.Response, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _read(about: Path) -> dict[str, Any]:
    try:
        known = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
