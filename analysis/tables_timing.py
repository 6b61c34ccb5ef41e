"""How long each method takes to decide, and how that compares with RACTD's one call."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.protocol import footnotes
from analysis.published import published_of
from analysis.records import Records
from analysis.table import Cell, Table
from analysis.tables import MISSING, number_text, three_digits
from analysis.tables_scores import per_text

_NOTES = (
    "Network calls, gradients of the reward model, median and p95 are those of one window; seconds "
    "are those of one executed action of it, or of one plan where that stands beside them. Ratio: "
    "of seconds, to ractd on the same dataset, horizon, device and batch.",
    "Grey: published, on another machine (V100) and network; no ratio is taken with it.",
)
ALIKE = ["sweep", "dataset", "horizon", "device", "batch", "per"]
"""What two rows share whose times can be compared."""
_OURS = ["nfe", "median_ms", "seconds"]


def timing_table(records: Records) -> Table:
    """One row per timed final row, slowest last, then what was published for the same tasks."""
    lines = timed(records)
    published = published_of(records.tasks)
    published = published[published["measure"] == "seconds per action"]
    measured = [_measured_row(line) for line in lines.to_dict("records")]
    others = [_published_row(line) for line in published.to_dict("records")]
    return Table(
        name="timing",
        title=f"Time of a decision, sweeps: {records.name}",
        header=(
            *("dataset", "method", "network calls", "gradients", "horizon"),
            *("median ms", "p95 ms", "seconds", "ratio", "where"),
        ),
        rows=(*measured, *others),
        notes=(*(_NOTES if others else _NOTES[:1]), *footnotes(records)),
        numbers=lines.drop(columns=[f"{name}_ractd" for name in _OURS]),
        rules=frozenset({len(measured)} if measured and others else ()),
    )


def _measured_row(line: Mapping[Hashable, Any]) -> tuple[Cell, ...]:
    texts = (
        line["dataset"],
        line["method"],
        *(number_text(line[name], "{:.3g}") for name in ("nfe", "reward_gradients", "horizon")),
        *(number_text(line[name], "{:.3g}") for name in ("median_ms", "p95_ms")),
        per_text(line["seconds"], line["per"]),
        MISSING if pd.isna(line["ratio"]) else three_digits(line["ratio"]),
        f"{line['device']}, batch {line['batch']:.0f}, sweep {line['sweep']}",
    )
    return tuple(map(Cell, texts))


def _published_row(line: Mapping[Hashable, Any]) -> tuple[Cell, ...]:
    texts = (
        f"D4RL {line['task']}",
        line["method"],
        number_text(line["nfe"], "{:.0f}"),
        *[MISSING] * 4,
        f"{line['value']:.3g}",
        MISSING,
        f"V100; table {line['table']}, {line['source']}",
    )
    return tuple(Cell(text, grey=True) for text in texts)


def timed(records: Records) -> pd.DataFrame:
    """The frame `latency` of final rows, with ractd's figures where it was timed alike.

    `ratio` is of seconds to `seconds_ractd`; `nfe_ractd` and `median_ms_ractd` are of its window.
    """
    lines = records.latency[records.latency["owner"] == "row"]
    ours = lines[(lines["method"] == "ractd") & (lines["seconds"] > 0)].drop_duplicates(ALIKE)
    joined = lines.merge(ours[[*ALIKE, *_OURS]], on=ALIKE, how="left", suffixes=("", "_ractd"))
    joined["ratio"] = joined["seconds"] / joined["seconds_ractd"]
    by = ["task", "dataset", "sweep", "seconds"]
    return joined.sort_values(by, ignore_index=True)
