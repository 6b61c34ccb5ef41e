"""Processes of a Ray that a test has started, by their titles."""

from __future__ import annotations

import os
from pathlib import Path


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def descendants(*titles: str) -> list[int]:
    """Processes that this one started, at whatever remove, whose title begins with one of these."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not (folder / "cmdline").read_text().startswith(titles):
                continue
            pid = int(folder.name)
            while pid > 1 and pid != os.getpid():
                pid = parent_of(pid)
        except OSError:
            continue
        if pid == os.getpid():
            found.append(int(folder.name))
    return found
