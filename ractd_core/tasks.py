"""The D4RL task table, task groups, dataset names and the normalized score.

Facts come from D4RL's own ``infos.py`` (file names, reference returns) and are packaged in
``tasks.csv``, one row per task, and ``domains.csv``, one row per domain.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray

D4RL, MINARI, LOCAL = "d4rl", "minari", "local"
SOURCES = (D4RL, MINARI, LOCAL)
"""D4RL's own files, the task's Minari dataset, and data generated here; others are the user's."""

_GENERATED_DOMAINS = frozenset({"maze2d", "mujoco"})
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]+")


class TaskError(ValueError):
    """A task, group or dataset name that is unknown or cannot be used as asked."""


@dataclass(frozen=True)
class Domain:
    """What the tasks of a domain share: evaluation protocol and licence of the published data."""

    name: str
    protocol: str
    data_licence: str


@dataclass(frozen=True)
class Task:
    """One D4RL task.

    ``ref_min`` and ``ref_max`` are the returns of a random and of an expert policy as published by
    D4RL; ``max_episode_steps`` is the length of an evaluation episode in environment steps;
    ``hdf5_rows`` is the number of rows of D4RL's own file (within 1 %); ``minari_id`` is empty if
    Minari has no dataset for the task.
    """

    name: str
    domain: str
    env_id: str
    minari_id: str
    ref_min: float
    ref_max: float
    max_episode_steps: int
    obs_dim: int
    act_dim: int
    hdf5_rows: int
    hdf5_file: str
    hdf5_url: str
    note: str

    @property
    def generated(self) -> bool:
        """Whether data for this task can be generated here by D4RL's recipe."""
        return self.domain in _GENERATED_DOMAINS

    @property
    def protocol(self) -> str:
        """How an episode is played and paid."""
        return all_domains()[self.domain].protocol

    @property
    def data_licence(self) -> str:
        """Licence of the data that D4RL published."""
        return all_domains()[self.domain].data_licence

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

    @property
    def minari_id(self) -> str:
        """The Minari dataset that holds it: Minari's own id, or this name for all other sources."""
        return self.task.minari_id if self.source == MINARI else str(self)

    @property
    def refusal(self) -> str | None:
        """Why policies trained on this dataset cannot be scored here; None if they can."""
        if self.source == D4RL and self.task.domain == "antmaze":
            return (
                f"{self}: D4RL's ant has other actuators, time step and coordinates than "
                "Gymnasium's, so a policy trained on D4RL's files cannot be scored; use "
                f"minari/{self.task.name}, which was collected in the evaluation environment"
            )
        return None


def _rows(file: str) -> list[dict[str, str]]:
    text = resources.files("ractd_core").joinpath(file).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def all_domains() -> dict[str, Domain]:
    """The five domains by name."""
    return {
        row["domain"]: Domain(row["domain"], row["protocol"], row["data_licence"])
        for row in _rows("domains.csv")
    }


@cache
def all_tasks() -> dict[str, Task]:
    """All 42 tasks by name, in the table's order."""
    return {
        row["task"]: Task(
            name=row["task"],
            domain=row["domain"],
            env_id=row["env_id"],
            minari_id=row["minari_id"],
            ref_min=float(row["ref_min"]),
            ref_max=float(row["ref_max"]),
            max_episode_steps=int(row["max_episode_steps"]),
            obs_dim=int(row["obs_dim"]),
            act_dim=int(row["act_dim"]),
            hdf5_rows=int(row["hdf5_rows"]),
            hdf5_file=row["hdf5_file"],
            hdf5_url=row["hdf5_url"],
            note=row["note"],
        )
        for row in _rows("tasks.csv")
    }


@cache
def task_groups() -> dict[str, tuple[Task, ...]]:
    """Names for sets of tasks; ``gym-mujoco-9`` are the nine of the offline RL papers' tables."""
    tasks = tuple(all_tasks().values())
    groups = {domain: tuple(t for t in tasks if t.domain == domain) for domain in all_domains()}
    groups["gym-mujoco"] = groups.pop("mujoco")
    nine = re.compile(r".*-medium(-replay|-expert)?-v2")
    groups["gym-mujoco-9"] = tuple(t for t in groups["gym-mujoco"] if nine.fullmatch(t.name))
    return {**dict(sorted(groups.items())), "all": tasks}


def near(name: str, known: Sequence[str]) -> str:
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


def find_tasks(pattern: str) -> tuple[Task, ...]:
    """The tasks of a group, or those whose name matches a glob such as ``hopper-*``.

    Raises :class:`TaskError` if there is none.
    """
    if pattern in task_groups():
        return task_groups()[pattern]
    found = tuple(t for t in all_tasks().values() if fnmatch.fnmatchcase(t.name, pattern))
    if not found:
        known = [*all_tasks(), *task_groups()]
        hint = near(pattern, known) or f"; groups: {', '.join(task_groups())}"
        raise TaskError(f"no task or group matches {pattern!r}{hint}")
    return found


def is_source(source: str) -> bool:
    """Whether ``source`` can name where data come from."""
    return _LABEL.fullmatch(source) is not None


def check_source(source: str) -> str:
    """``source`` if it can name where data come from; :class:`TaskError` if not."""
    if not is_source(source):
        raise TaskError(
            f"{source!r} cannot name a data source: two or more of a-z, 0-9 and -, such as "
            f"{', '.join(SOURCES)} or a label of your own"
        )
    return source


def parse_dataset_name(text: str) -> DatasetName:
    """Read ``SOURCE/TASK``, such as ``local/maze2d-umaze-v1``.

    A source is ``d4rl``, ``minari``, ``local`` or the label that data of one's own were imported
    under. Raises :class:`TaskError` for a missing source, an unknown task, and ``minari`` where
    Minari has no dataset for the task.
    """
    source, separator, task_name = text.partition("/")
    if not separator:
        get_task(text)
        raise TaskError(
            f"{text!r} names a task but not where its data come from; write d4rl/{text} (D4RL's "
            f"own file), minari/{text} (Minari's dataset), local/{text} (generated here) or the "
            "label you imported your own data under"
        )
    name = DatasetName(check_source(source), get_task(task_name))
    if source == MINARI and not name.task.minari_id:
        raise TaskError(f"Minari has no dataset for {task_name}; D4RL's own is d4rl/{task_name}")
    return name


def expand_datasets(text: str) -> tuple[DatasetName, ...]:
    """As :func:`parse_dataset_name`, also for a group or glob: ``d4rl/gym-mujoco-9`` is nine."""
    source, separator, pattern = text.partition("/")
    if not separator or pattern in all_tasks():
        return (parse_dataset_name(text),)
    check_source(source)
    if pattern not in task_groups() and not re.search(r"[*?\[]", pattern):
        hint = near(pattern, [*all_tasks(), *task_groups()]) or "; `ractd tasks` lists all"
        raise TaskError(f"unknown task or group {pattern!r}{hint}")
    return tuple(parse_dataset_name(f"{source}/{task.name}") for task in find_tasks(pattern))
