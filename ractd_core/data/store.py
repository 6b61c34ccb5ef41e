"""Datasets on disk: kept as Minari datasets, read back through a flat memory-mapped cache.

The Minari dataset under ``MINARI_DATASETS_PATH`` is the original; the cache under ``RACTD_HOME``
holds the same content as memory-mapped arrays and can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.minari_io import (
    FULL_DISK,
    ORIGIN_KEY,
    datasets_root,
    read_metadata,
    read_minari,
    write_minari,
)
from ractd_core.files import home, new_folder, write_json
from ractd_core.tasks import D4RL, LOCAL, MINARI, DatasetName, all_tasks, is_source, near

_ARRAYS = ("observations", "actions", "rewards", "bounds", "terminated")
_CACHE_ATTEMPTS = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Original:
    """A dataset about to be stored, and where it comes from.

    ``origin`` is kept in its Minari metadata, with the task's name and the content's fingerprint.
    """

    data: FlatDataset
    origin: Mapping[str, Any]
    algorithm: str
    description: str


def folder_of(name: DatasetName) -> Path:
    """Where the dataset lies, or would."""
    return datasets_root() / name.minari_id


def is_present(name: DatasetName) -> bool:
    """Whether a complete Minari dataset of this name is there."""
    return (folder_of(name) / "data" / "metadata.json").is_file()


def present_datasets() -> list[DatasetName]:
    """All datasets that are here and belong to a task, whatever their source, in task order."""
    root = datasets_root()
    sources = {MINARI: 0} | {
        path.parents[2].name: 0
        for path in sorted(root.glob("*/*/data/metadata.json"))
        if is_source(path.parents[2].name)
    }
    names = [
        DatasetName(source, task)
        for task in all_tasks().values()
        for source in sources
        if source != MINARI or task.minari_id
    ]
    return [name for name in names if is_present(name)]


def how_to_get(name: DatasetName) -> str:
    """The command that brings ``name`` here."""
    if name.source in (D4RL, MINARI):
        option = " --source minari" if name.source == MINARI else ""
        return f"`ractd data download {name.task.name}{option}` fetches it"
    if name.source == LOCAL and name.task.generated:
        return f"`ractd data make {name}` generates it"
    known = {here.source for here in present_datasets()} | {D4RL, MINARI, LOCAL}
    known -= {name.source}
    return (
        f"`ractd data import FILE --task {name.task.name} --source {name.source}` stores data of "
        f"your own{near(name.source, sorted(known))}"
    )


def put(name: DatasetName, make: Callable[[], Original]) -> bool:
    """Store what ``make`` returns unless ``name`` is here; True if it was made.

    Of several processes that ask at once one makes it and the others wait. A writer that was
    killed leaves nothing behind that the next one does not clear away. Raises :class:`DataError`
    if the datasets' folder cannot be written or is full.
    """
    with locked(name):
        if is_present(name):
            return False
        original = make()
        with new_dataset(name) as staging:
            data = original.data
            origin = {**original.origin, "task": name.task.name, "fingerprint": data.fingerprint}
            write_minari(staging, data, origin, original.algorithm, original.description)
        return True


@contextmanager
def locked(name: DatasetName) -> Iterator[None]:
    """Hold the dataset's lock, and turn what goes wrong with its folder into a clear error."""
    root = datasets_root()
    with _explained(name):
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{name.minari_id.replace('/', '-')}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.warning("%s is being prepared by another process; waiting for it", name)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextmanager
def _explained(name: DatasetName) -> Iterator[None]:
    """Say what to do about a folder that is full or cannot be written."""
    root = datasets_root()
    try:
        yield
    except OSError as error:
        # NumPy says how much it could write, but not why.
        full = error.errno is None and "requested and" in str(error)
        if full or error.errno in FULL_DISK:
            raise DataError(
                f"no room left for {name} under {root} or {home()} ({error}); free some space, or "
                "point MINARI_DATASETS_PATH and RACTD_HOME to another disk, and try again"
            ) from error
        raise DataError(
            f"cannot store {name} under {root}, or work on it under {home()} ({error}); point "
            "MINARI_DATASETS_PATH and RACTD_HOME to folders that can be written"
        ) from error


