"""Published Maze2d scores, for comparison; each row of published.csv names its source."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

# abstract of arXiv 2506.07822: 2.134 s against 0.015 s per action, hopper-medium-replay, V100
SPEED_UP = 142


def load_published() -> pd.DataFrame:
    """All rows: table, benchmark, task (no version), method, mean, stderr, nfe, source, note."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def published_ractd(tasks: Iterable[str]) -> pd.DataFrame:
    """The published RACTD rows of `tasks`, which may carry a version; none where none is known."""
    table = load_published()
    names = {base_task(task) for task in tasks}
    return table[(table["method"] == "RACTD") & table["task"].isin(names)]


def base_task(task: str) -> str:
    """The task's name without its version: maze2d-umaze-v1 becomes maze2d-umaze."""
    return re.sub(r"-v\d+$", "", task)
