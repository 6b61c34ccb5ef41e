"""A sweep whose storage is an object store: brought here to be read or driven, and kept there.

The driver holds the sweep's lease. While it runs it puts what it writes (events, study, clock) into
the store at every beat, and brings here what other nodes have finished. Reading commands bring the
same here, and leave alone what a driver of this very mirror is ahead of the store with.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path

from ractd_core.files import read_json, sha256, write_json, write_text
from sweeps.background import beside, repeatedly
from sweeps.ending import INTERRUPT
from sweeps.lease import BEAT, LEASE, Lease, Owner, lease_of
from sweeps.ledger import RECORD
from sweeps.mirror import Mirror, fetch, mirror_of, winner
from sweeps.object_store import Entry, ObjectStore, StoreAwayError

MANIFEST = "manifest.json"
_SYNCED = ".synced.json"
_STOP = "stop-requested"
_WANTED = "wanted"
"""Where a sweep has an empty object for each stage that it has asked for, by the stage's name."""
_ELSEWHERE = frozenset(
    {
        *("trials", "rows", "confirmations", "ray", "job", "trackers"),
        *(LEASE, INTERRUPT, _STOP, _SYNCED, _WANTED),
    }
)
"""What lies in a sweep's folder and is not the driver's own."""
_STUDIES = "studies"
_AT_ONCE = 8
_LOOK = 1.0
"""Seconds between two looks whether this driver was told to end, for its lease to say so."""
_log = logging.getLogger(__name__)


def pull_specs(storage: Path) -> None:
    """Bring the specs of all sweeps here, by which they are listed."""
    mirror = mirror_of(storage)
    if mirror is None:
        return
    for entry in mirror.store.list("sweeps"):
        if entry.key.count("/") == 2 and entry.key.endswith("/spec.yaml"):
            fetch(storage / entry.key)


def pull_sweep(folder: Path) -> None:
    """Bring a sweep here to be read; StoreAwayError if its store is away."""
    mirror = mirror_of(folder)
    if mirror is not None:
        _Sweep(mirror, folder).pull()


def bring_finished(folder: Path) -> None:
    """Bring the records of a sweep here. Waits while the store is away."""
    mirror = mirror_of(folder)
    if mirror is not None:
        _Sweep(mirror, folder).pull_finished(mirror.patient)


def want(folder: Path, stages: Iterable[str]) -> None:
    """Let whoever reads the sweep know which stages are its own. Waits while the store is away."""
    mirror = mirror_of(folder)
    if mirror is None:
        return
    for name in stages:
        mark = folder / _WANTED / name
        if not mark.exists():
            mirror.patient.write(mirror.key(mark), b"")
            write_text(mark, "")


@contextmanager
def changing_spec(folder: Path) -> Iterator[None]:
    """While the block looks at the sweep's spec and may write it, nobody else does.

    Raises LeaseHeldError if a driver of another machine is at the sweep.
    """
    mirror = mirror_of(folder)
    if mirror is None:
        yield
        return
    lease, sweep = lease_of(mirror, folder), _Sweep(mirror, folder)
    owner = lease.written()
    # A driver of this mirror keeps what it has: the mirror's own lock is between it and us.
    ours = owner is None or owner.mirror != mirror.id
    if ours:
        lease.take()
    try:
        # By now the lease says that this mirror is at it, and nothing of it is ahead of the store.
        sweep.pull(driver=ours)
        yield
        sweep.push(_names(folder, "recipes.json") + _names(folder, "spec*.yaml"))
    finally:
        if ours:
            lease.release()


def has_driver(folder: Path) -> bool:
    """Whether a driver on any machine has begun with the sweep and not ended, killed or not."""
    mirror = mirror_of(folder)
    return mirror is not None and lease_of(mirror, folder).written() is not None


def driver_of(folder: Path) -> tuple[Owner, float] | None:
    """Who drives a sweep of an object store, and seconds since; None if nobody does."""
    mirror = mirror_of(folder)
    return None if mirror is None else lease_of(mirror, folder).holder()


def request_stop(folder: Path, owner: Owner) -> None:
    """Ask a driver on any machine to end; it does at its next beat."""
    mirror = mirror_of(folder)
    assert mirror is not None
    mirror.store.write(f"{mirror.key(folder)}/{_STOP}", owner.id.encode())


@contextmanager
def driving(folder: Path) -> Iterator[None]:
    """A driver at work in ``folder``, whose lock it holds; nothing to do without a mirror.

    Raises LeaseHeldError if a driver of another machine is at it, and interrupts this process if
    one takes over or somebody asks it to stop.
    """
    mirror = mirror_of(folder)
    if mirror is None:
        yield
        return
    lease, sweep = lease_of(mirror, folder), _Sweep(mirror, folder)
    lease.take()
    try:
        # However long anything is on its way, the lease is renewed.
        with beside(repeatedly(_Hold(lease, sweep).look, min(_LOOK, BEAT))):
            sweep.pull(driver=True)
            exchange = partial(mirror.quietly, partial(sweep.exchange, lease))
            with beside(repeatedly(exchange, BEAT)):
                yield
            if lease.is_mine(patient=True):
                sweep.push(patient=True)
    except BaseException:
        # An error or Ctrl-C: whoever looks is to see how far it came, if that can be done now.
        with suppress(OSError):
            if lease.is_mine():
                sweep.push()
        raise
    finally:
        with suppress(StoreAwayError):
            lease.release()


