"""Jobs as processes of this machine, which outlive the terminal that started them.

A job's folder holds ``job.json`` (its command), ``run.json`` (process and host), ``log.txt`` and,
once it has ended, ``exit``.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from cluster.job_folder import ended, lines
from cluster.protocol import Job, JobError, JobState, JobStatus, check_name
from cluster.remembered import recall, remember

_POLL = 0.1
# The shell only waits and writes down how the command ended. Its trap keeps it alive through a
# signal to the whole group, and unlike an ignored signal it is not inherited by the command.
_SUPERVISE = (
    """trap : INT TERM; out=$1; shift; "$@"; echo $? > "$out.part"; mv "$out.part" "$out" """
)


class LocalBackend:
    """Runs each job in ``root/NAME/job``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        """Where a job's files lie."""
        return self.root / check_name(name) / "job"

    def submit(self, job: Job) -> str:
        """Start ``job`` in a process group of its own."""
        folder = self.folder(job.name)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "submit.lock"):
            return self._submit(job, folder)

    def _submit(self, job: Job, folder: Path) -> str:
        if self.status(job.name).state is JobState.RUNNING:
            raise JobError(
                f"{job.name} is already running ({self._run(job.name)['host']}, process "
                f"{self._run(job.name)['pid']})"
            )
        # The last run is over: without its exit code it would be taken for lost.
        for file in ("run.json", "exit"):
            (folder / file).unlink(missing_ok=True)
        remember(job, folder / "job.json")
        for file, text in job.files.items():
            (folder / file).write_text(text, encoding="utf-8")
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _SUPERVISE, "sh", str(folder / "exit"), *job.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **job.environment},
                cwd=folder if job.files else None,
                start_new_session=True,
            )
        run = {
            "pid": process.pid,
            "started": _start_time(process.pid),
            "host": socket.gethostname(),
        }
        (folder / "run.json.part").write_text(json.dumps(run) + "\n")
        (folder / "run.json.part").rename(folder / "run.json")
        return job.name

    def status(self, name: str) -> JobStatus:
        """From the exit file, else from whether the process is there."""
        folder = self.folder(name)
        if not (folder / "run.json").exists():
            return JobStatus(JobState.UNKNOWN, detail=f"no job {name} under {self.root}")
        try:
            run = self._run(name)
        except (ValueError, KeyError, TypeError):
            return JobStatus(JobState.LOST, detail=f"{folder / 'run.json'} is damaged")
        if run["host"] != socket.gethostname() and not (folder / "exit").exists():
            # Hosts are renamed and replaced; a job that must not run twice holds a lock of its own.
            return JobStatus(JobState.LOST, detail=f"last seen on {run['host']}")
        alive = _start_time(run["pid"]) == run["started"] is not None
        if alive and not (folder / "exit").exists():
            return JobStatus(JobState.RUNNING, detail=f"process {run['pid']}")
        return ended(folder)

    def logs(self, name: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of ``log.txt``; JobError if there is none."""
        return lines(self.folder(name), lambda: self.status(name), follow=follow, poll=_POLL)

    def stop(self, name: str, *, grace: float = 20.0) -> JobStatus:
        """Interrupt the job as Ctrl-C would, then kill its process group."""
        status = self.status(name)
        if status.state is not JobState.RUNNING:
            return status
        run = self._run(name)
        for number, wait in ((signal.SIGINT, grace), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(run["pid"], number)
            except ProcessLookupError:
                break
            end = time.monotonic() + wait
            while time.monotonic() < end and self.status(name).state is JobState.RUNNING:
                time.sleep(_POLL)
            if self.status(name).state is not JobState.RUNNING:
                break
        return self.status(name)

    def resume(self, name: str) -> str:
        """Run the recorded command again; JobError if there is none or it still runs."""
        try:
            job = recall(name, self.folder(name) / "job.json")
        except FileNotFoundError as error:
            raise JobError(f"no job {name} under {self.root} to resume") from error
        return self.submit(job)

    def render(self, job: Job) -> str:
        """A shell command line."""
        environment = [f"{key}={shlex.quote(value)}" for key, value in job.environment.items()]
        return " ".join([*environment, shlex.join(job.command)]) + "\n"

    def _run(self, name: str) -> dict[str, Any]:
        run = json.loads((self.folder(name) / "run.json").read_text())
        return {"pid": int(run["pid"]), "started": run["started"], "host": run["host"]}


def _start_time(pid: int) -> str | None:
    """When process ``pid`` started, None if it is gone: tells it from a later one of its number."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return fields[19] if fields[0] != "Z" else None
    # macOS has no /proc.
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return shown or None
