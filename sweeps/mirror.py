"""A local folder that stands for a storage in an object store, and what moves between the two.

Everything works in the mirror as it would in a storage folder; here are the steps in which it meets
the store. Without a mirror they do nothing.

::

    FOLDER/ATTEMPT/...     a finished trial, row, confirmation or stage
    FOLDER/running/...     the same before it is finished: curve, checkpoint, requests to stop
    everything else        under its own path

A finished folder is there if and only if an attempt has its record (or manifest), which is put
last. No attempt is ever written to again. Of several, the one whose record the store received first
counts, by the store's own clock, and of two in one instant the one with the lower name; so all
readers agree without a lock. A record is in the mirror only if it is in the store.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ractd_core.files import home, read_json, sha256, write_json, write_text
from sweeps.object_store import Entry, ObjectStore, StoreAwayError, StoreUri

RUNNING = "running"
_MARKER = ".mirror.json"
_ATTEMPT, _DROPPED = ".attempt", ".dropped"
_WEIGHTS = ".safetensors"
_CURVES = ("curve.jsonl", "metrics.jsonl")
_LEDGERS = ("trials", "rows", "confirmations")
_ORDER = {
    **dict.fromkeys(_CURVES, 0),
    "checkpoint.safetensors": 1,
    "episodes.csv": 3,
    "played.json": 4,
}
"""What must be in the store before what: no checkpoint without its point of the curve, no student's
weights without the checkpoint they are of, and no episodes without the student they are of."""
_LATER = 30.0
"""Seconds that a store which is away is left alone by those who can wait."""
_log = logging.getLogger(__name__)


def open_mirror(uri: str) -> Path:
    """The folder that stands for the storage ``uri``, made if absent; raises StoreUriError."""
    parsed = StoreUri.parse(uri)
    digest = hashlib.sha256(str(parsed).encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{parsed.bucket}-{parsed.prefix}").strip("-.")
    root = home() / "mirrors" / f"{readable[:80]}-{digest}"
    if not (root / _MARKER).exists():
        write_json(root / _MARKER, {"uri": str(parsed), "id": uuid.uuid4().hex[:12]})
    return root


def mirror_of(path: Path) -> Mirror | None:
    """The mirror that ``path`` is in, None for a path of its own."""
    mirrors = home() / "mirrors"
    if not path.is_relative_to(mirrors) or path == mirrors:
        return None
    root = mirrors / path.relative_to(mirrors).parts[0]
    return _open(root) if (root / _MARKER).exists() else None


@lru_cache
def _open(root: Path) -> Mirror:
    about = read_json(root / _MARKER)
    return Mirror(root, about["uri"], about["id"], StoreUri.parse(about["uri"]).open())


def join(address: str) -> None:
    """Let this machine know of the mirror whose paths it has been given."""
    if "://" in address:
        open_mirror(address)


def address_of(storage: Path) -> str:
    """What another node finds the storage by: the store's URI, or the path."""
    mirror = mirror_of(storage)
    return str(storage) if mirror is None else mirror.uri


def commit(folder: Path, name: str, content: Any, source: Path | None = None) -> bool:
    """Put the finished ``folder`` into the store, its file ``name`` with JSON ``content`` last.

    The files are those of ``source`` if given. Waits while the store is away. False if the store
    has a finished one already, which is then here; else ``name`` is the caller's to write here.
    """
    mirror = mirror_of(folder)
    if mirror is None:
        return True
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    return mirror.commit(folder, name, text.encode(), source or folder)


def bring(folder: Path, name: str) -> bool:
    """Whether the finished ``folder`` is here, after bringing it, without models, from the store.

    ``name`` is the file that is put last. Waits while the store is away.
    """
    if (folder / name).exists():
        return True
    mirror = mirror_of(folder)
    return mirror is not None and mirror.bring(folder, name)


def restore(folder: Path, name: str) -> bool:
    """As :func:`bring`, with models, and whatever of it is here already."""
    mirror = mirror_of(folder)
    return mirror is not None and mirror.bring(folder, name, models=True)


def discard(folder: Path, name: str) -> None:
    """Remove a finished ``folder`` that is damaged from the store."""
    mirror, attempt = mirror_of(folder), _attempt(folder)
    if mirror is not None and attempt is not None:
        mirror.discard(folder, attempt, name)


def push(folder: Path, *, patient: bool = False) -> None:
    """Put what has changed of an unfinished ``folder``, for another node to go on from.

    Of a store that is away this is left for the next time, unless ``patient``.
    """
    mirror = mirror_of(folder)
    if mirror is not None:
        mirror.push(folder, patient)


