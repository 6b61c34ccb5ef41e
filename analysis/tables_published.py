"""What was measured here beside what was published, never in one cell, average or comparison."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.protocol import footnotes
from analysis.published import DOUBTFUL, base_task, published_of
from analysis.records import Records
from analysis.table import Cell, Table
from analysis.tables import DATA, PUBLISHED, benchmark_table, number_text, score_text


def published_table(records: Records) -> Table:
    """For each task the scores measured here, then the published ones in grey with their source.

    Every published figure names its table and source; one that other sources contradict has a
    mark, and a note that says how. Only on D4RL's own data do the two measure the same, which the
    column "data" says; a difference is never taken.
    """
    measured = benchmark_table(records)
    measured = measured[(measured["method"] != PUBLISHED) & (measured["method"] != DATA)]
    published = published_of(records.tasks)
    published = published[published["measure"] == "score"].reset_index(drop=True)
    sources = {name: place for place, name in enumerate(dict.fromkeys(published["source"]), 1)}
    rows: list[tuple[Cell, ...]] = []
    rules = set()
    for task in records.tasks:
        rules.add(len(rows))
        own = measured[measured["task"] == task]
        rows += [_measured_row(line) for line in own.to_dict("records")]
        theirs = published[published["task"].map(base_task) == base_task(task)]
        rows += [_published_row(line, sources) for line in theirs.to_dict("records")]
    return Table(
        name="published",
        title=f"Scores measured here and published, sweeps: {records.name}",
        header=("data", "method", "score", "network calls", "source"),
        rows=tuple(rows),
        notes=(
            "Grey: published, measured by others on D4RL's own data. Figures on other data, such "
            "as local/ and minari/ datasets, stand beside them for orientation and cannot be "
            "compared with them; on d4rl/ datasets simulators and networks may still differ.",
            *(f"[{place}] {name}" for name, place in sources.items()),
            *_conflicts(published),
            *footnotes(records),
        ),
        numbers=_numbers(measured, published),
        rules=frozenset(rules - {0, len(rows)}),
    )


def _measured_row(line: dict[Any, Any]) -> tuple[Cell, ...]:
    return (
        Cell(line["dataset"]),
        Cell(line["method"]),
        Cell(score_text(line)),
        Cell(number_text(line["nfe"], "{:.3g}")),
        Cell(f"here, sweep {line['sweep']}"),
    )


def _published_row(line: dict[Any, Any], sources: dict[str, int]) -> tuple[Cell, ...]:
    error = "" if pd.isna(line["stderr"]) else f" ± {line['stderr']:.1f}"
    mark = "" if pd.isna(line["conflict"]) else f" {DOUBTFUL}"
    return (
        Cell(f"D4RL {line['task']}", grey=True),
        Cell(line["method"], grey=True),
        Cell(f"{line['value']:.1f}{error}{mark}", grey=True),
        Cell(number_text(line["nfe"], "{:.0f}"), grey=True),
        Cell(f"table {line['table']} of [{sources[line['source']]}]", grey=True),
    )


def _conflicts(published: pd.DataFrame) -> list[str]:
    doubtful = published.dropna(subset="conflict")
    return list(
        dict.fromkeys(
            f"{DOUBTFUL} Table {line['table']}, {line['task']}, {line['method']}, "
            f"{line['value']:.1f}: {line['conflict']}."
            for line in doubtful.to_dict("records")
        )
    )


def _numbers(measured: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """One line per figure; `origin` is "measured" or "published"."""
    kept = ["task", "dataset", "method", "score", "low", "high", "nfe", "sweep", "fingerprint"]
    theirs = published.rename(columns={"value": "score"})
    theirs = theirs.assign(dataset="D4RL " + theirs["task"], origin="published")
    columns = ["task", "dataset", "method", "score", "stderr", "nfe", "table", "source"]
    return pd.concat(
        [
            measured[kept].assign(origin="measured"),
            theirs[[*columns, "conflict", "note", "origin"]],
        ],
        ignore_index=True,
    )
