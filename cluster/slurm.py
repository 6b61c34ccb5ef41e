"""Jobs of SLURM: a batch script in a folder that every node mounts.

A job's folder holds what the local backend's does: its files, ``log.txt`` and, once it has ended,
``exit``; besides them ``job.sh`` and ``run.json`` with SLURM's number of the job.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import Field

from cluster import slurm_script
from cluster.job_folder import EXIT, LOG, ended, lines
from cluster.protocol import Backend, Job, JobError, JobState, JobStatus, check_name
from cluster.readme import readme
from cluster.settings import AbsolutePath, Environment, Machine, Place, Variable, Word
from cluster.tools import ToolError, run

SCRIPT = "job.sh"
_STOP = "stop"
_POLL = 1.0
_KILL_SECONDS = 120.0
_CANCELLED = 143
_PART = r"^[A-Za-z0-9_][A-Za-z0-9_.,:@+&|()\[\]*-]*$"

SlurmWord = Annotated[str, Field(pattern=_PART)]
"""A partition, account or constraint: no blanks, quotes or comment signs."""


class Nodes(Machine):
    """``count`` nodes alike, each whole and for this job alone."""

    count: Annotated[int, Field(ge=1, le=1000)] = 1


class SlurmPlace(Place):
    """A SLURM cluster. ``root`` is a folder that all its nodes mount; jobs' folders lie there.

    ``python`` is the interpreter of an environment on shared storage that has the project
    installed. ``secrets`` are variables that are set where jobs are submitted. ``hours`` is the
    time limit of one run; a sweep that needs more goes on in another.
    """

    backend: Literal["slurm"] = "slurm"
    root: AbsolutePath
    python: AbsolutePath
    nodes: Nodes
    hours: Annotated[float, Field(gt=0.05, le=24 * 366)]
    partition: SlurmWord | None = None
    account: SlurmWord | None = None
    qos: SlurmWord | None = None
    constraint: SlurmWord | None = None
    modules: tuple[Word, ...] = ()
    environment: Environment = Field(default_factory=dict)
    secrets: tuple[Variable, ...] = ()

    def open(self) -> Backend:
        """The backend."""
        return SlurmBackend(self)

    def rendered(self, job: Job) -> Mapping[str, str]:
        """The batch script and the job's files: a folder to put on shared storage."""
        text = readme(
            job,
            install=(
                f"ractd {job.metadata.get('ractd', '')} in the environment of `{self.python}`, on "
                "a path that all nodes mount; put this folder on such a path too"
            ),
            start="sbatch job.sh",
            watch="tail -F log.txt",
            stop=f"scancel --name={slurm_script.job_name(job.name)}",
            resume="To resume, start it again.",
        )
        return {SCRIPT: self.open().render(job), **job.files, "README.md": text}


