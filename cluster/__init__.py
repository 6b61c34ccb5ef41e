"""Where a job runs: one protocol, one backend per kind of place."""

from cluster.local import LocalBackend
from cluster.places import AnyPlace, LocalPlace, RayPlace, parse_place
from cluster.protocol import Backend, Job, JobError, JobState, JobStatus
from cluster.registry import Registry

__all__ = [
    "AnyPlace",
    "Backend",
    "Job",
    "JobError",
    "JobState",
    "JobStatus",
    "LocalBackend",
    "LocalPlace",
    "RayPlace",
    "Registry",
    "parse_place",
]
