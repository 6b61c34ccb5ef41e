"""How far a sweep is, from the storage alone: works on any machine that sees it, at any time."""

from __future__ import annotations

import csv
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from analysis.stats import bootstrap_mean, student_mean
from ractd_core.files import FileError, read_json
from ractd_core.tasks import parse_dataset_name
from sweeps.budget import driver_hours
from sweeps.build import BUILDER, METRICS
from sweeps.jsonl import read_rows
from sweeps.layout import ABOUT, EPISODES, StorageError, SweepFolder, TaskContext
from sweeps.ledger import Record
from sweeps.mirrored_sweep import pull_sweep
from sweeps.pace import trials_per_hour
from sweeps.requests import stage_requests
from sweeps.spec import SweepSpec
from sweeps.stage_store import DIVERGED, MANIFEST

_SHARED = ("reward", "teacher")
_HOUR = 3600.0


@dataclass(frozen=True)
class Best:
    """The best selection score so far.

    ``low`` and ``high`` end its 95 % interval, over the ``count`` values named by ``over``:
    Student's over training seeds if there are several, else by bootstrap over the selection
    episodes. They are None, and ``over`` is empty, where the score is no mean of episodes (a
    curve's highest point).
    """

    score: float
    number: int
    low: float | None = None
    high: float | None = None
    count: int = 0
    over: str = ""


@dataclass(frozen=True)
class Stages:
    """Teachers and reward models that a task's trials share; ``diverged`` ones are never built."""

    built: int
    building: int
    diverged: int
    to_come: int


@dataclass(frozen=True)
class TaskStatus:
    """Counts of one task's trials.

    ``running`` have begun and have no record. ``diverged`` failed because training did, ``failed``
    for another reason. ``best`` is None without a completed trial, ``stages`` until the data are
    there, and where which stages are asked for is not known beforehand.
    """

    dataset: str
    trials: int
    completed: int = 0
    pruned: int = 0
    failed: int = 0
    diverged: int = 0
    running: int = 0
    best: Best | None = None
    stages: Stages | None = None

    @property
    def done(self) -> int:
        """Trials with a record."""
        return self.completed + self.pruned + self.failed + self.diverged

    @property
    def waiting(self) -> int:
        """Trials that have not begun."""
        return max(0, self.trials - self.done - self.running)

    @property
    def left(self) -> int:
        """Trials without a record."""
        return self.running + self.waiting

    def line(self) -> str:
        """One line for people."""
        parts = [f"{self.completed} completed"]
        for count, word in (
            (self.pruned, "pruned"),
            (self.failed, "failed"),
            (self.diverged, "diverged"),
        ):
            parts += [f"{count} {word}"] if count else []
        best = "" if self.best is None else f", best {self.best.score:.1f}"
        return (
            f"{self.dataset}: {self.done}/{self.trials} trials ({', '.join(parts)}), "
            f"{self.running} under way, {self.waiting} to come{best}"
        )


@dataclass(frozen=True)
class SweepStatus:
    """A sweep at one moment.

    ``trials_per_hour`` is that of :func:`~sweeps.pace.trials_per_hour`. ``hours_left`` and
    ``device_hours_left`` are what the trials without a record will take at that rate and at the
    mean of those that ended, less where the budget ends before; None while none has ended.
    ``device_hours`` is what the trials and the stages this sweep built took, workers times time.
    """

    name: str
    state: str
    tasks: tuple[TaskStatus, ...]
    building: tuple[str, ...]
    trials_per_hour: float | None
    hours_left: float | None
    device_hours: float
    device_hours_left: float | None
    device_hours_allowed: float | None
    report: str | None


@dataclass(frozen=True)
class _Ended:
    """What a status needs of a trial's record."""

    key: str
    dataset: str
    number: int
    status: str
    score: float | None
    seed_scores: tuple[float, ...]
    seconds: float
    device_seconds: float
    finished: datetime


