"""How long a sweep's work takes on a number of slots: lower bounds, and the driver's own order.

Work is done in phases, one after the other, as the driver does it. Within a phase jobs begin in
their order as soon as a slot is free, and each keeps the driver busy for a moment before.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Jobs of ``seconds`` each, ``slots`` at once; ``overhead`` seconds of the driver for each.

    Raises ValueError for no slots.
    """

    name: str
    seconds: Sequence[float]
    slots: int
    overhead: float = 0.0

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"{self.name}: no slot to run in")


@dataclass(frozen=True)
class Bounds:
    """Seconds that a phase takes at least: by its work, its longest job, and the driver."""

    work: float
    longest: float
    driver: float

    @property
    def most(self) -> float:
        """The largest of them."""
        return max(self.work, self.longest, self.driver)


def bounds(phase: Phase) -> Bounds:
    """What no order of a phase's jobs can beat."""
    if not phase.seconds:
        return Bounds(0.0, 0.0, 0.0)
    jobs = len(phase.seconds)
    return Bounds(
        work=(sum(phase.seconds) + jobs * phase.overhead) / phase.slots,
        longest=max(phase.seconds) + phase.overhead,
        driver=min(phase.seconds) + jobs * phase.overhead,
    )


def simulate(phase: Phase) -> float:
    """Seconds from the begin of a phase to the end of its last job."""
    free = [0.0] * min(phase.slots, len(phase.seconds))
    driver = end = 0.0
    for seconds in phase.seconds:
        begin = max(heapq.heappop(free), driver) + phase.overhead
        driver = begin
        heapq.heappush(free, begin + seconds)
        end = max(end, begin + seconds)
    return end
