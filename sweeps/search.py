"""The search of one task: its Optuna study, kept in agreement with the ledger.

Ray's own OptunaSearch writes stopped trials as complete, leaves NaN trials running for ever and
cannot be restored when its study is ahead of Tune's snapshot. Here the ledger decides: the study is
repaired from it at every start, and Tune's snapshot is never restored.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from ractd_core.files import FileError, read_json, write_text
from sweeps.jsonl import read_rows
from sweeps.layout import ABOUT, CURVE, STOP, TaskContext, TrialPlan
from sweeps.ledger import Record
from sweeps.mirror import drop_models, share
from sweeps.search_space import (
    Scalar,
    active,
    is_active,
    is_integer,
    label,
    misfit,
    parameters,
    whole_space,
)
from sweeps.studies import distribution, draw, open_study
from sweeps.trial import Saved, close_trial, saved

_ATTEMPTS = 20
_STATES = {
    "completed": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_PRUNED = {
    "median": "below the median of earlier trials",
    "asha": "not among the best of its rung (successive halving)",
}


class StudySearch:
    """Suggests trials from the task's study and tells it what the ledger says of them.

    ``announce`` is called with each record as its trial ends.
    """

    def __init__(self, context: TaskContext, announce: Callable[[Record], None]) -> None:
        self.context = context
        self._announce = announce
        spec = context.spec
        self._space = {
            label(path): (path, distribution(parameter, is_integer(context.recipe, path)))
            for path, parameter in parameters(spec.search).items()
        }
        self._trials: dict[str, tuple[Trial, TrialPlan]] = {}
        self._saved: dict[str, Saved] = {}
        # What has a record: read once, since only this search's own trials add to it.
        records = self._records()
        self._done = {record["key"] for record in records}
        self._numbers: dict[str, int] = {r["key"]: r["number"] for r in records}
        self._kept: list[Record] = []
        for record in records:
            self._keep(record)
        self.study = open_study(context)
        self._unfinished = self._agree_with_ledger()
        # A study that begins anew has what was given in part as the whole trial that became of it.
        known = [
            trial.params | trial.system_attrs.get("fixed_params", {})
            for trial in self.study.get_trials(deepcopy=False)
        ]
        for point in spec.first_points(context.dataset):
            named = {label(path): value for path, value in point.items()}
            if not any(named.items() <= each.items() for each in known):
                self.study.enqueue_trial(named)

    @property
    def remaining(self) -> int:
        """Trials of the spec that have no record."""
        return self.context.spec.planned_trials(self.context.dataset) - len(self._done)

    @property
    def under_way(self) -> int:
        """Trials that have been suggested and have not ended."""
        return len(self._trials)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's config, an unfinished one first; None if there is nothing left to try.

        No suggestion is a duplicate of a trial that is done or under way.
        """
        if self.remaining <= self.under_way:
            return None
        for trial in islice(self._proposals(), _ATTEMPTS):
            if self._is_new(trial.params):
                return self._begin(trial_id, trial)
            self.study.tell(trial, state=TrialState.FAIL)
        # A sampler need not stumble on the last points of a small space, and a grid has none.
        for point in self._points():
            params = {label(path): value for path, value in point.items()}
            if self._is_new(params):
                self.study.enqueue_trial(params)
                return self._begin(trial_id, self._ask())
        return None

    def _points(self) -> Iterable[dict[str, Scalar]]:
        """The whole of a small space; of a grid with more points than trials a drawn sample."""
        spec = self.context.spec
        points = whole_space(self.context.recipe, spec.search)
        if spec.sampler.kind != "grid":
            return points
        grid = list(points)
        if len(grid) <= spec.trials:
            return grid
        return [grid[index] for index in np.random.default_rng(spec.seed).permutation(len(grid))]

    def _proposals(self) -> Iterator[Trial]:
        while self._unfinished:
            yield self._unfinished.pop(0)
        while self.context.spec.sampler.kind != "grid" or self._enqueued():
            yield self._ask()

    def _enqueued(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

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
        return self.context.trial(values).key not in under_way | self._done

    def _begin(self, trial_id: str, trial: Trial) -> dict[str, Any]:
        plan = self.context.trial(self._values(trial.params))
        self._trials[trial_id] = (trial, plan)
        self._saved[trial_id] = saved(plan)
        return {
            "context": self.context.to_json(),
            "values": plan.values,
            "number": self._number(plan),
        }

    def _number(self, plan: TrialPlan) -> int:
        """The trial's number in the sweep, which it keeps: a study that begins anew has others."""
        if plan.key not in self._numbers:
            self._numbers[plan.key] = max(self._numbers.values(), default=-1) + 1
        return self._numbers[plan.key]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the study a score, and ask the trial to stop if the pruner gives it up."""
        trial, plan = self._trials[trial_id]
        spec = self.context.spec
        if len(spec.objectives) > 1 or result["score"] is None:
            return  # Optuna knows intermediate scores of one objective only, and only numbers
        with warnings.catch_warnings():
            # A continued trial reports the steps again that the study knows already.
            warnings.simplefilter("ignore")
            trial.report(result["score"], result["step"])
        # A trial at its last step is about to write its record: stopping it would gain nothing.
        if result["step"] < plan.steps and trial.should_prune():
            write_text(plan.folder / STOP, _PRUNED[spec.pruner.kind])
            share(plan.folder / STOP, patient=False)

    def on_trial_complete(
        self,
        trial_id: str,
        error: bool = False,
        *,
        crowded: bool = False,
        reason: str | None = None,
    ) -> None:
        """Make sure there is a record, and tell the study what it says.

        ``reason`` is why the trial broke, if it could say so.

        A trial that broke on a ``crowded`` storage is not to blame: it is suggested again. So is
        one whose processes went, as those of a spot instance do, as long as it gets on.
        """
        trial, plan = self._trials.pop(trial_id)
        got_on = self._saved.pop(trial_id) != saved(plan)
        ledger = self.context.folder.trials
        if error and ledger.get(plan.key) is None:
            if crowded or got_on:
                self._unfinished.append(trial)
                return
            reason = reason or "its process ended without a word"
            close_trial(plan, self._number(plan), "failed", reason)
        record = ledger.get(plan.key)
        if record is not None:
            self._done.add(plan.key)
            self._tell(trial.number, record)
            self._keep(record)
            self._announce(record)

    def _keep(self, record: Record) -> None:
        """Delete the students of a trial that the selection will not ask for any more."""
        if self.context.spec.budget.keep == "all":
            return
        if record["status"] != "completed":
            self._drop(record)
            return
        self._kept.append(record)
        # As the winner is found: by score, the earlier one of two equals.
        self._kept.sort(key=lambda r: (-r["selection"]["score"], r["number"]))
        for beaten in self._kept[self.context.spec.selection.top :]:
            self._drop(beaten)
        del self._kept[self.context.spec.selection.top :]

    def _drop(self, record: Record) -> None:
        drop_models(self.context.folder.trials.folder(record["key"]))

    def _agree_with_ledger(self) -> list[Trial]:
        """Repair the study from the ledger; returns its trials that have begun but not ended."""
        records = {record["key"]: record for record in self._records()}
        unfinished, known = [], set()
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state == TrialState.WAITING:
                continue
            values = self._values(frozen.params)
            whole = active(self.context.spec.search, values) == set(values)
            if not whole or misfit(self.context.recipe, self._values(frozen.params)):
                if frozen.state == TrialState.RUNNING:  # killed in the middle of a suggestion
                    self.study.tell(frozen.number, state=TrialState.FAIL)
                    given = frozen.system_attrs.get("fixed_params")
                    if given:
                        self.study.enqueue_trial(given)
                continue
            key = self.context.trial(self._values(frozen.params)).key
            record = records.get(key)
            if record is not None:
                known.add(key)
                self._tell(frozen.number, record)
            elif frozen.state == TrialState.RUNNING:
                known.add(key)
                unfinished.append(Trial(self.study, frozen._trial_id))
            elif frozen.state != TrialState.FAIL:  # its record was taken away: run it again
                self.study.enqueue_trial(frozen.params)
        for record in sorted(records.values(), key=lambda record: record["number"]):
            if record["key"] not in known:
                self.study.add_trial(self._from_record(record))
        waiting = [
            trial.system_attrs.get("fixed_params")
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        ]
        for params in self._begun(known | set(records)):
            # One that failed and is to be run again is in the study, as failed.
            if params not in waiting:
                self.study.enqueue_trial(params)
        return unfinished

    def _begun(self, known: set[str]) -> Iterator[dict[str, Scalar]]:
        """The parameters of trials that began, have no record, and are not ``known``.

        An earlier study began them, before its search was widened or its file lost.
        """
        folder = self.context.folder.trials
        for path in sorted(folder.root.glob(f"*/{ABOUT}")):
            try:
                about = read_json(path)
            except FileError:
                continue
            if about["dataset"] != str(self.context.dataset):
                continue
            self._numbers.setdefault(path.parent.name, about["number"])
            if path.parent.name not in known:
                values = {p: about["params"][name] for name, (p, _) in self._space.items()}
                searched = active(self.context.spec.search, values)
                yield {label(p): value for p, value in values.items() if p in searched}

    def _from_record(self, record: Record) -> FrozenTrial:
        values = {path: record["params"][name] for name, (path, _) in self._space.items()}
        searched = active(self.context.spec.search, values)
        params = {name: values[path] for name, (path, _) in self._space.items() if path in searched}
        plan = self.context.trial({path: values[path] for path in searched})
        several = len(self.context.spec.objectives) > 1
        curve = read_rows(self.context.folder.trials.folder(record["key"]) / CURVE)
        return create_trial(
            state=_STATES[record["status"]],
            values=self._objectives(record),
            params=params,
            distributions={name: self._space[name][1] for name in params},
            intermediate_values={}
            if several
            else {plan.overall_step(row): row["score"] for row in curve},
        )

    def _tell(self, number: int, record: Record) -> None:
        values, state = self._objectives(record), _STATES[record["status"]]
        self.study.tell(number, values, state=state, skip_if_finished=True)

    def _objectives(self, record: Record) -> list[float] | None:
        """What the study is told of a record: nothing but of trials that completed."""
        if record["status"] != "completed":
            return None
        return [record["objectives"][name] for name in self.context.spec.objectives]

    def _records(self) -> list[Record]:
        task = str(self.context.dataset)
        return [record for record in self.context.folder.trials if record["dataset"] == task]

    def _values(self, params: dict[str, Scalar]) -> dict[str, Scalar]:
        """The study's parameters by canonical path."""
        return {self._space[name][0]: value for name, value in params.items()}