class _Hold:
    """A driver's hold on its lease, which it renews until it has lost it."""

    def __init__(self, lease: Lease, sweep: _Sweep) -> None:
        self._lease, self._sweep = lease, sweep
        self._due, self._lost = time.monotonic() + BEAT, False

    def look(self) -> None:
        """Renew the lease if that is due, or at once if this driver was told to end.

        Interrupts this process if somebody else has taken over or asks it to stop.
        """
        ending = (self._sweep.folder / INTERRUPT).exists()
        early = time.monotonic() < self._due and ending == self._lease.me.ending
        if self._lost or early:
            return
        if not self._lease.is_mine():
            self._lost = True
            _end("another driver has taken the sweep over")
            return
        self._lease.renew(ending=ending)
        self._due = time.monotonic() + BEAT
        if self._sweep.stop_requested(self._lease.me):
            _end("asked to stop from another machine")


def _end(reason: str) -> None:
    """As Ctrl-C would, in the main thread."""
    _log.warning("%s; this driver ends", reason)
    os.kill(os.getpid(), signal.SIGTERM)


class _Sweep:
    """What is moved of one sweep. Calls raise StoreAwayError, unless told to be patient."""

    def __init__(self, mirror: Mirror, folder: Path) -> None:
        self.mirror, self.folder = mirror, folder
        self._base = mirror.key(folder)
        self._pushed: dict[str, str] = {}

    def pull(self, *, driver: bool = False) -> None:
        """Bring the sweep, its records and the manifests of the stages here."""
        entries = self.mirror.store.list(self._base)
        owner = None if driver else lease_of(self.mirror, self.folder).written()
        # A driver of this mirror, also one that was killed, is ahead of the store.
        if owner is None or owner.mirror != self.mirror.id:
            self._pull_own(entries, driver)
        self.pull_finished(self.mirror.store)

    def pull_finished(self, store: ObjectStore) -> None:
        """Bring the sweep's records and stages here that are not, without models, and the rest.

        That is what there is of those that run or are being built.
        """
        entries = store.list(self._base)
        marks = f"{self._base}/{_WANTED}/"
        wanted = {e.key.removeprefix(marks) for e in entries if e.key.startswith(marks)}
        # A bucket has the stages of all sweeps; of those that are here nothing changes any more.
        stages = self.mirror.root / "stages"
        missing = sorted(name for name in wanted if not (stages / name / MANIFEST).exists())
        places = [f"stages/{where}{name}" for name in missing for where in ("", ".building/")]
        units: dict[Path, list[Entry]] = defaultdict(list)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for entry in chain(entries, *pool.map(store.list, places)):
                unit = self.mirror.unit(self.mirror.root / entry.key)
                if unit is not None:
                    units[unit].append(entry)
            for _ in pool.map(lambda unit: self._pull_unit(unit[0], unit[1], store), units.items()):
                pass

    def _pull_unit(self, folder: Path, entries: list[Entry], store: ObjectStore) -> None:
        name = MANIFEST if "stages" in folder.relative_to(self.mirror.root).parts[:1] else RECORD
        attempt = winner(entries, self.mirror.key(folder), name)
        if attempt is None:
            self.mirror.pull(folder, entries, store, models=False)
        elif not self.mirror.has(folder, name, attempt):
            self.mirror.adopt(folder, name, attempt, entries, store)

    def _pull_own(self, entries: list[Entry], driver: bool) -> None:
        synced = self._synced()
        for entry in entries:
            name = entry.key.removeprefix(f"{self._base}/")
            top = name.partition("/")[0]
            if top in _ELSEWHERE or name.startswith(LEASE) or (top == _STUDIES and not driver):
                continue
            path = self.folder / name
            # What the store has not got since is older than what is here.
            if path.exists() and synced.get(name) == entry.changed:
                continue
            if self.mirror.store.download(entry.key, path):
                synced[name] = entry.changed
        if synced:
            write_json(self.folder / _SYNCED, synced)

    def push(self, names: list[str] | None = None, *, patient: bool = False) -> None:
        """Put the sweep's own files that have changed, or those of ``names``."""
        store = self.mirror.patient if patient else self.mirror.store
        synced = self._synced()
        for name in self._own() if names is None else names:
            path = self.folder / name
            try:
                digest = sha256(path)
                if self._pushed.get(name) == digest:
                    continue
                store.upload(path, f"{self._base}/{name}")
            except FileNotFoundError:
                continue  # Optuna's lock, say, which comes and goes.
            changed = store.changed(f"{self._base}/{name}")
            if changed is not None:
                synced[name] = changed
            self._pushed[name] = digest
            write_json(self.folder / _SYNCED, synced)

    def exchange(self, lease: Lease) -> None:
        """Put what this driver has written and bring what others have, if it is still the one.

        It may have been cut off from the store since its lease was last renewed.
        """
        if lease.is_mine():
            self.push()
            self.pull_finished(self.mirror.store)

    def stop_requested(self, me: Owner) -> bool:
        """Whether this very driver has been asked to stop."""
        key = f"{self._base}/{_STOP}"
        if self.mirror.store.read(key) != me.id.encode():
            return False
        self.mirror.store.delete(key)
        return True

    def _own(self) -> list[str]:
        return [
            name
            for name in _names(self.folder, "**/*")
            if name.partition("/")[0] not in _ELSEWHERE
            and not name.rpartition("/")[2].startswith(".")
            and not name.endswith(".lock")
        ]

    def _synced(self) -> dict[str, int]:
        path = self.folder / _SYNCED
        known: dict[str, int] = {}
        with suppress(OSError, ValueError):
            known = read_json(path)
        return known


def _names(folder: Path, pattern: str) -> list[str]:
    found = (path for path in folder.glob(pattern) if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)
