"""What tests of backends share: small jobs, and waiting for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster import Backend, Job, JobState, LocalBackend

BACKENDS: list[Callable[[Path], Backend]] = [LocalBackend]
"""Each makes a backend with its jobs under the folder given."""


def shell(name: str, script: str, **environment: str) -> Job:
    return Job(name, ("/bin/sh", "-c", script), environment)


def python(name: str, script: str) -> Job:
    return Job(name, (sys.executable, "-I", "-S", "-u", "-c", script))


# A test run started in the background of a plain shell has SIGINT ignored, and so would its jobs.
# Some places ask a job to end by SIGTERM.
_HEARS_INTERRUPTS = (
    "import signal\nfor each in (signal.SIGINT, signal.SIGTERM):\n"
    "    signal.signal(each, signal.default_int_handler)\n"
)


def wait(backend: Backend, name: str, seconds: float = 20.0) -> JobState:
    """The job's state once it runs no more."""
    deadline = time.monotonic() + seconds
    while backend.status(name).state is JobState.RUNNING:
        assert time.monotonic() < deadline, "the job does not end"
        time.sleep(0.01)
    return backend.status(name).state


def wait_for_line(backend: Backend, name: str, line: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while line not in list(backend.logs(name)):
        assert time.monotonic() < deadline, f"{line!r} was not logged"
        time.sleep(0.01)


def pid_of(local: LocalBackend, name: str) -> int:
    run = json.loads((local.folder(name) / "run.json").read_text())
    return int(run["pid"])


def is_alive(pid: int) -> bool:
    """Whether the process runs (one that has ended and was not waited for does not)."""
    if Path("/proc/self/stat").exists():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(shown) and not shown.startswith("Z")
