"""What travels with a job: its code and its files, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster.protocol import Job, JobError

LIMIT = 20 * 2**20
"""Bytes; this project's code is 1.3 MB."""
_LEFT_OUT = ("__pycache__", ".*", "*.pyc", "*.safetensors", "*.hdf5", "*.npz", "*.npy", "*.pt")
_NAMED = 5


def pack(job: Job, folder: Path, limit: int = LIMIT) -> None:
    """Copy the job's ``code`` and write its ``files`` into ``folder``, which is empty.

    Hidden files, compiled Python, models and data are left out. Raises :class:`JobError`, naming
    the largest files, for more than ``limit`` bytes.
    """
    for package in job.code:
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for name, text in job.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:_NAMED]
        lines = [f"  {sizes[path] / 2**20:.1f} MB  {path.relative_to(folder)}" for path in largest]
        raise JobError(
            "\n".join(
                [
                    f"job {job.name} would send {total / 2**20:.1f} MB of code, more than "
                    f"{limit / 2**20:g} MB; move what is no code out of its packages:",
                    *lines,
                ]
            )
        )
