"""JSON lines that a resumed run goes on writing: one row per training step reported.

The rows of several training seeds, one trained after the other, stand one after the other.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ractd_core.files import write_text

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of ``path``, none if it is absent.

    A line that is not JSON ends the reading: what follows it was never finished.
    """
    rows: list[Row] = []
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return rows
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def spent(rows: list[Row]) -> tuple[float, float]:
    """Seconds that the rows of a training took, and the mean number of workers in them."""
    seconds = sum(row["seconds"] for row in rows)
    device_seconds = sum(row["seconds"] * row.get("workers", 1) for row in rows)
    return seconds, round(device_seconds / seconds, 3) if seconds else 1.0


def append_row(path: Path, row: Row) -> None:
    """Add ``row``, replacing any from its place on: those come from a run that was cut short.

    Its place is its ``training_seed``, if it has one, and its ``step``.

    The file is rewritten whole, so a reader never sees a torn line. Numbers that are not finite
    become null.
    """
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    rows = [*(each for each in read_rows(path) if _place(each) < _place(row)), clean]
    write_text(path, "".join(json.dumps(each) + "\n" for each in rows))


def _place(row: Row) -> tuple[int, int]:
    return row.get("training_seed", 0), row["step"]