@contextmanager
def new_dataset(name: DatasetName) -> Iterator[Path]:
    """A temporary Minari root whose dataset ``name.minari_id`` is moved into place at the end.

    Minari itself leaves half-made folders behind; here a dataset is whole or not there. The
    caller holds the dataset's lock, so temporary folders found are those of killed writers.
    """
    final = folder_of(name)
    for stale in final.parent.glob(f".{final.name}.*"):
        shutil.rmtree(stale, ignore_errors=True)
    _set_aside(final)
    with new_folder(final) as folder:
        staging = folder / "staging"
        staging.mkdir()
        yield staging
        (staging / name.minari_id / "data").rename(folder / "data")
        for namespace in staging.rglob("namespace_metadata.json"):
            target = datasets_root() / namespace.relative_to(staging)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                namespace.rename(target)
        shutil.rmtree(staging)


def _set_aside(folder: Path) -> None:
    """Move a folder that is no complete dataset out of the way: Minari leaves such after errors."""
    if folder.exists():
        aside = folder.with_name(f".incomplete-{folder.name}-{uuid.uuid4().hex[:8]}")
        folder.rename(aside)
        _log.warning("%s was no complete dataset; it is now %s", folder, aside)


def load(name: DatasetName, fingerprint: str | None = None) -> FlatDataset:
    """The dataset as memory-mapped flat arrays.

    Raises :class:`DataError` if it is absent (and says how to get it), malformed, or not the one
    with ``fingerprint``.
    """
    if not is_present(name):
        raise DataError(f"dataset {name} is not under {datasets_root()}; {how_to_get(name)}")
    cache = home() / "cache" / "datasets" / _identity(name)
    for _ in range(_CACHE_ATTEMPTS):
        if not cache.exists():
            _write_cache(name, cache)
        data = _read_cache(name, cache)
        if data is not None:
            break
        _log.warning("the cache of %s at %s is damaged; it is made anew", name, cache)
        shutil.rmtree(cache, ignore_errors=True)
    else:
        raise DataError(
            f"the cache of {name} at {cache} was damaged {_CACHE_ATTEMPTS} times in a row; check "
            "the disk, or point RACTD_HOME to another one"
        )
    if fingerprint not in (None, data.fingerprint):
        raise DataError(
            f"dataset {name} has fingerprint {data.fingerprint[:12]}, expected {fingerprint[:12]}: "
            "it was replaced while it was in use"
        )
    return data


def _write_cache(name: DatasetName, cache: Path) -> None:
    data = read_minari(name, name.minari_id)
    with _explained(name), new_folder(cache) as folder:
        for key in _ARRAYS:
            np.save(folder / f"{key}.npy", getattr(data, key))
        write_json(folder / "about.json", {"name": str(name), "fingerprint": data.fingerprint})


def _read_cache(name: DatasetName, cache: Path) -> FlatDataset | None:
    """What is cached; None if it is not what was written."""
    try:
        arrays = {key: np.load(cache / f"{key}.npy", mmap_mode="r") for key in _ARRAYS}
        data = FlatDataset(name=name, **arrays)
        written = json.loads((cache / "about.json").read_text())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return data if data.fingerprint == written else None


def origin_of(name: DatasetName) -> dict[str, Any]:
    """Where a dataset comes from, as recorded when it was stored; empty if nobody did."""
    text = read_metadata(name.minari_id).get(ORIGIN_KEY)
    try:
        return dict(json.loads(text)) if text else {}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{ORIGIN_KEY} in the metadata of {folder_of(name)} is damaged ({error}); delete that "
            f"folder and get the dataset again: {how_to_get(name)}"
        ) from error


def _identity(name: DatasetName) -> str:
    """Changes whenever the Minari files are replaced."""
    folder = folder_of(name) / "data"
    digest = hashlib.sha256(f"{name} {folder}".encode())
    for file in sorted(folder.rglob("*")):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    return f"{name.task.name}-{digest.hexdigest()[:16]}"
