"""What a job consists of, in a file, so that it can be started again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cluster.protocol import Job, JobError


def remember(job: Job, path: Path) -> None:
    """Write ``job`` to ``path``, whole or not at all."""
    described = {
        "command": job.command,
        "environment": dict(job.environment),
        "files": dict(job.files),
        "code": [str(package) for package in job.code],
        "metadata": dict(job.metadata),
        "grace": job.grace,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def recall(name: str, path: Path) -> Job:
    """The job that ``path`` describes, as ``name``; JobError for a damaged file.

    Raises :class:`FileNotFoundError` where there is none.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        described["code"] = tuple(map(Path, described.get("code", ())))
        return Job(name, tuple(described.pop("command")), **described)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(f"{path} is damaged; submit {name} again instead of resuming it") from error
