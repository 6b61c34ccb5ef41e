"""A trial's students: trained and played one training seed after the other, by all its workers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ractd_core.bench import plan_latency
from ractd_core.data.flat import FlatDataset
from ractd_core.data.store import load
from ractd_core.diagnostics import diagnose
from ractd_core.evaluate import Evaluation, evaluate
from ractd_core.files import write_json
from ractd_core.policy import Planner, make_policy
from ractd_core.stages import Model, load_model, make_stage
from ractd_core.training import Metrics, Trainer
from sweeps.episodes import add_episodes, played
from sweeps.interruption import Notices
from sweeps.jsonl import Row, append_row, read_rows, spent
from sweeps.layout import BEST, CURVE, EPISODES, STOP, TrialPlan, plan_of
from sweeps.memory import micro_batch
from sweeps.mirror import fetch, pull, push
from sweeps.selection import best_point
from sweeps.shared_data import bring_data
from sweeps.spec_parts import SELECTION_SEED
from sweeps.stage_store import CHECKPOINT, MODEL
from sweeps.workers import Payload, Report, device, failure_reason

DIAGNOSTICS = "diagnostics.json"
LATENCY = "latency.json"
_TIMED = 50
"""Decisions whose time is taken for the objective ``latency_ms``."""


def selection_seeds(episodes: int) -> range:
    """Seeds of the search; confirmation and final evaluation never use them."""
    return range(SELECTION_SEED, SELECTION_SEED + episodes)


def over_time(plan: TrialPlan) -> bool:
    """Whether the trial has taken more than the budget gives it, resumed or not."""
    hours = plan.context.spec.budget.trial_hours
    return hours is not None and seconds_of(plan) > 3600 * hours


def seconds_of(plan: TrialPlan) -> float:
    """Seconds that the trial's students have been trained and played on the way."""
    return spent(read_rows(plan.folder / CURVE))[0]


def train_students(payload: Payload, report: Report) -> None:
    """Train and score the students; several workers share the episodes, and worker 0 writes.

    Leaves ``curve.jsonl`` and ``episodes.csv`` (the selection episodes) in the trial's folder, and
    in each student's own its weights and ``diagnostics.json``, with a checkpoint after every row of
    the curve until then. A student whose episodes are there is not trained again. ``report`` gets
    the step over all students and the score.

    Once a file ``stop`` is there or the trial's time is over, training ends after the next row and
    nothing else is written. Asking is better than killing: Ray Train's workers outlive a trial that
    is killed and keep their resources.
    """
    plan = plan_of(payload)
    pull(plan.folder)
    store = plan.context.folder.store
    parents = {kind: store.path(name) for kind, name in plan.student.parents.items()}
    for path in parents.values():
        fetch(path)
    context = plan.context
    bring_data(context.folder.storage, context.dataset, context.fingerprint)
    data = load(context.dataset, context.fingerprint)
    done = played(plan.folder / EPISODES)
    for seed in plan.training_seeds:
        student = _Student(plan, seed, parents, data, device(), report)
        if seed in done:
            student.say(student.curve())
        elif not student.train():
            return


