"""Why what trains in this process is to make room, and how it does: from a checkpoint it goes on.

Three notices count: the sweep's driver ends and asks through the storage, this process gets a
SIGTERM, or Ray drains its node, as it does before a spot instance is taken away. Training looks for
them between two steps (:meth:`ractd_core.training.Trainer.run`).
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ractd_core.training import TrainingInterrupted

INTERRUPT = "interrupt"
"""A file in a sweep's folder, from when its driver was told to end until the next one begins."""
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


class Notices:
    """Asked whether to make room, by training; ``folder`` is the sweep's, if there is one.

    A context: only within it a SIGTERM is heeded as a notice.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = None if folder is None else folder / INTERRUPT
        self._asked, self._draining = 0.0, False

    def __enter__(self) -> Callable[[], bool]:
        _termination.training += 1
        return self

    def __exit__(self, *error: object) -> None:
        _termination.training -= 1

    def __call__(self) -> bool:
        """Whether any notice is there."""
        asked = self._file is not None and self._file.exists()
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
        if (folder / INTERRUPT).exists():
            return
        _log.warning("%s, since its process or node is to go; it goes on elsewhere", error)
        _termination.resume()
        raise PreemptedError(str(error)) from error
