"""What backends share whose jobs leave a folder with their output and exit code."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.protocol import JobError, JobState, JobStatus

LOG = "log.txt"
EXIT = "exit"
_SIGNALLED = 128
_INTERRUPTED = (_SIGNALLED + signal.SIGINT, _SIGNALLED + signal.SIGTERM)


def ended(folder: Path) -> JobStatus:
    """How a job that runs no more has ended: by the exit code that it left, else lost."""
    try:
        code = int((folder / EXIT).read_text())
    except (FileNotFoundError, ValueError):
        return JobStatus(JobState.LOST, detail="ended without an exit code")
    return exited(code)


def exited(code: int) -> JobStatus:
    """What an exit code says, as a shell gives it: 128 and a signal's number for a signal."""
    if code in _INTERRUPTED:
        return JobStatus(JobState.STOPPED, code, "stopped on request")
    if code - _SIGNALLED in signal.valid_signals():
        return JobStatus(JobState.FAILED, code, f"killed by signal {code - _SIGNALLED}")
    state = JobState.SUCCEEDED if code == 0 else JobState.FAILED
    return JobStatus(state, code, f"exit code {code}")


def lines(
    folder: Path, status: Callable[[], JobStatus], *, follow: bool, poll: float
) -> Iterator[str]:
    """The lines of a job's log; to ``follow`` one that runs looks for more every ``poll`` seconds.

    JobError if there is no log.
    """
    path = folder / LOG
    if not path.exists():
        raise JobError(f"no job {folder.parent.name} under {folder.parent.parent}")
    with path.open(encoding="utf-8", errors="replace") as file:
        begun = ""
        while True:
            more = follow and status().state is JobState.RUNNING
            for line in file:
                begun += line
                if line.endswith("\n"):
                    yield begun.rstrip("\n")
                    begun = ""
            if not more:
                break
            time.sleep(poll)
        if begun:
            yield begun
