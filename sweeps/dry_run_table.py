"""A dry run for people."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from sweeps.dry_run import DryRun, total


def table(plan: DryRun) -> str:
    """The plan as a table, with what it rests on."""
    rows = []
    for task in plan.tasks:
        cells: dict[str, Any] = {"task": task.dataset, "data": task.data, "trials": task.trials}
        for stage in task.stages:
            there = f" ({stage.in_store} in store)" if stage.in_store else ""
            cells[f"{stage.kind}s"] = (
                f"up to {stage.at_most}" if stage.distinct is None else f"{stage.distinct}{there}"
            )
        cells |= {
            "students": task.students,
            "hours": _hours(task.hours),
            "hours unshared": _hours(task.hours_alone),
            "disk": _disk(task.disk_gb),
            "disk unshared": _disk(task.disk_gb_alone),
        }
        rows.append(cells)
    lines = [f"{plan.name}: a dry run, nothing was started or written", ""]
    lines += [tabulate(rows, headers="keys", disable_numparse=True), ""]
    for task in plan.tasks:
        points = [", ".join(f"{k} {v}" for k, v in p.items()) for p in task.first_trials]
        lines += [f"{task.dataset} begins with: {'; '.join(filter(None, points))}"] * any(points)
        lines += [
            f"{task.dataset}: {' and '.join(stage.unlisted)} drawn from real numbers, so no two "
            f"trials share a {stage.kind}: up to {stage.at_most} of them; choices would be shared"
            for stage in task.stages
            if stage.unlisted
        ]
        lines += [
            f"{task.dataset}: there are more {stage.kind}s to choose from than trials, so each is "
            f"built by the first trial that asks for it: up to {stage.at_most} of them"
            for stage in task.stages
            if stage.distinct is None and not stage.unlisted
        ]
    sources = sorted({source for task in plan.tasks for source in task.sources})
    if sources:
        lines.append(f"hours of one device's work, by steps {' and '.join(sources)}")
    if any(task.hours is None for task in plan.tasks):
        lines.append("hours unknown (-): a stage wants a GPU, and there is none here to measure on")
    ratio = _ratio(plan)
    if ratio is not None:
        lines.append(f"sharing teachers and reward models saves a factor of {ratio:.1f}")
    return "\n".join(lines)


def _ratio(plan: DryRun) -> float | None:
    shared, alone = (
        total([getattr(t, key) for t in plan.tasks]) for key in ("hours", "hours_alone")
    )
    return alone / shared if shared and alone else None


def _hours(hours: float | None) -> str:
    if hours is None:
        return "-"
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:.1f} h"


def _disk(gb: float) -> str:
    return f"{1000 * gb:.1f} MB" if gb < 1 else f"{gb:.1f} GB"
