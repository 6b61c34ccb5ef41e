"""The benchmark: scores of every method on every dataset, and what was chosen to reach them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

import pandas as pd

from analysis.methods import METHODS, method_of
from analysis.protocol import footnotes
from analysis.records import Records
from analysis.runs import rows_that_count, runs_of
from analysis.stats_tasks import aggregate
from analysis.table import Cell, Table
from analysis.tables import (
    DATA,
    DOMAINS,
    MISSING,
    PUBLISHED,
    SYMBOLS,
    benchmark_table,
    interval_text,
    number_text,
    score_text,
)

BOLD_RULE = (
    "Bold: the best score on a dataset, and every other inside the best one's 95 % interval, be it "
    "over training seeds or the narrower kind over the episodes of one; the data's own behaviour "
    "and published figures take no part."
)
_AVERAGES = (
    "Averages and totals are over the datasets of their block, only where a method has a score on "
    "all of them; their intervals, by a bootstrap stratified by dataset, need two or more training "
    "seeds of each."
)


def score_table(records: Records) -> Table:
    """One row per dataset, grouped by domain with an average each, one column per method.

    A method that two sweeps have played on the same dataset has a column for each. Datasets of the
    same name but other content are rows of their own.
    """
    lines = _measured(records)
    labels = _labels(lines)
    lines = lines.assign(label=labels, row=_datasets(lines))
    columns = sorted(set(labels), key=_column_place)
    rows: list[tuple[Cell, ...]] = []
    rules = set()
    for domain, block in _blocks(lines):
        rules.add(len(rows))
        names = list(dict.fromkeys(block["row"]))
        rows += [_score_row(name, block[block["row"] == name], columns) for name in names]
        if len(names) > 1:
            rows.append(_average_row(records, f"average of {domain}", block, columns))
    if lines["domain"].nunique() > 1:
        rules.add(len(rows))
        rows.append(_average_row(records, "average of all", lines, columns))
    if lines["row"].nunique() > 1:
        rows.append(_total_row(lines, columns))
    return Table(
        name="benchmark",
        title=f"Normalized scores, sweeps: {records.name}",
        header=("dataset", *columns),
        rows=tuple(rows),
        notes=(BOLD_RULE, _AVERAGES, *_lost(records), *footnotes(records)),
        numbers=lines.drop(columns=["label", "row"]),
        rules=frozenset(rules - {0}),
        summaries=frozenset(
            place for place, row in enumerate(rows) if row[0].text not in set(lines["row"])
        ),
    )


def choices_table(records: Records) -> Table:
    """One row per method and dataset: its scores, the winner's weights and horizon, its cost.

    "last" and "selected" are scores of the search, "confirmed" and "score" on other seeds each.
    """
    lines = _measured(records)
    best = {
        name: best_places(block)
        for name, block in lines[lines["method"] != DATA].groupby(["sweep", "dataset"])
    }
    rows: list[tuple[Cell, ...]] = []
    rules = set()
    sweeps = lines["sweep"].nunique() > 1
    for place, (line, name) in enumerate(
        zip(lines.to_dict("records"), _datasets(lines), strict=True)
    ):
        if place and name != rows[-1][0].text:
            rules.add(place)
        method = f"{line['method']} ({line['sweep']})" if sweeps else line["method"]
        bold = lines.index[place] in best.get((line["sweep"], line["dataset"]), ())
        rows.append(
            (
                Cell(name),
                Cell(method),
                *(Cell(number_text(line[each], "{:.1f}")) for each in _SCORES),
                Cell(score_text(line), bold),
                *(Cell(number_text(line[weight], "{:.3g}")) for weight in SYMBOLS),
                Cell(number_text(line["horizon"], "{:.0f}")),
                Cell(per_text(line["nfe"], line["per"])),
                Cell(per_text(line["seconds"], line["per"])),
            )
        )
    return Table(
        name="choices",
        title=f"Scores and what was chosen, sweeps: {records.name}",
        header=(
            *("dataset", "method", "last", "selected", "confirmed", "score [95 % CI]"),
            *(*SYMBOLS.values(), "horizon", "network calls", "seconds"),
        ),
        rows=tuple(rows),
        notes=(
            BOLD_RULE,
            "Last and selected are scores of the search: of the last weights, and by the selection "
            "rule; confirmed and score are on seeds of their own. Network calls and seconds are "
            "those of one executed action, or of one plan where that stands beside them.",
            *_lost(records),
            *footnotes(records),
        ),
        numbers=lines,
        rules=frozenset(rules),
    )


def best_places(frame: pd.DataFrame) -> set[Hashable]:
    """The labels of the best `score` of a frame, and of those above the best one's `low`."""
    scored = frame.dropna(subset="score").sort_values("score", ascending=False)
    if scored.empty:
        return set()
    bound = scored[["score", "low"]].iloc[0].min()
    return set(scored.index[scored["score"] >= bound])


