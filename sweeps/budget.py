"""What a sweep has spent, and whether anything more may begin."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ractd_core.files import FileError, lacks_room, read_json, write_json
from sweeps.layout import SweepFolder
from sweeps.ledger import Record
from sweeps.stage_store import MANIFEST

_log = logging.getLogger(__name__)
_CLOCK = "clock.json"
_PAUSE = 30.0
_SILENT = 60.0
"""Seconds after which a driver that does not tick is taken for gone."""


class Budget:
    """Hours of the sweep's drivers, device-hours of its trials and stages, room on the storage.

    ``tick`` keeps the hours on storage, so that they count on in the next driver.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder, self._limits = folder, folder.spec().budget
        self._began = time.monotonic()
        self._earlier = driver_hours(folder) * 3600
        self._device_seconds = sum(map(device_seconds, folder.trials))
        self._counted: set[Path] = set()
        self._count_stages()
        self._no_room_until = 0.0

    def tick(self) -> None:
        """Write down how long the drivers have run, and where this one does."""
        self._write({"host": socket.gethostname(), "pid": os.getpid()})

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """A driver at work, from its first tick to the one that says that it has ended."""
        self.tick()
        try:
            yield
        finally:
            with suppress(OSError):  # Not heard of, it is soon taken for gone.
                self._write({})

    def _write(self, driver: dict[str, str | int]) -> None:
        write_json(self._folder.path / _CLOCK, {"seconds": round(self._seconds(), 1), **driver})

    def add(self, record: Record) -> None:
        """Count a trial that has ended."""
        self._device_seconds += device_seconds(record)

    def _count_stages(self) -> None:
        """Count the stages that this sweep has built since the last look, also in its trials.

        One that cannot be read, or is being set aside, is looked at again: anybody's may be.
        """
        manifests = set(self._folder.store.root.glob(f"*/{MANIFEST}"))
        for path in manifests - self._counted:
            with suppress(OSError, FileError):
                manifest = read_json(path)
                if manifest.get("sweep") == self._folder.name:
                    self._device_seconds += device_seconds(manifest)
                self._counted.add(path)

    def spent(self) -> str | None:
        """Which limit has been reached, None while there is none."""
        self._count_stages()
        hours, device_hours = self._seconds() / 3600, self._device_seconds / 3600
        if self._limits.hours is not None and hours >= self._limits.hours:
            return f"budget.hours {self._limits.hours:g} are spent"
        if self._limits.device_hours is not None and device_hours >= self._limits.device_hours:
            return f"budget.device_hours {self._limits.device_hours:g} are spent"
        return None

    def lacked_room(self) -> None:
        """Let nothing begin for a while: a quota shows in writes that fail and in nothing else."""
        self._no_room_until = time.monotonic() + _PAUSE

    def crowded(self) -> str | None:
        """Why nothing may begin for want of room, None while there is enough."""
        if time.monotonic() < self._no_room_until:
            return (
                f"paused: {self._folder.storage} is full, by its size or by a quota; free some, "
                "and the sweep goes on"
            )
        return below_floor(self._folder.storage, self._limits.free_gb)

    def _seconds(self) -> float:
        return self._earlier + time.monotonic() - self._began


def below_floor(storage: Path, free_gb: float) -> str | None:
    """That less than ``free_gb`` are free on ``storage``, None while they are."""
    free = shutil.disk_usage(storage).free / 1e9
    if free >= free_gb:
        return None
    return (
        f"paused: {free:.2f} GB are free on {storage}, less than budget.free_gb {free_gb:g}; free "
        "some, and the sweep goes on"
    )


def when_there_is_room(folder: SweepFolder, work: Callable[[], None]) -> None:
    """Call ``work`` once the storage has room, and again if it finds none on the way.

    It has to leave what it has done for the next time. Other processes than the driver's wait here.
    """
    while True:
        crowded = below_floor(folder.storage, folder.spec().budget.free_gb)
        if crowded is None:
            try:
                return work()
            except OSError as error:
                if not lacks_room(error):
                    raise
                crowded = f"paused: {error}; free some, and the sweep goes on"
        _log.warning("%s", crowded)
        time.sleep(_PAUSE)


def device_seconds(spent: Record) -> float:
    """Seconds of training times the workers that took part in it."""
    return float(spent["seconds"]) * float(spent["workers"])


def driver_hours(folder: SweepFolder) -> float:
    """Hours that the sweep's drivers have run, as written down last."""
    try:
        return float(read_json(folder.path / _CLOCK)["seconds"]) / 3600
    except (FileNotFoundError, FileError, KeyError, TypeError):
        return 0.0


@dataclass(frozen=True)
class AtWork:
    """A driver at work: on which host, as which process, and seconds since it was heard of."""

    host: str
    pid: int
    age: float


def heard_of(folder: SweepFolder) -> AtWork | None:
    """Who drives a sweep, by its clock; None if nobody does, or is not heard of any more.

    On a file system that machines share this tells of drivers on all of them.
    """
    path = folder.path / _CLOCK
    with suppress(OSError, FileError, KeyError, TypeError):
        clock = read_json(path)
        found = AtWork(clock["host"], clock["pid"], abs(time.time() - path.stat().st_mtime))
        if found.age < _SILENT and (found.host != socket.gethostname() or _runs(found.pid)):
            return found
    return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
