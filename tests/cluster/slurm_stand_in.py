"""A stand-in for SLURM's commands, and for Ray's, on one machine: it is no SLURM.

It keeps a folder per job and runs its script as a process. What it shows is that the backend reads
and says what SLURM does; that a real SLURM agrees is shown by ``test_slurm_machine.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "srun", "ray")


def install(folder: Path) -> Path:
    """Put the commands into ``folder/bin`` and return that."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    for command in COMMANDS:
        path = binaries / command
        path.write_text(
            f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {command} {folder}/jobs "$@"\n'
        )
        path.chmod(0o755)
    return binaries


def main(command: str, state: Path, *arguments: str) -> int:
    if command in ("srun", "ray"):
        words = list(arguments)
        if command == "ray":
            if os.environ.get("RAY_FAILS") and words[0] == "symmetric-run":
                print("no Ray today")
                return 0
            words = words[words.index("--") + 1 :] if "--" in words else ["true"]
        while words[0].startswith("-"):
            words.pop(0)
        ended = subprocess.run(words, check=False).returncode
        return ended if ended >= 0 else 128 - ended
    if command == "sacct":
        print("Slurm accounting storage is disabled", file=sys.stderr)
        return 1
    if command == "sbatch":
        job = state / str(1 + len(list(state.glob("*"))))
        start(job, Path.cwd())
        print(job.name)
        return 0
    words = [word.removeprefix("--jobs=") for word in arguments]
    asked = next(word for word in words if word[:1].isdigit())
    job = state / asked.partition(".")[0]
    if not (job / "pid").exists():
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    pid = int((job / "pid").read_text())
    if command == "squeue":
        if not alive(pid):
            print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
            return 1
        told = "COMPLETING" if (job / "cancelled").exists() else "RUNNING"
        print(f"{told}|None" if any("%r" in word for word in arguments) else told)
    elif command == "scontrol" and arguments[0] == "requeue":
        start(job, Path((job / "folder").read_text()))
    elif command == "scancel" and "--batch" in arguments:
        os.kill(pid, signal.SIGTERM)
    elif command == "scancel" and "." not in asked:
        (job / "cancelled").touch()
        for number, seconds in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0)):
            if alive(pid):
                os.killpg(pid, number)
            end = time.monotonic() + seconds
            while alive(pid) and time.monotonic() < end:
                time.sleep(0.05)
    return 0


def start(job: Path, folder: Path) -> None:
    job.mkdir(parents=True, exist_ok=True)
    told = {"SLURM_JOB_ID": job.name, "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            ["bash", "job.sh"],
            cwd=folder,
            env={**os.environ, **told, "SLURM_STEP_ID": "0"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (job / "folder").write_text(str(folder))
    (job / "pid").write_text(str(process.pid))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
