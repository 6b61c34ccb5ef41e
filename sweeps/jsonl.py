"""JSON lines that a resumed run goes on writing: one row per training step reported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ractd_core.files import write_text

Row = dict[str, Any]


def read_rows(path: Path, up_to: int | None = None) -> list[Row]:
    """The rows of ``path`` (none if it is absent), those with ``step`` beyond ``up_to`` left out.

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
    return rows if up_to is None else [row for row in rows if row["step"] <= up_to]


def add_row(path: Path, row: Row) -> None:
    """Add ``row`` to rows that have no step, as :func:`append_row` does."""
    rows = [*read_rows(path), row]
    write_text(path, "".join(json.dumps(each) + "\n" for each in rows))


def append_row(path: Path, row: Row) -> None:
    """Add ``row``, replacing any from its step on: those come from a run that was cut short.

    The file is rewritten whole, so a reader never sees a torn line. Numbers that are not finite
    become null.
    """
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    rows = [*read_rows(path, up_to=row["step"] - 1), clean]
    write_text(path, "".join(json.dumps(each) + "\n" for each in rows))
