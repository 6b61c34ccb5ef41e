"""Warnings of worker processes, brought to the driver through the storage.

Ray can forward everything its workers print, which is a wall; this brings over only what the
project itself logs.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_LOGGERS = ("ractd_core", "sweeps")


def log_to(folder: Path) -> None:
    """Append this process's warnings to a file of its own in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{socket.gethostname()}-{os.getpid()}.log"
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        files = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
        # A worker process is used again for the next trial, perhaps of another sweep.
        if [Path(handler.baseFilename) for handler in files] == [path]:
            continue
        for handler in files:
            logger.removeHandler(handler)
        handler = logging.FileHandler(path, delay=True)
        handler.setLevel(logging.WARNING)
        logger.addHandler(handler)


class Messages:
    """What arrived in ``folder`` since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {path: path.stat().st_size for path in folder.glob("*.log")}

    def new(self) -> Iterator[str]:
        """Lines not seen before, from every process."""
        for path in sorted(self._folder.glob("*.log")):
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
                self._read[path] = file.tell()
            yield from (line for line in text.splitlines() if line.strip())
