"""What backends share whose jobs leave a folder with their output and exit code."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.protocol import JobState, JobStatus

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


def lines(path: Path, running: Callable[[], bool], *, poll: float) -> Iterator[str]:
    """The lines of ``path``; while ``running`` says so, looks for more every ``poll`` seconds."""
    with path.open(encoding="utf-8", errors="replace") as file:
        begun = ""
        while True:
            more = running()
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
