"""Optuna under Ray Tune: one study per (sweep, task), kept in agreement with the ledger.

Ray's own OptunaSearch writes stopped trials as complete, leaves NaN trials running for ever and
cannot be restored when its study is ahead of Tune's snapshot. Here the ledger decides: the study is
repaired from it at every start, and Tune's snapshot is never restored.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.distributions import IntDistribution as IntRange
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from ractd_core.files import write_bytes, write_text
from sweeps.jsonl import read_rows
from sweeps.layout import TaskContext, TrialPlan
from sweeps.ledger import Record
from sweeps.search_space import (
    Choices,
    Parameter,
    Scalar,
    active,
    is_active,
    is_integer,
    label,
    misfit,
    parameters,
    whole_space,
)
from sweeps.spec_parts import PrunerSpec
from sweeps.trial import CURVE, STOP, close_trial

_ATTEMPTS = 20
_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_log = logging.getLogger(__name__)


def distribution(parameter: Parameter, integer: bool) -> BaseDistribution:
    """The parameter as Optuna knows it."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution(list(parameter.choices))
    if integer:
        step = int(parameter.step or 1)
        return IntRange(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def draw(trial: Trial, name: str, dist: BaseDistribution) -> Scalar:
    """The trial's value of one parameter: enqueued, or suggested by the study's sampler."""
    if isinstance(dist, CategoricalDistribution):
        chosen: Scalar = trial.suggest_categorical(name, dist.choices)
        return chosen
    limits = {"low": dist.low, "high": dist.high, "log": dist.log, "step": dist.step}
    if isinstance(dist, IntRange):
        return int(trial.suggest_int(name, **limits))
    return float(trial.suggest_float(name, **limits))


def make_pruner(spec: PrunerSpec) -> optuna.pruners.BasePruner:
    """The pruner of a spec."""
    if spec.kind == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(spec.startup_trials, n_warmup_steps=spec.warmup_steps)


def mend_journal(path: Path) -> None:
    """Cut a study file back to its last whole line: a killed writer can leave half of one.

    Only for the one driver that holds the sweep's lock. A lock file it finds belongs to a driver
    that is gone.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    whole = b""
    for line in content.splitlines(keepends=True):
        try:
            json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        whole += line
    if whole != content:
        _log.warning(
            "%s: %d bytes at the end were torn and are dropped", path, len(content) - len(whole)
        )
        write_bytes(path, whole)


class StudySearch(Searcher):
    """Suggests trials from the task's study and tells it what the ledger says of them.

    ``remaining`` is how many trials are still to be run for the spec's number. ``announce`` is
    called with each record as its trial ends.
    """

    def __init__(self, context: TaskContext, announce: Callable[[Record], None]) -> None:
        super().__init__(metric="score", mode="max")
        self.context = context
        self._announce = announce
        spec = context.spec
        self._space = {
            label(path): (path, distribution(parameter, is_integer(context.recipe, path)))
            for path, parameter in parameters(spec.search).items()
        }
        self._trials: dict[str, tuple[Trial, TrialPlan]] = {}
        self.study = self._open()
        self._unfinished = self._agree_with_ledger()

    @property
    def remaining(self) -> int:
        """Trials of the spec that have no record."""
        context = self.context
        return context.spec.planned_trials(context.dataset) - len(self._records())

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial's config: an unfinished one first, else a new one that is no duplicate."""
        for _ in range(_ATTEMPTS):
            trial = self._unfinished.pop(0) if self._unfinished else self._ask()
            if self._is_new(trial.params):
                return self._begin(trial_id, trial)
            self.study.tell(trial, state=TrialState.FAIL)
        # A sampler need not stumble on the last points of a small space.
        for point in whole_space(self.context.recipe, self.context.spec.search):
            params = {label(path): value for path, value in point.items()}
            if self._is_new(params):
                self.study.enqueue_trial(params)
                return self._begin(trial_id, self._ask())
        return str(Searcher.FINISHED)

    def _ask(self) -> Trial:
        """The study's next trial, with a value for every parameter that is active in it."""
        trial, values = self.study.ask(), dict[str, Scalar]()
        for path, parameter in parameters(self.context.spec.search).items():
            if is_active(parameter, values):
                name = label(path)
                values[path] = draw(trial, name, self._space[name][1])
        return trial

    def _is_new(self, params: dict[str, Scalar]) -> bool:
        """Whether a trial with ``params`` is possible and neither done nor under way."""
        values = self._values(params)
        if misfit(self.context.recipe, values) is not None:
            return False
        under_way = {plan.key for _, plan in self._trials.values()}
        return self.context.trial(values).key not in under_way | set(self._records())

    def _begin(self, trial_id: str, trial: Trial) -> dict[str, Any]:
        plan = self.context.trial(self._values(trial.params))
        self._trials[trial_id] = (trial, plan)
        return {
            "context": self.context.to_json(),
            "values": plan.values,
            "number": trial.number,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the study a score, and ask the trial to stop if the pruner gives it up."""
        trial, plan = self._trials[trial_id]
        with warnings.catch_warnings():
            # A continued trial reports the steps again that the study knows already.
            warnings.simplefilter("ignore")
            trial.report(result["score"], result["step"])
        # A trial at its last step is about to write its record: stopping it would gain nothing.
        if result["step"] < plan.recipe.student.optim.steps and trial.should_prune():
            write_text(plan.folder / STOP, "below the median of earlier trials")

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Make sure there is a record, and tell the study what it says."""
        trial, plan = self._trials.pop(trial_id)
        ledger = self.context.folder.trials
        if error and ledger.get(plan.key) is None:
            close_trial(plan, trial.number, "failed", "its process ended without a word")
        record = ledger.get(plan.key)
        if record is not None:
            self._tell(trial.number, record)
            self._announce(record)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its search for a snapshot that is never restored."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: study and ledger are on storage already."""

    def restore(self, checkpoint_path: str) -> None:
        """Never used: a new driver reads study and ledger."""

    def _open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = self.context.folder.path / "studies" / f"{self.context.dataset.task.name}.journal"
        path.parent.mkdir(parents=True, exist_ok=True)
        mend_journal(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                study_name=f"{self.context.folder.name}/{self.context.dataset}",
                storage=JournalStorage(JournalFileBackend(str(path))),
                direction="maximize",
                pruner=make_pruner(self.context.spec.pruner),
                load_if_exists=True,
            )
        known = len(study.get_trials(deepcopy=False))
        # A sampler that began anew with the same seed would repeat its first suggestions.
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=self.context.spec.sampler.startup_trials,
            seed=self.context.spec.seed + known,
            multivariate=True,
            constant_liar=True,
        )
        for point in self.context.spec.first_points(self.context.dataset):
            named = {label(path): value for path, value in point.items()}
            study.enqueue_trial(named, skip_if_exists=True)
        return study

    def _agree_with_ledger(self) -> list[Trial]:
        """Repair the study from the ledger; returns its trials that have begun but not ended."""
        records = self._records()
        unfinished, seen = [], set()
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state == TrialState.WAITING:
                continue
            values = self._values(frozen.params)
            whole = active(self.context.spec.search, values) == set(values)
            if not whole or misfit(self.context.recipe, self._values(frozen.params)):
                if frozen.state == TrialState.RUNNING:  # killed in the middle of a suggestion
                    self.study.tell(frozen.number, state=TrialState.FAIL)
                continue
            key = self.context.trial(self._values(frozen.params)).key
            record = records.get(key)
            if record is not None:
                seen.add(key)
                self._tell(frozen.number, record)
            elif frozen.state == TrialState.RUNNING:
                unfinished.append(Trial(self.study, frozen._trial_id))
            elif frozen.state != TrialState.FAIL:  # its record was taken away: run it again
                self.study.enqueue_trial(frozen.params)
        for record in sorted(records.values(), key=lambda record: record["number"]):
            if record["key"] not in seen:
                self.study.add_trial(self._from_record(record))
        return unfinished

    def _from_record(self, record: Record) -> FrozenTrial:
        values = {path: record["params"][name] for name, (path, _) in self._space.items()}
        searched = active(self.context.spec.search, values)
        params = {name: values[path] for name, (path, _) in self._space.items() if path in searched}
        curve = read_rows(self.context.folder.trials.folder(record["key"]) / CURVE)
        return create_trial(
            state=_STATES[record["status"]],
            value=_value(record),
            params=params,
            distributions={name: self._space[name][1] for name in params},
            intermediate_values={row["step"]: row["score"] for row in curve},
        )

    def _tell(self, number: int, record: Record) -> None:
        value = _value(record)
        self.study.tell(number, value, state=_STATES[record["status"]], skip_if_finished=True)

    def _records(self) -> dict[str, Record]:
        task = str(self.context.dataset)
        return {r["key"]: r for r in self.context.folder.trials if r["dataset"] == task}

    def _values(self, params: dict[str, Scalar]) -> dict[str, Scalar]:
        """The study's parameters by canonical path."""
        return {self._space[name][0]: value for name, value in params.items()}


class QuietProgress(TrialProgressCallback):
    """Tune's printer of trials, silenced: the driver says how each trial ended."""

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Nothing."""

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        """Nothing."""

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        """Nothing."""


def _value(record: Record) -> float | None:
    return record["selection"]["score"] if record["status"] == "completed" else None
