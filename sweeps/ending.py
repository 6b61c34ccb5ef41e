"""How a driver ends when it is told to: what trains writes a checkpoint first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

INTERRUPT = "interrupt"
"""A file in a sweep's folder, from when its driver was told to end until the next one begins there.

Of an object store's sweep it is the driver's mirror alone that has it; the lease says the same to
all others.
"""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """What Ctrl-C and SIGTERM do to a driver, once its main thread listens.

    Where nothing else is said they raise KeyboardInterrupt at once. ``grace`` is in seconds.
    """

    def __init__(self, folder: Path, grace: float) -> None:
        self.grace, self.asked = grace, False
        self._file, self._waits = folder / INTERRUPT, False
        self._file.unlink(missing_ok=True)  # an earlier driver's

    def listen(self) -> None:
        """Take the signals; again once Ray has started, which takes SIGTERM away."""
        for number in (*_SIGNALS, signal.SIGALRM):
            signal.signal(number, self._heard)

    @contextmanager
    def graceful(self) -> Iterator[None]:
        """Where the first signal only asks what runs to end, which has ``grace`` seconds for it.

        Raises KeyboardInterrupt at the end if it did, and earlier when the time is over or at a
        second signal. Whoever starts work looks at ``asked`` first.
        """
        self._waits = True
        try:
            yield
            if self.asked:
                raise KeyboardInterrupt
        finally:
            self._waits = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self._waits or self.grace == 0:
            raise KeyboardInterrupt
        self.asked = True
        self._file.touch()
        signal.setitimer(signal.ITIMER_REAL, self.grace)
