"""Read a sweep's storage and bring to a tracker what it does not have yet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from ractd_core.files import FileError, read_json
from sweeps.jsonl import Row, read_rows
from sweeps.layout import ABOUT, CURVE, SweepFolder
from sweeps.ledger import Ledger, Record
from sweeps.mirrored_sweep import pull_sweep
from sweeps.spec import dump_spec
from sweeps.trackers.protocol import End, Entry, Point, Tracker

_NO_VALUES = {"step", "training_seed"}
_RESULTS = ("selection", "objectives", "evaluation", "latency_ms")
_NUMBERS = ("steps", "seconds", "nfe", "training_seed")


class Mirror:
    """Brings one sweep to one tracker, as often as it is asked to."""

    def __init__(self, folder: SweepFolder, tracker: Tracker) -> None:
        self._folder = folder
        self._tracker = tracker
        self._ended: set[tuple[str, str]] = set()
        tracker.begin(dump_spec(folder.spec()))

    def update(self) -> int:
        """Add what is new on storage; the number of runs that were added to."""
        pull_sweep(self._folder.path)
        changed = 0
        for entry in self._entries():
            known = self._tracker.known(entry)
            points = [point for point in entry.points if point.step > known.step]
            news = bool(points) or entry.end is not None
            if not known.ended and news and (self._tracker.live or entry.end is not None):
                self._tracker.add(entry, points)
                changed += 1
            if entry.end is not None:
                # A record never changes: it need not be read again.
                self._ended.add((entry.kind, entry.key))
        return changed

    def _entries(self) -> Iterator[Entry]:
        about = self._folder.path / "sweep.json"
        if not about.exists():
            return
        created = datetime.fromisoformat(read_json(about)["created"])
        for key in self._keys("trial", self._folder.trials):
            trial = self._trial(key, created)
            if trial is not None:
                yield trial
        for key in self._keys("row", self._folder.rows):
            record = self._folder.rows.here(key)
            if record is not None:
                yield Entry(
                    "row",
                    key,
                    record["dataset"],
                    record["method"],
                    record["params"],
                    (),
                    _end(record),
                )

    def _keys(self, kind: str, ledger: Ledger) -> list[str]:
        folders = sorted(ledger.root.glob("*/")) if ledger.root.exists() else []
        return [path.name for path in folders if (kind, path.name) not in self._ended]

    def _trial(self, key: str, created: datetime) -> Entry | None:
        """A trial that has begun; None if nothing says so."""
        folder = self._folder.trials.folder(key)
        # First: what a curve has when there is a record, it will always have.
        record = self._folder.trials.here(key)
        about = record
        if about is None:
            with suppress(OSError, FileError):
                about = read_json(folder / ABOUT)
        if about is None:
            return None
        return Entry(
            kind="trial",
            key=key,
            dataset=about["dataset"],
            name=f"trial-{about['number']:04d}",
            params=about["params"],
            points=points_of(read_rows(folder / CURVE), created),
            end=None if record is None else _end(record),
        )


def points_of(rows: list[Row], start: datetime) -> list[Point]:
    """The curve of a trial; the steps of a training seed follow those of the one before.

    Times are ``start`` and the seconds of training and playing: the same whenever they are asked
    for, as a tracker needs that tells two points apart by them.
    """
    points: list[Point] = []
    before = seconds = 0.0
    seed = None
    for row in rows:
        if points and row.get("training_seed") != seed:
            before = points[-1].step
        seed = row.get("training_seed")
        seconds += row["seconds"]
        values = {name: row[name] for name in row if name not in _NO_VALUES}
        points.append(
            Point(int(before + row["step"]), start + timedelta(seconds=seconds), _numbers(values))
        )
    return points


def _end(record: Record) -> End:
    values = {name: record.get(name) for name in _NUMBERS}
    for part in _RESULTS:
        values |= {f"{part}/{name}": value for name, value in (record.get(part) or {}).items()}
    return End(record["status"], record["reason"], _numbers(values))


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