@dataclass(frozen=True)
class _Student:
    """One training seed of a trial."""

    plan: TrialPlan
    seed: int
    parents: dict[str, Path]
    data: FlatDataset
    where: torch.device
    report: Report

    @property
    def folder(self) -> Path:
        return self.plan.student_folder(self.seed)

    def curve(self) -> list[Row]:
        rows = read_rows(self.plan.folder / CURVE)
        return [row for row in rows if row["training_seed"] == self.seed]

    def say(self, rows: list[Row]) -> None:
        for row in rows:
            self.report(reported(self.plan, row))

    def train(self) -> bool:
        """Take the student to its episodes; whether the next one is to be trained."""
        plan, spec = self.plan, self.plan.context.spec
        recipe = plan.recipe_of(self.seed)
        stage, normalizers = make_stage("student", recipe, self.data, self.parents, self.where)
        trainer = Trainer(
            stage,
            stage.optim,
            seed=stage.seed,
            device=self.where,
            checkpoint=self.folder / CHECKPOINT,
            identity=f"{plan.key}, seed {self.seed}",
            micro_batch=micro_batch(plan.folder, spec.resources.student),
            compile=spec.resources.student.compile,
            saved=lambda: push(plan.folder),
        )
        before = [row for row in self.curve() if row["step"] <= trainer.step]
        self.say(before)
        if before:
            # It may have been killed between its checkpoint and its weights.
            self._keep_if_best(before, trainer, stage.result(trainer.ema, normalizers))

        def score(trainer: Trainer, metrics: Metrics) -> bool:
            model = stage.result(trainer.ema, normalizers)
            result = self._play(model, spec.evaluation.episodes)
            row: Row = {"training_seed": self.seed, "step": trainer.step, **metrics}
            row |= {"score": result.score, "score_std": result.std}
            row |= {"episodes": spec.evaluation.episodes, "device": self.where.type}
            row |= trainer.lap()
            if trainer.rank == 0:
                append_row(plan.folder / CURVE, row)
            self._keep_if_best(self.curve(), trainer, model)
            self.say([row])
            return fetch(plan.folder / STOP, patient=False) or over_time(plan)

        with Notices(plan.context.folder.path) as interrupted:
            stopped = trainer.run(
                every=spec.evaluation.every, callback=score, interrupted=interrupted
            )
        if trainer.step < stage.optim.steps:
            return False
        model = stage.result(trainer.ema, normalizers)
        result = self._play(model, spec.evaluation.selection_episodes, record=True)
        if trainer.rank == 0:
            model.save(self.folder / MODEL)
            write_json(self.folder / DIAGNOSTICS, self._diagnose(model, result))
            if "latency_ms" in spec.objectives:
                latency = plan_latency(Planner(model, self.where), repetitions=_TIMED)
                write_json(self.folder / LATENCY, asdict(latency))
            # Last: a student is done with where its episodes are.
            add_episodes(plan.folder / EPISODES, self.seed, result)
            push(plan.folder, patient=True)
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return not stopped

    def _keep_if_best(self, curve: list[Row], trainer: Trainer, model: Model) -> None:
        """Keep the weights if this is the best point of the curve so far, and they are wanted.

        The checkpoint is written first: going on from an earlier one, an accelerator's rounding
        could end elsewhere, and the weights would be of a point that the curve does not have.
        """
        if not self.plan.keeps_best or trainer.rank != 0:
            return
        if best_point(curve)["step"] == trainer.step:
            trainer.save()
            model.save(self.folder / BEST)

    def _play(self, model: Model, episodes: int, *, record: bool = False) -> Evaluation:
        executed = self.plan.recipe.policy.executed_actions
        policy = make_policy(Planner(model, self.where), executed_actions=executed)
        seeds = selection_seeds(episodes)
        return evaluate(policy, self.plan.context.dataset, seeds, record=record)

    def _diagnose(self, model: Model, result: Evaluation) -> dict[str, Any]:
        """What :func:`ractd_core.diagnostics.diagnose` finds, or under ``failed`` why it could not.

        A score is worth having without its explanation; only trouble with the storage is raised.
        """
        try:
            reward, teacher = (
                load_model(self.parents[kind], kind, device=self.where)
                for kind in ("reward", "teacher")
            )
            played = result.dataset()
            found = diagnose(
                model, reward, teacher, self.data, played, self.plan.recipe, self.where
            )
            return {**found}
        except OSError:
            raise
        except Exception as error:
            return {"failed": failure_reason(error)}


def reported(plan: TrialPlan, row: Row) -> Row:
    """What the search is told of a row of the curve: the step over all students, and the score."""
    return {"step": plan.overall_step(row), "score": row["score"]}
