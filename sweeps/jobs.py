"""A sweep's driver as a job of the backend, or on another machine that shares an object store."""

from __future__ import annotations

import time

from cluster import JobState, JobStatus, LocalBackend
from sweeps.layout import SweepFolder
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
    """Whether there may be more to see. A driver on another machine counts as lost here."""
    job = backend_of(folder).status(folder.name)
    return job.state in (JobState.RUNNING, JobState.LOST) or has_driver(folder.path)


def is_lost(folder: SweepFolder) -> bool:
    """Whether nothing tells how the driver ended, or whether it works on out of sight."""
    return _status(folder).state is JobState.LOST


def stop(folder: SweepFolder, *, grace: float) -> str:
    """End the driver, here or on another machine, within ``grace`` seconds; its state, in words."""
    job = backend_of(folder).stop(folder.name, grace=grace)
    driver = driver_of(folder.path)
    if driver is None or job.state is JobState.STOPPED:
        return _words(job)
    request_stop(folder.path, driver[0])
    end = time.monotonic() + grace + _BEATS
    while has_driver(folder.path) and time.monotonic() < end:
        time.sleep(_LOOK)
    return _words(_status(folder)) if has_driver(folder.path) else "stopped on request"


def _status(folder: SweepFolder) -> JobStatus:
    job = backend_of(folder).status(folder.name)
    if job.state is JobState.RUNNING:
        return job
    driver = driver_of(folder.path)
    if driver is None:
        nowhere = job.state is JobState.UNKNOWN and mirror_of(folder.path) is not None
        return JobStatus(job.state, detail="no driver on any machine") if nowhere else job
    owner, age = driver
    said = f"process {owner.pid} on {owner.host}, heard of {age:.0f} s ago"
    return JobStatus(JobState.RUNNING, detail=said)


def _words(job: JobStatus, short: bool = False) -> str:
    return f"{job.state}{f', {job.detail}' if job.detail and not short else ''}"