class StatusReader:
    """Reads a sweep's storage, again and again: a record never changes and is read once."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        self._ended: dict[str, _Ended] = {}
        self._begun: dict[str, str] = {}
        self._built: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, frozenset[str] | None] = {}
        self._spec: tuple[int, SweepSpec] | None = None

    def sweep(self, state: str) -> SweepStatus:
        """Everything; ``state`` is the job's. FileError names a record that cannot be read."""
        pull_sweep(self.folder.path)
        spec = self._read_spec()
        trials, running = self._trials()
        stages = self._stages()
        tasks = tuple(
            self._task(spec, dataset, trials, running[dataset], self._count(spec, dataset))
            for dataset in spec.tasks
        )
        spent = sum(trial.device_seconds for trial in trials)
        spent += sum(m["device_seconds"] for m in stages if m.get("sweep") == self.folder.name)
        rate = trials_per_hour([(trial.finished, trial.seconds) for trial in trials])
        left = sum(task.left for task in tasks)
        mean = sum(trial.device_seconds for trial in trials) / len(trials) if trials else None
        to_come = None if mean is None else left * mean / _HOUR
        hours = None if rate is None else left / rate
        allowed = spec.budget.device_hours
        if allowed is not None and to_come:
            share = min(1.0, max(0.0, allowed - spent / _HOUR) / to_come)
            to_come, hours = to_come * share, hours and hours * share
        if spec.budget.hours is not None and hours:
            share = min(1.0, max(0.0, spec.budget.hours - driver_hours(self.folder)) / hours)
            to_come, hours = to_come and to_come * share, hours * share
        page = report_page(self.folder)
        return SweepStatus(
            name=self.folder.name,
            state=state,
            tasks=tasks,
            building=tuple(building(self.folder)),
            trials_per_hour=rate,
            hours_left=hours,
            device_hours=spent / _HOUR,
            device_hours_left=to_come,
            device_hours_allowed=allowed,
            report=str(page) if page.exists() else None,
        )

    def task(self, dataset: str) -> TaskStatus:
        """The trials of one task, without its stages."""
        trials, running = self._trials()
        return self._task(self._read_spec(), dataset, trials, running[dataset], None)

    def _task(
        self,
        spec: SweepSpec,
        dataset: str,
        trials: list[_Ended],
        running: int,
        stages: Stages | None,
    ) -> TaskStatus:
        mine = [trial for trial in trials if trial.dataset == dataset]
        count = Counter(trial.status for trial in mine)
        return TaskStatus(
            dataset=dataset,
            trials=spec.planned_trials(parse_dataset_name(dataset)),
            completed=count["completed"],
            pruned=count["pruned"],
            failed=count["failed"],
            diverged=count["diverged"],
            running=running,
            best=self._best(mine),
            stages=stages,
        )

    def _best(self, trials: list[_Ended]) -> Best | None:
        scored = [(t.score, -t.number, t) for t in trials if t.score is not None]
        if not scored:
            return None
        score, _, best = max(scored, key=lambda each: each[:2])
        values, over = list(best.seed_scores), "training seeds"
        interval = student_mean
        if len(values) < 2:
            interval = bootstrap_mean
            values = _column(self.folder.trials.folder(best.key) / EPISODES, "score")
            over = "selection episodes"
            if not values or abs(sum(values) / len(values) - score) > 1e-6 * (1 + abs(score)):
                return Best(score, best.number)
        found = interval(values)
        if found.low is None:
            return Best(score, best.number)
        return Best(score, best.number, found.low, found.high, len(values), over)

    def _read_spec(self) -> SweepSpec:
        path = self.folder.path / "spec.yaml"
        changed = path.stat().st_mtime_ns if path.exists() else 0
        if self._spec is None or self._spec[0] != changed:
            self._spec = changed, self.folder.spec()
            self._asked.clear()
        return self._spec[1]

    def _trials(self) -> tuple[list[_Ended], Counter[str]]:
        """Those with a record, and how many of each dataset have begun without one."""
        there: list[_Ended] = []
        running: Counter[str] = Counter()
        for key in _subfolders(self.folder.trials.root):
            ended = self._ended.get(key)
            if ended is None:
                record = self.folder.trials.here(key)
                ended = None if record is None else _ended(record)
            if ended is not None:
                self._ended[key] = ended
                there.append(ended)
            elif key in self._begun or self._has_begun(key):
                running[self._begun[key]] += 1
        return there, running

    def _has_begun(self, key: str) -> bool:
        with suppress(OSError, FileError):
            self._begun[key] = read_json(self.folder.trials.folder(key) / ABOUT)["dataset"]
        return key in self._begun

    def _stages(self) -> list[dict[str, Any]]:
        """The manifests of the storage's stages."""
        names = _subfolders(self.folder.store.root)
        for name in names:
            if name not in self._built:
                with suppress(OSError, FileError):
                    self._built[name] = read_json(self.folder.store.root / name / MANIFEST)
        self._built = {name: self._built[name] for name in names if name in self._built}
        return list(self._built.values())

    def _count(self, spec: SweepSpec, dataset: str) -> Stages | None:
        if dataset not in self._asked:
            try:
                self._asked[dataset] = self._requests(spec, dataset)
            except KeyError:
                return None
        names = self._asked[dataset]
        if names is None:
            return None
        store, missing = self.folder.store, [name for name in names if name not in self._built]
        diverged = sum((store.building(name) / DIVERGED).exists() for name in missing)
        under_way = sum(map(store.has_builder, missing))
        to_come = len(missing) - diverged - under_way
        return Stages(len(names) - len(missing), under_way, diverged, to_come)

    def _requests(self, spec: SweepSpec, dataset: str) -> frozenset[str] | None:
        """The shared stages a task asks for; KeyError before its data are known, None if open."""
        about = self.folder.path / "sweep.json"
        pinned = read_json(about)["datasets"] if about.exists() else {}
        try:
            self.folder.spec_to_run()
        except StorageError:
            # Begun by a release with other recipes, whose stages have other names.
            return None
        context = TaskContext(self.folder, spec, parse_dataset_name(dataset), pinned[dataset])
        requests = [stage_requests(context, kind) for kind in _SHARED]
        return frozenset(r.name for each in requests for r in each) if all(requests) else None


