"""A sweep's driver as a job of the backend, or on another machine that shares the storage."""

from __future__ import annotations

import time

from filelock import FileLock, Timeout

from cluster import JobState, JobStatus, LocalBackend
from sweeps.budget import heard_of
from sweeps.layout import StorageError, SweepFolder
from sweeps.mirror import mirror_of
from sweeps.mirrored_sweep import driver_of, has_driver, request_stop

_BEATS, _LOOK = 30.0, 1.0
"""Seconds until a driver on another machine hears of it at the latest, and between two looks."""


def backend_of(folder: SweepFolder) -> LocalBackend:
    """The backend that runs the sweeps of this storage."""
    return LocalBackend(folder.storage / "sweeps")


def state_of(folder: SweepFolder, *, short: bool = False) -> str:
    """The driver's state in words, or in one."""
    return _words(_status(folder), short)


def goes_on(folder: SweepFolder) -> bool:
    """Whether there may be more to see, from a driver on whatever machine."""
    return _status(folder).state is JobState.RUNNING or has_driver(folder.path)


def check_undriven(folder: SweepFolder) -> None:
    """Raise StorageError while a process, on whatever machine, drives the sweep.

    A job that began beside it would take its log and its place, and then end at its lock.
    """
    try:
        with FileLock(folder.path / "driver.lock", timeout=0):
            pass
    except Timeout as error:
        driver = heard_of(folder)
        where = (
            "by another process" if driver is None else f"on {driver.host} (process {driver.pid})"
        )
        raise StorageError(
            f"sweep {folder.name} is already being driven {where}; follow or stop it there, "
            f"`{folder.command('status')}` works here too"
        ) from error


def is_lost(folder: SweepFolder) -> bool:
    """Whether nothing tells how the driver ended, or whether it works on out of sight."""
    return _status(folder).state is JobState.LOST


def stop(folder: SweepFolder, *, grace: float) -> str:
    """End the driver, here or on another machine, within ``grace`` seconds; its state, in words."""
    if mirror_of(folder.path) is None and _job(folder).state is not JobState.RUNNING:
        check_undriven(folder)
    job = backend_of(folder).stop(folder.name, grace=grace)
    driver = driver_of(folder.path)
    if driver is None or job.state is JobState.STOPPED:
        return _words(job)
    request_stop(folder.path, driver[0])
    end = time.monotonic() + grace + _BEATS
    while has_driver(folder.path) and time.monotonic() < end:
        time.sleep(_LOOK)
    return _words(_status(folder)) if has_driver(folder.path) else "stopped on request"


def _job(folder: SweepFolder) -> JobStatus:
    return backend_of(folder).status(folder.name)


def _status(folder: SweepFolder) -> JobStatus:
    job = _job(folder)
    if job.state is JobState.RUNNING:
        return job
    if mirror_of(folder.path) is None:
        found = heard_of(folder)
        return job if found is None else _running(found.pid, found.host, found.age)
    driver = driver_of(folder.path)
    if driver is None:
        nowhere = job.state is JobState.UNKNOWN
        return JobStatus(job.state, detail="no driver on any machine") if nowhere else job
    owner, age = driver
    return _running(owner.pid, owner.host, age)


def _running(pid: int, host: str, age: float) -> JobStatus:
    said = f"process {pid} on {host}, heard of {age:.0f} s ago"
    return JobStatus(JobState.RUNNING, detail=said)


def _words(job: JobStatus, short: bool = False) -> str:
    return f"{job.state}{f', {job.detail}' if job.detail and not short else ''}"
