"""Jobs of Ray's own job server, on any running cluster."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.protocol import Job, JobStatus


class RayBackend:
    """Runs each job as a Ray job on the cluster whose dashboard is at ``address``."""

    def __init__(self, address: str) -> None:
        self.address = address

    def submit(self, job: Job) -> str:
        """Start ``job`` as a Ray job."""
        raise NotImplementedError

    def status(self, name: str) -> JobStatus:
        """As the job server knows it."""
        raise NotImplementedError

    def logs(self, name: str, *, follow: bool = False) -> Iterator[str]:
        """The job's output."""
        raise NotImplementedError

    def stop(self, name: str, *, grace: float = 20.0) -> JobStatus:
        """Ask the job server to end it."""
        raise NotImplementedError

    def resume(self, name: str) -> str:
        """Submit the same job again."""
        raise NotImplementedError

    def render(self, job: Job) -> str:
        """The request to the job server."""
        raise NotImplementedError
