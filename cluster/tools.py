"""Commands of schedulers, run as argument lists, never by a shell."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster.protocol import JobError

_SECONDS = 120.0
_SHOWN = 40


class ToolError(JobError):
    """A command that failed; ``said`` is what it printed."""

    def __init__(self, command: Sequence[str], said: str) -> None:
        last = "\n".join(said.splitlines()[-_SHOWN:]) or "it printed nothing"
        super().__init__(f"{' '.join(command[:3])} failed: {last}")
        self.said = said


def run(
    *command: str, stdin: str | None = None, folder: Path | None = None, seconds: float = _SECONDS
) -> str:
    """What ``command`` prints; :class:`ToolError` if it fails, JobError if it is not there."""
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
            timeout=seconds,
        )
    except FileNotFoundError as error:
        raise JobError(f"{command[0]} is not installed here, or not on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise JobError(f"{' '.join(command[:3])} has not answered in {seconds:g} s") from error
    if done.returncode:
        said = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        raise ToolError(command, "\n".join(line for line in said if line.strip()))
    return done.stdout
