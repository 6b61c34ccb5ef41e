"""A sweep's driver as a job of the backend."""

from __future__ import annotations

from cluster import JobState, LocalBackend
from sweeps.layout import SweepFolder


def backend_of(folder: SweepFolder) -> LocalBackend:
    """The backend that runs the sweeps of this storage."""
    return LocalBackend(folder.storage / "sweeps")


def state_of(folder: SweepFolder) -> str:
    """The driver's state in words."""
    job = backend_of(folder).status(folder.name)
    return f"{job.state}{f', {job.detail}' if job.detail else ''}"


def goes_on(folder: SweepFolder) -> bool:
    """Whether there may be more to see. A driver on another machine counts as lost here."""
    return backend_of(folder).status(folder.name).state in (JobState.RUNNING, JobState.LOST)
