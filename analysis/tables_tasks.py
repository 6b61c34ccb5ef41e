"""Every method over all tasks of a sweep: mean, median, interquartile mean, and against CTD."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.methods import METHODS, method_of
from analysis.protocol import footnotes
from analysis.records import Records
from analysis.runs import rows_that_count, runs_of
from analysis.stats import Estimate
from analysis.stats_tasks import (
    DIVERGED,
    OPTIMAL,
    STATISTICS,
    Runs,
    TaskEstimate,
    aggregate,
    paired,
    probability_of_improvement,
)
from analysis.table import Cell, Table
from analysis.tables import MISSING

_REFERENCE = "ctd"
_TITLES = {"mean": "mean", "median": "median", "iqm": "IQM", "optimality_gap": "optimality gap"}
_NOTES = (
    "Of methods with a score on every dataset of a sweep of two or more; datasets count alike, "
    "and a run is a training seed on one. The median is of the datasets' means, the interquartile "
    f"mean (IQM) of the middle half of all runs, the optimality gap what runs lack to {OPTIMAL:g} "
    "(lower is better). "
    f"P(> {_REFERENCE}) is the probability that a run scores above one of {_REFERENCE} on the same "
    f"dataset; the difference to {_REFERENCE} is of equal training seeds.",
    "Brackets: 95 % interval by a bootstrap stratified by dataset and, but for P, Student's t, "
    "where each has two or more training seeds. It covers the spread between training seeds, not "
    "that between datasets; that of the median is too narrow, and P's with two or three seeds.",
    f"A training seed that diverged counts as {DIVERGED:g}.",
)


def tasks_table(records: Records) -> Table:
    """One row per sweep and method that has a score on each of the sweep's datasets.

    A sweep of one dataset has no row: the benchmark table says all of it.
    """
    rows: list[tuple[Cell, ...]] = []
    lines = []
    rules = set()
    for sweep in records.sweeps["sweep"]:
        rules.add(len(rows))
        for method, estimates in _estimates(records, sweep):
            whole = estimates["mean"]
            counts = {"tasks": whole.tasks, "runs": whole.count, "diverged": whole.diverged}
            texts = [method, *(f"{count}" for count in counts.values())]
            texts += [_text(estimates.get(name), "{:.1f}") for name in STATISTICS]
            texts += [_text(estimates.get("improvement"), "{:.2f}")]
            texts += [_text(estimates.get("difference"), "{:+.1f}")]
            rows.append(tuple(map(Cell, (sweep, *texts))))
            lines.append({"sweep": sweep, "method": method, **counts, **_numbers(estimates)})
    return Table(
        name="tasks",
        title=f"Scores over all datasets, sweeps: {records.name}",
        header=(
            *("sweep", "method", "datasets", "runs", "diverged"),
            *(_TITLES[name] for name in STATISTICS),
            *(f"P(> {_REFERENCE})", f"difference to {_REFERENCE}"),
        ),
        rows=tuple(rows),
        notes=(*_NOTES, *footnotes(records)),
        numbers=pd.DataFrame(lines),
        rules=frozenset(rules - {0, len(rows)}),
    )


def _estimates(records: Records, sweep: str) -> Iterator[tuple[str, dict[str, TaskEstimate]]]:
    rows = rows_that_count(records)
    played = {
        method: runs_of(records, method, sweep)
        for method in rows.loc[rows["sweep"] == sweep, "method"].unique()
    }
    datasets = {dataset for runs in played.values() for dataset in runs}
    whole = {method: runs for method, runs in played.items() if set(runs) == datasets}
    if len(datasets) < 2:
        return
    reference = whole.get(_REFERENCE)
    for method in sorted(whole, key=_place):
        runs = whole[method]
        found = {name: aggregate(runs, name) for name in STATISTICS}
        if reference is not None and method != _REFERENCE:
            found["improvement"] = probability_of_improvement(runs, reference)
            if _share_seeds(runs, reference):
                found["difference"] = aggregate(paired(runs, reference), "mean")
        yield method, found


def _share_seeds(ours: Runs, theirs: Runs) -> bool:
    return all(ours[task].keys() & theirs[task].keys() for task in ours)


def _place(method: str) -> tuple[int, str]:
    order = list(METHODS)
    name = method_of(method)
    return (order.index(name) if name in order else len(order), method)


def _text(estimate: Estimate | None, pattern: str) -> str:
    if estimate is None:
        return MISSING
    if estimate.low is None or estimate.high is None:
        return pattern.format(estimate.value)
    low, high = pattern.format(estimate.low), pattern.format(estimate.high)
    return f"{pattern.format(estimate.value)} [{low}, {high}]"


def _numbers(estimates: dict[str, TaskEstimate]) -> dict[str, float | None]:
    names = (*STATISTICS, "improvement", "difference")
    found = {name: estimates.get(name) for name in names}
    return {
        f"{name}{end}": None if each is None else getattr(each, end.removeprefix("_") or "value")
        for name, each in found.items()
        for end in ("", "_low", "_high")
    }
