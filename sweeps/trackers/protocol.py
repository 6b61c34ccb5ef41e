"""What a tracker is given, and what it must be able to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from sweeps.search_space import Scalar


class TrackerError(RuntimeError):
    """A tracker that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Point:
    """Numbers at one step: of a trial's curve, counted through its training seeds."""

    step: int
    time: datetime
    values: dict[str, float]


@dataclass(frozen=True)
class End:
    """How it ended: the record's status and its numbers, such as ``selection/score``."""

    status: Literal["completed", "pruned", "failed"]
    reason: str | None
    values: dict[str, float]


@dataclass(frozen=True)
class Entry:
    """A trial, or a row of the final table, as one run of a tracker.

    ``key`` is its record's. ``points`` rise in step; ``end`` is None while there is no record.
    """

    kind: Literal["trial", "row"]
    key: str
    dataset: str
    name: str
    params: dict[str, Scalar]
    points: Sequence[Point]
    end: End | None


@dataclass(frozen=True)
class Known:
    """What a tracker has of an entry: its points up to ``step``, and whether it has its end."""

    step: int = 0
    ended: bool = False


class Tracker(Protocol):
    """A place that entries are mirrored to.

    It answers :meth:`known` from what the place itself holds, so that a mirroring killed at any
    moment and begun again leaves no point twice. A place that refuses is a :class:`TrackerError`.
    """

    live: bool
    """Whether an entry can be added to before it has ended."""

    def begin(self, spec: str) -> None:
        """Make the place ready and leave the sweep's spec (YAML) there, unless it is there."""

    def known(self, entry: Entry) -> Known:
        """What is there of ``entry``."""

    def add(self, entry: Entry, points: Sequence[Point]) -> None:
        """Add those of the entry's points that are not there, and its end if it has one."""
