"""The scores of final rows by dataset and training seed, as stats_tasks.py takes them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.records import Records


def runs_of(records: Records, method: str, sweep: str | None = None) -> dict[str, dict[int, float]]:
    """Dataset, training seed, mean score over fresh episodes, of the final rows `method`.

    A row that failed because its training diverged is NaN for each of its training seeds; one that
    failed otherwise says nothing on the method and is left out. With several sweeps in `records`
    name one, or make sure that they do not share a dataset: ValueError if they do.
    """
    rows = records.rows[records.rows["method"] == method]
    if sweep is not None:
        rows = rows[rows["sweep"] == sweep]
    runs: dict[str, dict[int, float]] = {}
    for row in rows.to_dict("records"):
        found = runs.setdefault(row["dataset"], {})
        for seed, score in _scores(records.episodes, row).items():
            if seed in found:
                raise ValueError(
                    f"{method} has several scores on {row['dataset']}, training seed {seed}; "
                    "name one sweep, or load one only"
                )
            found[seed] = score
    return {dataset: found for dataset, found in runs.items() if found}


def diverged(reason: object) -> bool:
    """Whether a record's reason says that training diverged."""
    return isinstance(reason, str) and reason.startswith("diverged: ")


def _scores(episodes: pd.DataFrame, row: Mapping[Hashable, Any]) -> dict[int, float]:
    if row["status"] == "completed":
        own = (episodes["owner"] == "row") & (episodes["key"] == row["key"])
        played = episodes[own & (episodes["sweep"] == row["sweep"])]
        means = played.groupby("training_seed")["score"].mean()
        return dict(zip(means.index.tolist(), means.tolist(), strict=True))
    if diverged(row["reason"]):
        first, count = int(row["training_seed"]), int(row["training_seeds"])
        return {first + place: math.nan for place in range(count)}
    return {}
