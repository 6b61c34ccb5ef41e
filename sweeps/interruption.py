"""Why what trains in this process is to make room, and how it does: from a checkpoint it goes on.

Three notices count: the sweep's driver ends and asks through the storage (through its lease where
that is an object store), this process gets a SIGTERM, or Ray drains its node. Training looks for
them between two steps (:meth:`ractd_core.training.Trainer.run`).
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from ractd_core.training import TrainingInterrupted
from sweeps.background import beside
from sweeps.ending import INTERRUPT
from sweeps.lease import Owner, lease_of
from sweeps.mirror import mirror_of
from sweeps.object_store import StoreAwayError

_ASK_EVERY = 3.0
"""Seconds between two questions to an object store whether the driver ends."""
_DRAIN_EVERY = 3.0
"""Seconds between two questions to Ray whether this node is being drained."""
_log = logging.getLogger(__name__)


class PreemptedError(RuntimeError):
    """The work has left a checkpoint, and is to be done again elsewhere."""


class _Termination:
    """A SIGTERM to this process: while it trains one is a notice, otherwise it ends the process."""

    def __init__(self) -> None:
        self.training, self.noticed = 0, False
        self._before: Any = signal.SIG_DFL

    def heed(self) -> None:
        """Take SIGTERM from whoever has it."""
        if signal.getsignal(signal.SIGTERM) != self._handle:
            self._before = signal.signal(signal.SIGTERM, self._handle)

    def resume(self) -> None:
        """Let the SIGTERM that was a notice end the process, as it would have."""
        if self.noticed:
            signal.raise_signal(signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.training and not self.noticed:
            self.noticed = True
        elif callable(self._before):
            self._before(number, frame)
        else:
            signal.signal(number, self._before)
            signal.raise_signal(number)


_termination = _Termination()


def heed_sigterm() -> None:
    """From now on let a SIGTERM to this process wait for training; for the main thread."""
    _termination.heed()


class _Driver:
    """The driver of the sweep in ``folder``, as far as it is heard here."""

    def __init__(self, folder: Path) -> None:
        self._file, mirror = folder / INTERRUPT, mirror_of(folder)
        self._lease = None if mirror is None else lease_of(mirror, folder)
        self._owner: Owner | None = None

    def ends(self) -> bool:
        """Whether it has asked what trains to end."""
        if self._lease is None:
            return self._file.exists()
        owner = self._owner
        if owner is None:
            return False
        # The file of another mirror's driver was left by one that is gone.
        return owner.ending or (owner.mirror == self._lease.me.mirror and self._file.exists())

    def ask(self) -> None:
        """Look who drives now; what was known stays so while the store is away."""
        if self._lease is not None:
            with suppress(StoreAwayError):
                self._owner = self._lease.written()

    def listen(self, over: threading.Event) -> None:
        """Ask again and again until ``over``."""
        while self._lease is not None:
            self.ask()
            if over.wait(_ASK_EVERY):
                return


@lru_cache
def _driver_of(folder: Path) -> _Driver:
    return _Driver(folder)


class Notices:
    """Asked whether to make room, by training; ``folder`` is the sweep's, if there is one.

    A context: only within it a SIGTERM is heeded as a notice, and an object store is asked.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._driver = None if folder is None else _driver_of(folder)
        self._asked, self._draining = 0.0, False
        self._listening = ExitStack()

    def __enter__(self) -> Callable[[], bool]:
        _termination.training += 1
        if self._driver is not None:
            # In a thread that nothing waits for: training does not stand still with its store.
            self._listening.enter_context(beside(self._driver.listen, patience=0.0))
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.close()
        _termination.training -= 1

    def __call__(self) -> bool:
        """Whether any notice is there."""
        asked = self._driver is not None and self._driver.ends()
        return asked or _termination.noticed or self._drained()

    def _drained(self) -> bool:
        if time.monotonic() - self._asked >= _DRAIN_EVERY:
            self._draining = node_is_drained()
            self._asked = time.monotonic()
        return self._draining


def node_is_drained() -> bool:
    """Whether Ray is about to take this process's node away; never without Ray."""
    if "ray" not in sys.modules:
        return False
    import ray
    from ray._private.state import state  # what Ray Train's own watcher of preemptions asks

    if not ray.is_initialized():
        return False
    return ray.get_runtime_context().get_node_id() in state.get_draining_nodes()


@contextmanager
def making_room(folder: Path) -> Iterator[None]:
    """End quietly when the driver of the sweep in ``folder`` has asked training to end.

    For any other notice raise :class:`PreemptedError`, for which Ray tries again, elsewhere.
    """
    try:
        yield
    except TrainingInterrupted as error:
        driver = _driver_of(folder)
        driver.ask()
        if driver.ends():
            return
        _log.warning("%s, since its process or node is to go; it goes on elsewhere", error)
        _termination.resume()
        raise PreemptedError(str(error)) from error