def pull(folder: Path) -> None:
    """Bring an unfinished ``folder`` here if the store's is further. Waits while it is away."""
    mirror = mirror_of(folder)
    if mirror is not None:
        entries = mirror.patient.list(mirror.key(folder))
        mirror.pull(folder, entries, mirror.patient, models=True)


def fetch(path: Path, *, patient: bool = True) -> bool:
    """Whether the file is here, after bringing it from the store if it is there."""
    if path.exists():
        return True
    mirror = mirror_of(path)
    return mirror is not None and mirror.fetch(path, patient)


def refresh(path: Path) -> None:
    """Bring the file as it is in the store, which another machine may have changed."""
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.patient.download(mirror.key(path), path)


def share(path: Path, *, patient: bool = True) -> None:
    """Put one file of an unfinished folder, or of none, into the store."""
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.share(path, patient)


def drop_models(folder: Path) -> None:
    """Delete the models of a finished folder, here and in the store; in one that is away later."""
    for model in folder.rglob(f"*{_WEIGHTS}"):
        model.unlink()
    mirror = mirror_of(folder)
    if mirror is not None and not (folder / _DROPPED).exists():
        mirror.drop_models(folder)


class Mirror:
    """The folder ``root`` and the store that it stands for; ``id`` is the folder's own."""

    def __init__(self, root: Path, uri: str, id: str, store: ObjectStore) -> None:
        self.root, self.uri, self.id = root, uri, id
        self.store, self.patient = store, store.patiently()
        self._pushed: dict[Path, str] = {}
        self._not_before = 0.0

    def key(self, path: Path) -> str:
        """Where ``path`` is in the store, if it is not part of a trial, row or stage."""
        return path.relative_to(self.root).as_posix()

    def unit(self, path: Path) -> Path | None:
        """The folder of the trial, row, confirmation or stage that ``path`` is part of."""
        parts = path.relative_to(self.root).parts
        depth = 0
        if parts[:1] == ("stages",):
            depth = 3 if parts[1:2] == (".building",) else 2
        elif parts[:1] == ("sweeps",) and len(parts) > 2 and parts[2] in _LEDGERS:
            depth = 4
        return self.root.joinpath(*parts[:depth]) if 0 < depth <= len(parts) else None

    def key_of_file(self, path: Path, *, finished: bool = True) -> str:
        """Where the file ``path`` is in the store; in what is ``finished``, if its folder is."""
        unit = self.unit(path)
        if unit is None:
            return self.key(path)
        part = (finished and _attempt(unit)) or RUNNING
        return f"{self.key(unit)}/{part}/{path.relative_to(unit).as_posix()}"

    def check(self) -> None:
        """Write something; StoreAwayError if the store does not take it."""
        key = f".check-{uuid.uuid4().hex[:8]}"
        self.store.write(key, b"")
        self.store.delete(key)

    def quietly(self, call: Any) -> Any:
        """The call's result, None if the store is away, which is then left alone for a while."""
        if time.monotonic() < self._not_before:
            return None
        try:
            return call()
        except StoreAwayError as error:
            self._not_before = time.monotonic() + _LATER
            _log.warning("%s; going on without it for now", error)
            return None

    def commit(self, folder: Path, name: str, content: bytes, source: Path) -> bool:
        """As the function of that name."""
        # Whoever finishes it need not have made all of it.
        self.pull(source, self.patient.list(self.key(source)), self.patient, models=True)
        theirs = winner(self.patient.list(self.key(folder)), self.key(folder), name)
        attempt = uuid.uuid4().hex[:12]
        if theirs is None:
            base = f"{self.key(folder)}/{attempt}"
            for path in _files(source):
                if not path.name.startswith("checkpoint"):
                    self.patient.upload(path, f"{base}/{path.relative_to(source).as_posix()}")
            self.patient.write(f"{base}/{name}", content)
            entries = self.patient.list(self.key(folder))
            theirs = winner(entries, self.key(folder), name)
        if theirs == attempt:
            write_text(source / _ATTEMPT, attempt)
        else:
            self.discard(folder, attempt, name)
            self.bring(folder, name)
        self.quietly(lambda: _delete(self.store, f"{self.key(source)}/{RUNNING}"))
        return theirs == attempt

    def bring(self, folder: Path, name: str, *, models: bool = False) -> bool:
        """As the function of that name, or :func:`restore` with ``models``."""
        entries = self.patient.list(self.key(folder))
        attempt = winner(entries, self.key(folder), name)
        if attempt is None:
            return False
        self.adopt(folder, name, attempt, entries, self.patient, models=models)
        return True

    def has(self, folder: Path, name: str, attempt: str) -> bool:
        """Whether ``folder`` is here as ``attempt`` left it, but for models."""
        return _attempt(folder) == attempt and (folder / name).exists()

    def adopt(
        self,
        folder: Path,
        name: str,
        attempt: str,
        entries: Iterable[Entry],
        store: ObjectStore,
        *,
        models: bool = False,
    ) -> None:
        """Make ``folder`` that of ``attempt``; without ``models`` these are fetched when asked."""
        if _attempt(folder) != attempt:
            for stale in (*folder.rglob(f"*{_WEIGHTS}"), folder / name):
                stale.unlink(missing_ok=True)
        base = f"{self.key(folder)}/{attempt}/"
        theirs = [each.key for each in entries if each.key.startswith(base)]
        for key in theirs:
            path = folder / key.removeprefix(base)
            if (models or path.suffix != _WEIGHTS) and path != folder / name:
                store.download(key, path)
        write_text(folder / _ATTEMPT, attempt)
        store.download(f"{base}{name}", folder / name)

    def discard(self, folder: Path, attempt: str, name: str) -> None:
        """Remove an attempt from the store; first what makes it one."""
        base = f"{self.key(folder)}/{attempt}"
        self.patient.delete(f"{base}/{name}")
        _delete(self.patient, base)

    def push(self, folder: Path, patient: bool) -> None:
        """As the function of that name."""
        if patient:
            self._push(folder, self.patient)
        else:
            self.quietly(lambda: self._push(folder, self.store))

    def _push(self, folder: Path, store: ObjectStore) -> None:
        for path in _files(folder):
            digest = sha256(path)
            if self._pushed.get(path) != digest:
                name = path.relative_to(folder).as_posix()
                store.upload(path, f"{self.key(folder)}/{RUNNING}/{name}")
                self._pushed[path] = digest

    def pull(
        self, folder: Path, entries: Iterable[Entry], store: ObjectStore, *, models: bool
    ) -> None:
        """Bring what is missing here, and everything if the store's curve is longer.

        Without ``models`` those that are here and belong to a shorter curve are deleted.
        """
        base = f"{self.key(folder)}/{RUNNING}/"
        there = {e.key.removeprefix(base): e.key for e in entries if e.key.startswith(base)}
        further = False
        for curve in _CURVES:
            content = store.read(there[curve]) if curve in there else None
            if content is not None:
                further = _lines(content) > _lines(_content(folder / curve))
        # The curve last: until then a pull that was cut short is seen to be.
        for name in sorted(there, key=_rank, reverse=True):
            path = folder / name
            if path.suffix == _WEIGHTS and not models:
                if further:
                    path.unlink(missing_ok=True)
            elif further or not path.exists():
                store.download(there[name], path)

    def share(self, path: Path, patient: bool) -> None:
        """As the function of that name."""
        key = self.key_of_file(path, finished=False)
        if patient:
            self.patient.upload(path, key)
        else:
            self.quietly(lambda: self.store.upload(path, key))

    def drop_models(self, folder: Path) -> None:
        """As the function of that name."""

        def drop() -> None:
            for entry in self.store.list(self.key(folder)):
                if entry.key.endswith(_WEIGHTS):
                    self.store.delete(entry.key)
            write_text(folder / _DROPPED, "")

        self.quietly(drop)

    def fetch(self, path: Path, patient: bool) -> bool:
        """As the function of that name."""
        key = self.key_of_file(path)
        if patient:
            return self.patient.download(key, path)
        return bool(self.quietly(lambda: self.store.download(key, path)))


def winner(entries: Iterable[Entry], folder: str, name: str) -> str | None:
    """The attempt that counts of those in ``folder`` whose last file is ``name``, None if none."""
    done = [
        (entry.changed, attempt)
        for entry in entries
        for attempt, _, file in [entry.key.removeprefix(f"{folder}/").partition("/")]
        if file == name and attempt != RUNNING
    ]
    return min(done)[1] if done else None


def _delete(store: ObjectStore, prefix: str) -> None:
    for entry in store.list(prefix):
        store.delete(entry.key)


def _files(folder: Path) -> list[Path]:
    """The files of a trial, row or stage that are worth anything elsewhere, in their order."""
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith("lock")
    ]
    return sorted(found, key=lambda path: _rank(path.relative_to(folder).as_posix()))


def _rank(name: str) -> tuple[int, str]:
    return _ORDER.get(name.rpartition("/")[2], 2), name


def _attempt(folder: Path) -> str | None:
    path = folder / _ATTEMPT
    return path.read_text() if path.exists() else None


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _lines(content: bytes) -> int:
    return content.count(b"\n")
