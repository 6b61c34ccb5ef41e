"""Jobs of Ray's own job server, on any cluster that runs already.

Ray never lets an identifier be used twice, so job NAME runs as ``NAME-1``, ``NAME-2``, ...: of two
submissions at the same moment Ray takes one. Ray drops an ended job's files, and a restarted
cluster knows no jobs; so what a job consists of is remembered under ``root`` on the machine that
submitted it, and :meth:`RayBackend.resume` sends it again from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.dashboard import Dashboard
from cluster.packing import pack
from cluster.protocol import GRACE, Job, JobError, JobState, JobStatus, check_name
from cluster.remembered import recall, remember

_POLL = 0.5
_QUIET = 10.0
"""Seconds without output after which a job that is followed is asked for."""
_GRACE = "RAY_JOB_STOP_WAIT_TIME_S"
"""The variable that tells Ray how many seconds a job has to end by itself."""
_SIGNALLED = 128
_INTERRUPTED = (_SIGNALLED + signal.SIGINT, _SIGNALLED + signal.SIGTERM)
_NOT_STARTED = {
    "RUNTIME_ENV_SETUP_FAILURE",
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE",
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE",
    "JOB_ENTRYPOINT_COMMAND_START_ERROR",
}
"""Ray's reasons for a job that failed before its command ran."""
_SETTING_UP = re.compile(r"\d{4}-\d\d-\d\d .*job_manager\.py:\d+ -- Runtime env is setting up\.")
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
_environment = threading.Lock()

Details = dict[str, Any]
"""A job as Ray describes it."""


class RayBackend:
    """Runs each job as a Ray job on the cluster whose dashboard is at ``address``.

    ``environment`` is added to every job's. ``driver_cpus`` are held for the job's own process; 0
    puts it on the head node, whose loss ends the cluster in any case.
    """

    def __init__(
        self,
        address: str,
        root: Path,
        environment: Mapping[str, str] | None = None,
        driver_cpus: float = 0.0,
    ) -> None:
        self.dashboard = Dashboard(address)
        self.root = root
        self.environment = dict(environment or {})
        self.driver_cpus = driver_cpus

    @property
    def address(self) -> str:
        """The dashboard's."""
        return self.dashboard.address

    def submit(self, job: Job) -> str:
        """Send code and files and start ``job``; JobError too for another version of Ray."""
        there, here = self.dashboard.ray_version(), version("ray")
        if there != here:
            raise JobError(
                f"the cluster at {self.address} runs Ray {there}, this machine has {here}; install "
                "the same on both"
            )
        last = self._last(job.name)
        if last is not None and _status(last).state is JobState.RUNNING:
            raise self._running(job.name)
        attempt = f"{job.name}-{1 + (_attempt(job.name, last) if last else 0)}"
        with TemporaryDirectory() as folder:
            pack(job, Path(folder))
            try:
                self._client().submit_job(
                    entrypoint=_entry_point(job),
                    submission_id=attempt,
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": self._settings(job, self.dashboard.auth_mode),
                    },
                    metadata=dict(job.metadata),
                    entrypoint_num_cpus=self.driver_cpus or None,
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    raise self._running(job.name) from error
                raise JobError(f"the cluster at {self.address} refuses the job: {error}") from error
            except OSError as error:
                raise JobError(f"the cluster at {self.address} went away: {error}") from error
        remember(job, self._memory(job.name))
        return job.name

    def status(self, name: str) -> JobStatus:
        """As the job server knows it; LOST for one that a restarted cluster has forgotten."""
        last = self._last(check_name(name))
        if last is not None:
            return _status(last)
        if self._memory(name).exists():
            return JobStatus(
                JobState.LOST, detail=f"the cluster at {self.address} does not know it any more"
            )
        return JobStatus(JobState.UNKNOWN, detail=f"no job {name} on {self.address}")

    def logs(self, name: str, *, follow: bool = False) -> Iterator[str]:
        """The job's output, without what Ray writes into it."""
        last = self._last(check_name(name))
        if last is None:
            raise JobError(f"no job {name} on {self.address}")
        attempt = last["submission_id"]
        chunks = (
            self._tail(name, attempt)
            if follow
            else iter([self.dashboard.ask("GET", f"/api/jobs/{attempt}/logs")["logs"]])
        )
        said = f"Running entrypoint for job {attempt}: {last['entrypoint']}"
        return _without(said.split("\n"), _lines(chunks))

    def stop(self, name: str, *, grace: float = 20.0) -> JobStatus:
        """Ask Ray to end it, which sends SIGTERM and kills it after the job's own grace.

        More ``grace`` only waits. A job that still waits for its first node is stopped when it gets
        there.
        """
        last = self._last(check_name(name))
        if last is None or _status(last).state is not JobState.RUNNING:
            return self.status(name)
        self.dashboard.ask("POST", f"/api/jobs/{last['submission_id']}/stop")
        deadline = time.monotonic() + max(grace, _grace(last)) + 10
        while time.monotonic() < deadline and self.status(name).state is JobState.RUNNING:
            time.sleep(_POLL)
        return self.status(name)

    def resume(self, name: str) -> str:
        """Send the job again as it was submitted from this machine."""
        try:
            job = recall(name, self._memory(name))
        except FileNotFoundError as error:
            raise JobError(
                f"no job {name} was submitted to {self.address} from this machine; submit it again "
                "instead"
            ) from error
        return self.submit(job)

    def render(self, job: Job) -> str:
        """The request to the job server, as JSON, and what travels with it."""
        request = {
            "address": self.address,
            "submission_id": f"{job.name}-1",
            "entrypoint": _entry_point(job),
            "entrypoint_num_cpus": self.driver_cpus,
            "runtime_env": {"env_vars": self._settings(job, "token")},
            "working_dir": [*(package.name for package in job.code), *job.files],
            "metadata": dict(job.metadata),
        }
        return json.dumps(request, indent=1) + "\n"

    def _settings(self, job: Job, auth_mode: str) -> dict[str, str]:
        grace = str(math.ceil(job.grace))
        return {_GRACE: grace, **self.environment, "RAY_AUTH_MODE": auth_mode}

    def _running(self, name: str) -> JobError:
        return JobError(
            f"{name} is already running on {self.address}; `ractd cluster logs {name}` shows it"
        )

    def _last(self, name: str) -> Details | None:
        """The last attempt at job ``name`` that Ray knows."""
        found = [job for job in self.dashboard.ask("GET", "/api/jobs/") if _attempt(name, job)]
        return max(found, key=lambda job: _attempt(name, job), default=None)

    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        logging.getLogger("ray").setLevel(logging.WARNING)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        # Ray would take the address from the user's environment instead.
        with _environment:
            before = os.environ.get("RAY_API_SERVER_ADDRESS")
            os.environ["RAY_API_SERVER_ADDRESS"] = self.address
            try:
                return JobSubmissionClient(self.address, headers=dict(self.dashboard.headers))
            finally:
                if before is None:
                    del os.environ["RAY_API_SERVER_ADDRESS"]
                else:
                    os.environ["RAY_API_SERVER_ADDRESS"] = before

    def _tail(self, name: str, attempt: str) -> Iterator[str]:
        """Pieces of the output as they come; ends with the job, or with JobError if it is cut."""
        stream = self._client().tail_job_logs(attempt)
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            try:
                while (piece := self._next(name, stream, loop)) is not None:
                    yield piece
            finally:
                loop.run_until_complete(stream.aclose())

    def _next(self, name: str, stream: Any, loop: asyncio.AbstractEventLoop) -> str | None:
        async def read() -> str | None:
            piece: str | None = await anext(stream, None)
            return piece

        reading = loop.create_task(read())
        try:
            while not loop.run_until_complete(asyncio.wait({reading}, timeout=_QUIET))[0]:
                # A connection that is cut without a word is silent too; this raises then.
                self.status(name)
            return reading.result()
        except JobError:
            reading.cancel()
            raise
        except Exception as error:
            raise JobError(
                f"the output of {name} ended early: {error}; `ractd cluster status {name}` says "
                "whether it runs"
            ) from error

    def _memory(self, name: str) -> Path:
        return self.root / f"{check_name(name)}.json"


