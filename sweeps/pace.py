"""How fast a sweep's trials end, from when they ended and how long they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

_HOUR = 3600.0
_PAUSE = 300.0
"""Seconds without a trial beyond which a sweep was not at work, or built stages."""


def trials_per_hour(ended: Sequence[tuple[datetime, float]]) -> float | None:
    """Trials ended per hour of the last hour in which trials ran; None if none took any time.

    ``ended`` has the end of each trial and the seconds it took. Time in which none ran does not
    count, so a night between two halves of a sweep leaves the rate as it was.
    """
    spans = sorted((end.timestamp() - seconds, end.timestamp()) for end, seconds in ended)
    blocks: list[_Block] = []
    for start, end in spans:
        if blocks and start - blocks[-1].end <= _PAUSE:
            blocks[-1].ends.append(end)
            blocks[-1].end = max(blocks[-1].end, end)
        else:
            blocks.append(_Block(start, end, [end]))
    count, covered = 0, 0.0
    for block in reversed(blocks):
        taken = min(block.end - block.start, _HOUR - covered)
        count += sum(end > block.end - taken or end == block.start for end in block.ends)
        covered += taken
        if covered >= _HOUR:
            break
    return count / covered * _HOUR if covered > 0 else None


@dataclass
class _Block:
    """Time in which trials ran without a pause, and when each of them ended."""

    start: float
    end: float
    ends: list[float]