class SlurmBackend:
    """Runs each job from ``root/NAME/job``."""

    def __init__(self, place: SlurmPlace) -> None:
        self.place = place

    def folder(self, name: str) -> Path:
        """Where a job's files lie."""
        return Path(self.place.root) / check_name(name) / "job"

    def submit(self, job: Job) -> str:
        """Write the job's folder and give its script to sbatch.

        JobError if one of this name is queued or runs, or if a secret is not set here.
        """
        self._check_secrets()
        folder = self.folder(job.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JobError(
                f"{folder} cannot be made ({error.strerror}); root must be a folder that this "
                "machine and every node mount, and that you may write to"
            ) from error
        with FileLock(folder / "submit.lock"):
            self._check_idle(job.name)
            for file, text in {**job.files, SCRIPT: self.render(job)}.items():
                (folder / file).write_text(text, encoding="utf-8")
            self._start(folder)
        return job.name

    def status(self, name: str) -> JobStatus:
        """From squeue while SLURM has it, then from the exit code that it left, else from sacct."""
        folder = self.folder(name)
        if not (folder / "run.json").exists():
            return JobStatus(JobState.UNKNOWN, detail=f"no job {name} under {self.place.root}")
        number = self._number(name)
        state, reason = _queued(number)
        if state:
            return JobStatus(JobState.RUNNING, detail=f"SLURM job {number} {state}{reason}")
        status = ended(folder)
        if status.state is not JobState.LOST:
            return status
        accounted = _accounted(number)
        if accounted.startswith("CANCELLED"):
            return JobStatus(JobState.STOPPED, detail=f"SLURM job {number} was cancelled")
        told = f", {accounted}" if accounted else ""
        return JobStatus(JobState.LOST, detail=f"SLURM job {number}{told}: {status.detail}")

    def logs(self, name: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of the script's output; JobError if there is none."""
        return lines(self.folder(name), lambda: self.status(name), follow=follow, poll=_POLL)

    def stop(self, name: str, *, grace: float = 20.0) -> JobStatus:
        """Tell the command to end, and cancel the job after ``grace`` seconds."""
        status = self.status(name)
        if status.state is not JobState.RUNNING:
            return status
        folder, number = self.folder(name), self._number(name)
        # Told to end a job starts again by itself, as at its time limit, but for this file.
        (folder / _STOP).touch()
        if _queued(number)[0] == "RUNNING":
            _cancel("--batch", "--signal=TERM", number)
            self._wait(name, grace)
        if self.status(name).state is JobState.RUNNING:
            _cancel(number)
            self._wait(name, _KILL_SECONDS)
        if self.status(name).state is JobState.LOST:
            (folder / EXIT).write_text(f"{_CANCELLED}\n")
        return self.status(name)

    def resume(self, name: str) -> str:
        """Give the script to sbatch again; JobError if there is none or the job is not over."""
        folder = self.folder(name)
        if not (folder / SCRIPT).exists():
            raise JobError(f"no job {name} under {self.place.root} to resume")
        self._check_secrets()
        with FileLock(folder / "submit.lock"):
            self._check_idle(name)
            self._start(folder)
        return name

    def render(self, job: Job) -> str:
        """The batch script."""
        place, nodes = self.place, self.place.nodes
        gpu = f"{nodes.gpu_type}:{nodes.gpus}" if nodes.gpu_type else str(nodes.gpus)
        options = {
            "nodes": nodes.count,
            "time": math.ceil(place.hours * 60),
            # Of a node that is the job's alone, all, where the file does not say.
            "mem": f"{math.ceil(nodes.memory_gib * 1024)}M" if nodes.memory_gib else 0,
            "gpus-per-node": gpu if nodes.gpus else None,
            "partition": place.partition,
            "account": place.account,
            "qos": place.qos,
            "constraint": place.constraint,
        }
        return slurm_script.render(
            job.name,
            job.command,
            options,
            path=str(Path(place.python).parent),
            environment={**job.environment, **place.environment},
            secrets=place.secrets,
            modules=place.modules,
            cpus=nodes.cpus,
            gpus=nodes.gpus,
        )

    def _start(self, folder: Path) -> None:
        with _aside(folder, EXIT, _STOP, LOG, "run.json"):
            (folder / LOG).write_text("")
            number = run("sbatch", "--parsable", SCRIPT, folder=folder).partition(";")[0].strip()
        (folder / "run.json.part").write_text(json.dumps({"number": number}) + "\n")
        (folder / "run.json.part").rename(folder / "run.json")

    def _check_idle(self, name: str) -> None:
        status = self.status(name)
        if status.state is JobState.RUNNING:
            raise JobError(f"{name} is already running ({status.detail})")

    def _check_secrets(self) -> None:
        unset = [name for name in self.place.secrets if not os.environ.get(name)]
        if unset:
            raise JobError(f"secrets: {', '.join(unset)} not set here; jobs take them from here")

    def _number(self, name: str) -> str:
        path = self.folder(name) / "run.json"
        try:
            return str(json.loads(path.read_text())["number"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise JobError(f"{path} is damaged; find the job with squeue") from error

    def _wait(self, name: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.status(name).state is JobState.RUNNING and time.monotonic() < end:
            time.sleep(min(_POLL, seconds))


@contextmanager
def _aside(folder: Path, *files: str) -> Iterator[None]:
    """Without what the last run has left, which is back if no other one begins."""
    before = folder / "before"
    shutil.rmtree(before, ignore_errors=True)
    before.mkdir()
    left = [file for file in files if (folder / file).exists()]
    for file in left:
        (folder / file).rename(before / file)
    try:
        yield
    except BaseException:
        for file in left:
            (before / file).replace(folder / file)
        raise
    finally:
        shutil.rmtree(before, ignore_errors=True)


def _queued(number: str) -> tuple[str, str]:
    """State and reason of a job that SLURM has not done with; empty if it has."""
    try:
        shown = run("squeue", "--noheader", f"--jobs={number}", "--format=%T|%r").strip()
    except ToolError as error:
        if "Invalid job id" in error.said:
            return "", ""
        raise
    state, _, reason = shown.partition("|")
    return state, f" ({reason})" if reason not in ("", "None") else ""


def _accounted(number: str) -> str:
    """How SLURM's accounting, which not every cluster has, says that a job ended."""
    try:
        shown = run("sacct", "-n", "-X", "-P", "-j", number, "-o", "State")
    except JobError:
        return ""
    return shown.strip().partition("\n")[0]


def _cancel(*arguments: str) -> None:
    try:
        run("scancel", *arguments)
    except ToolError as error:
        if "Invalid job" not in error.said and "already completing" not in error.said:
            raise
