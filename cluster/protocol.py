"""The protocol that every backend follows; ``local.py`` is the reference behaviour."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
GRACE = 20.0
"""Seconds to end by itself for a job that does not say."""
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class JobError(RuntimeError):
    """A job that cannot be submitted, found or controlled; the message says what to do."""


class JobState(StrEnum):
    """What a backend knows of a job."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"
    """It ran, is gone, and left no exit code: killed from outside, or its machine went down."""


@dataclass(frozen=True)
class JobStatus:
    """State, exit code where there is one, and a sentence for people."""

    state: JobState
    exit_code: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class Job:
    """A command under a name. ``environment`` is added to the backend's own.

    ``files`` (text by plain file name) lie in the folder that the command runs in. ``code`` are
    folders of Python packages that the command imports; a place that does not have them gets them
    sent. ``metadata`` is shown beside the job where the place can. Neither holds a secret.
    ``grace`` is how many seconds it may take to end by itself once it is told to. Raises
    :class:`JobError` for a name that could not be a folder's, and for an empty command.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    code: tuple[Path, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    grace: float = GRACE

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.command:
            raise JobError(f"job {self.name} has no command")
        for file in self.files:
            if not _FILE.fullmatch(file):
                raise JobError(f"{file!r} cannot be a file of job {self.name}: use a plain name")


def check_name(name: str) -> str:
    """``name`` itself if it may become a folder: lower-case letters, digits, ``.``, ``_``, ``-``.

    Raises :class:`JobError` otherwise.
    """
    if not _NAME.fullmatch(name):
        raise JobError(
            f"{name!r} cannot name a job or sweep: use up to 64 lower-case letters, digits, "
            "'.', '_' and '-', beginning with a letter or digit"
        )
    return name


class Backend(Protocol):
    """A place where jobs run. All calls but ``submit`` and ``render`` take the job's name."""

    def submit(self, job: Job) -> str:
        """Start ``job`` and return its name. JobError if one of this name is running."""
        ...

    def status(self, name: str) -> JobStatus:
        """What is known now; UNKNOWN for a name never submitted."""
        ...

    def logs(self, name: str, *, follow: bool = False) -> Iterator[str]:
        """The job's output by lines; ``follow`` waits for more until the job ends."""
        ...

    def stop(self, name: str, *, grace: float = 20.0) -> JobStatus:
        """Ask the job to end, insist after ``grace`` seconds, and return its last status."""
        ...

    def resume(self, name: str) -> str:
        """Start the same command again if it is not running; it finds its own place."""
        ...

    def render(self, job: Job) -> str:
        """What :meth:`submit` would run, as text for people; starts nothing."""
        ...