_SCORES = ("last_score", "selection_score", "confirmation_score")


def _measured(records: Records) -> pd.DataFrame:
    """What was measured here, in the order of domains, tasks and methods."""
    lines = benchmark_table(records)
    lines = lines[lines["method"] != PUBLISHED].drop(columns="conflict")
    order = {domain: place for place, domain in enumerate(DOMAINS.values())}
    place = lines["domain"].map(lambda domain: order.get(domain, len(order)))
    return lines.loc[place.sort_values(kind="stable").index].reset_index(drop=True)


def _labels(lines: pd.DataFrame) -> list[str]:
    """The column of each line: its method, with its sweep where two have played it."""
    together = lines.groupby(["dataset", "fingerprint", "method"])["sweep"].transform("nunique")
    twice = set(lines.loc[together > 1, "method"]) - {DATA}
    return [
        f"{method} ({sweep})" if method in twice else method
        for method, sweep in zip(lines["method"], lines["sweep"], strict=True)
    ]


def _datasets(lines: pd.DataFrame) -> list[str]:
    """Datasets by name, and by content where several have the same one."""
    contents = lines.groupby("dataset")["fingerprint"].transform("nunique")
    return [
        f"{dataset} ({fingerprint[:8]})" if several > 1 else dataset
        for dataset, fingerprint, several in zip(
            lines["dataset"], lines["fingerprint"], contents, strict=True
        )
    ]


def _column_place(label: str) -> tuple[int, str]:
    order = [DATA, *METHODS]
    method = DATA if label == DATA else method_of(label.partition(" ")[0])
    return (order.index(method) if method in order else len(order), label)


def _blocks(lines: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    for domain in dict.fromkeys(lines["domain"]):
        yield domain, lines[lines["domain"] == domain]


def _score_row(name: str, block: pd.DataFrame, columns: Sequence[str]) -> tuple[Cell, ...]:
    last = block.drop_duplicates("label", keep="last").set_index("label")
    rivals = last.drop(index=DATA, errors="ignore")
    bold = best_places(rivals)
    lines = last.to_dict("index")
    cells = [
        Cell(score_text(lines[label]), label in bold) if label in lines else Cell(MISSING)
        for label in columns
    ]
    return (Cell(name), *cells)


def _average_row(
    records: Records, name: str, block: pd.DataFrame, columns: Sequence[str]
) -> tuple[Cell, ...]:
    found = {label: _average(records, block, label) for label in columns}
    frame = pd.DataFrame(found, index=["score", "low", "high"], dtype="float64").T
    rivals = frame.drop(index=DATA, errors="ignore")
    bold = best_places(rivals)
    return (
        Cell(name),
        *(
            Cell(MISSING if math.isnan(score) else interval_text(score, low, high), label in bold)
            for label, score, low, high in frame.itertuples()
        ),
    )


def _average(records: Records, block: pd.DataFrame, label: str) -> tuple[float, float, float]:
    """Mean over the datasets and its interval; NaN where the method lacks one of them."""
    own = block[block["label"] == label].drop_duplicates("row", keep="last")
    if len(own) < block["row"].nunique() or own["score"].isna().any():
        return math.nan, math.nan, math.nan
    mean = float(own["score"].mean())
    if not (own["training_seeds"] > 1).all() or own["row"].nunique() > own["dataset"].nunique():
        return mean, math.nan, math.nan
    runs = {}
    for dataset, method, sweep in zip(own["dataset"], own["method"], own["sweep"], strict=True):
        runs[dataset] = runs_of(records, method, sweep).get(dataset, {})
    if any(len(each) < 2 for each in runs.values()):
        return mean, math.nan, math.nan
    found = aggregate(runs, "mean")
    assert found.low is not None
    assert found.high is not None
    return mean, found.low, found.high


def _total_row(lines: pd.DataFrame, columns: Sequence[str]) -> tuple[Cell, ...]:
    count = lines["row"].nunique()
    cells = []
    for label in columns:
        own = lines[lines["label"] == label].drop_duplicates("row", keep="last")["score"].dropna()
        cells.append(Cell(f"{own.sum():.1f}" if len(own) == count else MISSING))
    return (Cell(f"total of {count}"), *cells)


def _lost(records: Records) -> list[str]:
    """What is in no score: rows that failed for another reason than that training diverged."""
    failed = records.rows.drop(index=rows_that_count(records).index)
    if failed.empty and not records.unfinished_rows:
        return []
    names = ", ".join(
        f"{m} on {d}" for m, d in zip(failed["method"], failed["dataset"], strict=True)
    )
    return [
        f"Without a score: {len(failed)} failed rows{f' ({names})' if names else ''}, "
        f"{records.unfinished_rows} unfinished."
    ]


def per_text(value: float, per: object) -> str:
    """A cost, with "plan" where it is one plan's and not one action's."""
    text = number_text(value, "{:.3g}")
    return f"{text} / plan" if per == "plan" and text != MISSING else text