def _entry_point(job: Job) -> str:
    """A line for the shell that Ray starts; ``exec`` leaves the exit code the command's own.

    The job's environment is in it, not in Ray's, which would expand every ``$`` in a value.
    """
    settings = [f"{name}={value}" for name, value in job.environment.items()]
    return f"exec {shlex.join(['env', *settings, *job.command])}"


def _attempt(name: str, job: Details) -> int:
    """Which attempt at job ``name`` this is; 0 for another's."""
    match = re.fullmatch(re.escape(name) + r"-([1-9]\d*)", job.get("submission_id") or "")
    return int(match[1]) if match else 0


def _grace(job: Details) -> float:
    """Seconds that Ray gives it."""
    variables = (job.get("runtime_env") or {}).get("env_vars") or {}
    return float(variables.get(_GRACE, GRACE))


def _status(job: Details) -> JobStatus:
    state, code = job["status"], job.get("driver_exit_code")
    message = (job.get("message") or "").strip().partition("\n")[0]
    if state == "PENDING":
        return JobStatus(JobState.RUNNING, detail=f"{job['submission_id']} has not started yet")
    if state == "RUNNING":
        return JobStatus(JobState.RUNNING, detail=f"as {job['submission_id']}")
    if code is not None and code < 0:
        code = _SIGNALLED - code
    if state == "SUCCEEDED":
        return JobStatus(JobState.SUCCEEDED, code, f"exit code {code}")
    if state == "STOPPED" or code in _INTERRUPTED:
        return JobStatus(JobState.STOPPED, code, "stopped on request")
    if code is None:
        lost = job.get("error_type") not in _NOT_STARTED
        return JobStatus(JobState.LOST if lost else JobState.FAILED, detail=message)
    if code - _SIGNALLED in signal.valid_signals():
        return JobStatus(JobState.FAILED, code, f"killed by signal {code - _SIGNALLED}")
    return JobStatus(JobState.FAILED, code, f"exit code {code}")


def _without(said: list[str], lines: Iterator[str]) -> Iterator[str]:
    """Lines that are the job's: not ``said``, which Ray writes, at times after the first output."""
    for line in lines:
        if said and line == said[0]:
            said = said[1:]
        elif not _SETTING_UP.fullmatch(line):
            yield line


def _lines(chunks: Iterator[str]) -> Iterator[str]:
    begun = ""
    for chunk in chunks:
        *whole, begun = (begun + chunk).split("\n")
        yield from whole
    if begun:
        yield begun
