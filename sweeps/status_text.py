"""A sweep's status in words and, for programs, as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sweeps.status import Best, Stages, SweepStatus, TaskStatus

WIDTH = 100
_MINUTE, _HOUR, _DAY = 1 / 60, 1.0, 24.0


def to_json(status: SweepStatus) -> dict[str, Any]:
    """The status's fields by name; of a task also ``done`` and ``waiting``."""
    tasks = [asdict(task) | {"done": task.done, "waiting": task.waiting} for task in status.tasks]
    return asdict(status) | {"tasks": tasks}


def to_text(status: SweepStatus) -> str:
    """Lines of at most :data:`WIDTH` characters; only a path may be longer."""
    lines = [f"{status.name}: {status.state}"]
    for task in status.tasks:
        lines += textwrap.wrap(task.line(), WIDTH, subsequent_indent="  ")
        lines += [f"  {text}" for text in _details(task)]
    lines += [pace(status), *status.building]
    lines += [f"report: {status.report}"] if status.report else []
    return "\n".join(lines)


def _details(task: TaskStatus) -> Iterator[str]:
    if task.best is not None:
        yield f"best: {interval(task.best)}, trial {task.best.number}{_over(task.best)}"
    if task.stages is not None:
        yield f"shared stages: {stages(task.stages)}"


def interval(best: Best) -> str:
    """The best score with the ends of its interval, if it has one."""
    if best.low is None or best.high is None:
        return f"{best.score:.1f}"
    return f"{best.score:.1f} [{best.low:.1f}, {best.high:.1f}]"


def _over(best: Best) -> str:
    return f" (95 % over {best.count} {best.over})" if best.over else ""


def stages(counts: Stages) -> str:
    """How many are where."""
    diverged = f", {counts.diverged} diverged" if counts.diverged else ""
    return f"{counts.built} built, {counts.building} building, {counts.to_come} to come{diverged}"


def pace(status: SweepStatus) -> str:
    """The rate, what is left, and what was spent, in one line."""
    parts = []
    if status.trials_per_hour is not None:
        parts.append(f"{status.trials_per_hour:.3g} trials per hour")
    if status.hours_left:
        parts.append(f"about {duration(status.hours_left)} left")
    spent = f"device time: {duration(status.device_hours)} spent"
    if status.device_hours_allowed is not None:
        spent += f" of {duration(status.device_hours_allowed)}"
    if status.device_hours_left:
        spent += f", about {duration(status.device_hours_left)} to come"
    return "; ".join([*parts, spent])


def duration(hours: float) -> str:
    """A time with two digits that mean something."""
    for unit, size in (("days", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if hours >= 2 * size:
            return f"{hours / size:.3g} {unit}"
    return f"{hours * 3600:.0f} s"