def building(folder: SweepFolder) -> list[str]:
    """One phrase per stage that the sweep builds now: which, how far, at what loss."""
    phrases = []
    for path in sorted((folder.storage / "stages" / ".building").glob(f"*/{METRICS}")):
        name, rows = path.parent.name, read_rows(path)
        if rows and _builder(path.parent) == folder.name and folder.store.has_builder(name):
            last = rows[-1]
            kind = name.partition("-")[0]
            phrases.append(
                f"{kind} step {last['step']}/{last['total']} (loss {_short(last['loss'])})"
            )
    return phrases


def _builder(folder: Path) -> str | None:
    with suppress(OSError):
        return (folder / BUILDER).read_text()
    return None


def report_page(folder: SweepFolder) -> Path:
    """Where the sweep's report lies once it is written."""
    return folder.path / "report" / "index.html"


def _ended(record: Record) -> _Ended:
    selection = record["selection"] or {}
    rule = selection.get("rule", "last").replace("-", "_")
    diverged = (record["reason"] or "").startswith("diverged: ")
    return _Ended(
        key=record["key"],
        dataset=record["dataset"],
        number=record["number"],
        status="diverged" if record["status"] == "failed" and diverged else record["status"],
        score=selection.get("score"),
        seed_scores=tuple(seed[rule] for seed in selection.get("seeds", ())),
        seconds=record["seconds"],
        device_seconds=record["seconds"] * record["workers"],
        finished=datetime.fromisoformat(record["finished"]),
    )


def _subfolders(root: Path) -> list[str]:
    with suppress(FileNotFoundError), os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))
    return []


def _column(path: Path, name: str) -> list[float]:
    """A column of numbers; none if the file is not there or not whole."""
    with suppress(OSError, ValueError, KeyError, TypeError), path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]
    return []


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
