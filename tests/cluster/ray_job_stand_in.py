"""A stand-in for ``ray job`` as KubeRay's submitter calls it: jobs are processes of this machine.

What it keeps of Ray: the words after ``--`` become one line for a shell, which runs where the head
node's files and variables are and not where ``ray job`` itself does.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

FILES = "/etc/ractd/job"
_SUPERVISE = (
    'trap : TERM; exec 3>&2 2>/dev/null; out=$1; shift; (exec "$@" 2>&3); echo $? > "$out.part"; '
    'mv "$out.part" "$out"'
)


def main(jobs: Path, verb: str, *words: str) -> None:
    options, _, command = " ".join(words).partition(" -- ")
    command = shlex.join(words[words.index("--") + 1 :]) if command else ""
    folder = jobs / next(word for word in options.split() if word.endswith("-x"))[:-2]
    if verb == "status":
        sys.exit(0 if (folder / "pid").exists() else "Job not found")
    elif verb == "submit":
        submit(folder, command)
    elif verb == "logs":
        follow(folder)


def submit(folder: Path, line: str) -> None:
    variables = json.loads((folder / "environment").read_text())
    # The mount of the head's pod.
    line = line.replace(FILES, str(folder / "files"))
    with (folder / "output").open("wb") as out:
        process = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                f"trap : TERM; {_SUPERVISE}",
                "sh",
                folder / "exit",
                "sh",
                "-c",
                line,
            ],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    (folder / "pid").write_text(str(process.pid))


def follow(folder: Path) -> None:
    with (folder / "output").open("rb") as file:
        while True:
            over = (folder / "exit").exists()
            sys.stdout.buffer.write(file.read())
            sys.stdout.buffer.flush()
            if over:
                return
            time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[3:])
