"""Published scores and times, for comparison; each row of published.csv names its source.

They were measured on D4RL's own data, by others, on other machines: a table shows them in grey with
their source, and in no cell, average or comparison together with a score on other data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

# abstract of arXiv 2506.07822: 2.134 s against 0.015 s per action, hopper-medium-replay, V100
SPEED_UP = 142

DOUBTFUL = "‡"
"""Marks a figure that other sources contradict."""

_MAIN = ("1", "2", "3")
"""The paper's tables of results; the others are ablations and times."""


def load_published() -> pd.DataFrame:
    """All rows of published.csv.

    `table` is the paper's, `measure` "score" or "seconds per action", `value` in its unit, `stderr`
    and `nfe` NaN where they were not given, `conflict` why the figure is doubtful, missing where
    nothing contradicts it.
    """
    return pd.read_csv(Path(__file__).with_name("published.csv"), dtype={"table": "str"})


def published_of(tasks: Iterable[str]) -> pd.DataFrame:
    """The rows of `tasks`, which may carry a version; none where none is known."""
    table = load_published()
    names = {base_task(task) for task in tasks}
    return table[table["task"].map(base_task).isin(names)]


def published_ractd(tasks: Iterable[str]) -> pd.DataFrame:
    """RACTD's scores on `tasks` in the paper's tables of results, one row per task."""
    table = published_of(tasks)
    main = table["table"].isin(_MAIN) & (table["measure"] == "score")
    return table[(table["method"] == "RACTD") & main]


def base_task(task: str) -> str:
    """The task's name without its version: maze2d-umaze-v1 becomes maze2d-umaze."""
    return re.sub(r"-v\d+$", "", task)
