"""Where a job runs: one protocol, one backend per kind of place."""

from cluster.local import LocalBackend
from cluster.protocol import Backend, Job, JobError, JobState, JobStatus

__all__ = ["Backend", "Job", "JobError", "JobState", "JobStatus", "LocalBackend"]
