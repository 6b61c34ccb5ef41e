"""The D4RL task table and the normalized score.

Facts come from D4RL's own ``infos.py`` (file names, reference returns) and are packaged in
``tasks.csv``, one row per task.
"""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUPPORTED_DOMAINS = frozenset({"maze2d"})
SOURCES = ("local",)


class TaskError(ValueError):
    """A task or dataset name that is unknown, or whose domain this release does not run yet."""


@dataclass(frozen=True)
class Task:
    """One D4RL task.

    ``ref_min`` and ``ref_max`` are the returns of a random and of an expert policy as published by
    D4RL; ``max_episode_steps`` is the length of an evaluation episode in environment steps.
    """

    name: str
    domain: str
    env_id: str
    minari_id: str
    ref_min: float
    ref_max: float
    max_episode_steps: int
    hdf5_file: str
    obs_dim: int
    act_dim: int
    goal_conditioned: bool
    note: str
    hdf5_url: str

    @property
    def supported(self) -> bool:
        """Whether this release has the task's data and evaluation environment."""
        return self.domain in SUPPORTED_DOMAINS

    def normalized_score(self, returns: ArrayLike) -> NDArray[np.float64]:
        """D4RL's score, ``100 (return - ref_min) / (ref_max - ref_min)``, for any shape.

        0 is a random policy, 100 D4RL's reference expert (arXiv 2004.07219); scores beyond either
        are possible.
        """
        raw = np.asarray(returns, dtype=np.float64)
        return 100.0 * (raw - self.ref_min) / (self.ref_max - self.ref_min)


@dataclass(frozen=True)
class DatasetName:
    """``SOURCE/TASK``: where the data come from and which task they are for.

    Scores on data that were not published by D4RL are reported under this full name.
    """

    source: str
    task: Task

    def __str__(self) -> str:
        return f"{self.source}/{self.task.name}"


@cache
def all_tasks() -> dict[str, Task]:
    """All 42 tasks by name, in the table's order."""
    text = resources.files("ractd_core").joinpath("tasks.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {
        row["task"]: Task(
            name=row["task"],
            domain=row["domain"],
            env_id=row["env_id"],
            minari_id=row["minari_id"],
            ref_min=float(row["ref_min"]),
            ref_max=float(row["ref_max"]),
            max_episode_steps=int(row["max_episode_steps"]),
            hdf5_file=row["hdf5_file"],
            obs_dim=int(row["obs_dim"]),
            act_dim=int(row["act_dim"]),
            goal_conditioned=row["goal_conditioned"] == "1",
            note=row["note"],
            hdf5_url=row["hdf5_url"],
        )
        for row in rows
    }


def near(name: str, known: list[str]) -> str:
    """``"; did you mean a, b?"`` for names close to ``name``, or an empty string."""
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(matches)}?" if matches else ""


def get_task(name: str) -> Task:
    """The task called ``name``; raises :class:`TaskError` with near names if there is none."""
    tasks = all_tasks()
    if name not in tasks:
        hint = near(name, list(tasks)) or "; `ractd tasks` lists all"
        raise TaskError(f"unknown task {name!r}{hint}")
    return tasks[name]


def parse_dataset_name(text: str) -> DatasetName:
    """Read ``SOURCE/TASK``, such as ``local/maze2d-umaze-v1``.

    Raises :class:`TaskError` for a missing or unknown source, an unknown task, and a task whose
    data and environment this release does not have.
    """
    source, separator, task_name = text.partition("/")
    if not separator:
        get_task(text)
        raise TaskError(
            f"{text!r} names a task but not where its data come from; write 'local/{text}' for "
            "data generated here by D4RL's recipe"
        )
    task = get_task(task_name)
    if source not in SOURCES:
        raise TaskError(
            f"unknown data source {source!r} in {text!r}; this release has {', '.join(SOURCES)}"
        )
    if not task.supported:
        raise TaskError(
            f"{task.name} is in the task table, but the data and environments of its domain "
            f"({task.domain}) come with a later release; this one runs "
            f"{', '.join(sorted(SUPPORTED_DOMAINS))}"
        )
    return DatasetName(source, task)
