"""Which driver may drive a sweep whose storage is an object store: one, on whatever machine.

The lease is an object that its owner writes again and again. How old it is, is told by the store's
own clock: against a probe written just now, so that clocks of machines do not matter. A store has
no compare-and-swap here; whoever takes a lease looks again after a moment, and the owner looks
before it renews, so that of two at once one stays.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sweeps.mirror import Mirror
from sweeps.object_store import ObjectStore

LEASE = "lease.json"
TTL = 60.0
"""Seconds without renewal after which a lease may be taken over."""
BEAT = 10.0
"""Seconds between two renewals."""
_SETTLE = 1.0


class LeaseHeldError(RuntimeError):
    """Somebody else drives the sweep; the message says who."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lease: ``id`` is the driver's own, ``mirror`` that of its folder.

    ``ending``: it was told to end, and what trains for it is to make room.
    """

    id: str
    mirror: str
    host: str
    pid: int
    ending: bool = False


class Lease:
    """The lease at ``key`` of ``store`` for a driver that works in ``mirror``.

    Calls raise what the store raises.
    """

    def __init__(self, store: ObjectStore, key: str, mirror: str) -> None:
        self._store, self._key = store, key
        self.me = Owner(uuid.uuid4().hex[:12], mirror, socket.gethostname(), os.getpid())

    def holder(self) -> tuple[Owner, float] | None:
        """Who holds it and for how many seconds it has not been renewed; None if nobody does."""
        owner = self.written()
        if owner is None:
            return None
        probe = f"{self._key}.clock-{uuid.uuid4().hex[:8]}"
        self._store.write(probe, b"")
        try:
            now, written = self._store.changed(probe), self._store.changed(self._key)
        finally:
            self._store.delete(probe)
        if now is None or written is None:
            return None
        age = (now - written) / 1e9
        return (owner, age) if age < TTL else None

    def take(self) -> None:
        """Take it; :class:`LeaseHeldError` if a driver of another machine holds it.

        The caller holds the lock of this machine's mirror: a driver that worked there is gone.
        """
        self._refuse()
        self.renew()
        time.sleep(_SETTLE)
        self._refuse()

    def renew(self, *, ending: bool = False) -> None:
        """Write it again."""
        self.me = replace(self.me, ending=ending)
        self._store.write(self._key, json.dumps(asdict(self.me)).encode())

    def is_mine(self, *, patient: bool = False) -> bool:
        """Whether it is there and nobody has taken it over.

        One that is gone was another's, who has ended. With ``patient`` it waits while the store is
        away.
        """
        owner = self._written(self._store.patiently() if patient else self._store)
        return owner is not None and owner.id == self.me.id

    def release(self) -> None:
        """Let the next driver begin at once."""
        if self.is_mine():
            self._store.delete(self._key)

    def _refuse(self) -> None:
        held = self.holder()
        if held is not None and held[0].mirror != self.me.mirror:
            owner, age = held
            raise LeaseHeldError(
                f"already being driven on {owner.host} (process {owner.pid}, heard of {age:.0f} s "
                f"ago); if that machine is gone, its lease ends {TTL:.0f} s after that"
            )

    def written(self) -> Owner | None:
        """Who wrote it last, however long ago; None if it is not there, or nobody can read it."""
        return self._written(self._store)

    def _written(self, store: ObjectStore) -> Owner | None:
        content = store.read(self._key)
        try:
            return None if content is None else Owner(**json.loads(content))
        except (ValueError, TypeError):
            return None


def lease_of(mirror: Mirror, folder: Path) -> Lease:
    """The lease of the sweep in ``folder`` for a driver of ``mirror``."""
    return Lease(mirror.store, f"{mirror.key(folder)}/{LEASE}", mirror.id)
