"""The scores of final rows by dataset and training seed, as stats_tasks.py takes them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.records import Records


def runs_of(records: Records, method: str, sweep: str | None = None) -> dict[str, dict[int, float]]:
    """Dataset, training seed, mean score over fresh episodes, of the final rows `method`.

    A training seed that diverged is NaN; a row that failed otherwise says nothing on the method and
    is left out. With several sweeps in `records` name one, or make sure that they do not share a
    dataset: ValueError if they do.
    """
    rows = rows_that_count(records)
    rows = rows[rows["method"] == method]
    if sweep is not None:
        rows = rows[rows["sweep"] == sweep]
    runs: dict[str, dict[int, float]] = {}
    for row in rows.to_dict("records"):
        found = runs.setdefault(row["dataset"], {})
        for seed, score in row_scores(records, row).items():
            if seed in found:
                raise ValueError(
                    f"{method} has several scores on {row['dataset']}, training seed {seed}; "
                    "name one sweep, or load one only"
                )
            found[seed] = score
    return {dataset: found for dataset, found in runs.items() if found}


def rows_that_count(records: Records) -> pd.DataFrame:
    """The final rows that say something on their method: completed, or diverged in training."""
    rows = records.rows
    return rows[(rows["status"] == "completed") | rows["reason"].map(diverged).astype(bool)]


def row_scores(records: Records, row: Mapping[Hashable, Any]) -> dict[int, float]:
    """The mean score of each training seed of a row that counts; NaN where training diverged."""
    episodes = records.episodes
    own = (episodes["owner"] == "row") & (episodes["key"] == row["key"])
    played = episodes[own & (episodes["sweep"] == row["sweep"])]
    means = played.groupby("training_seed")["score"].mean()
    scores = dict(zip(means.index.tolist(), means.tolist(), strict=True))
    if row["status"] == "completed":
        return scores
    first, count = int(row["training_seed"]), int(row["training_seeds"])
    return {seed: scores.get(seed, math.nan) for seed in range(first, first + count)}


def diverged(reason: object) -> bool:
    """Whether a record's reason says that training diverged."""
    return isinstance(reason, str) and reason.startswith("diverged: ")
