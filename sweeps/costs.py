"""What the jobs of a sweep cost, counted from what a step and an episode take."""

from __future__ import annotations

from typing import Protocol

from cluster import JobError
from ractd_core.config import Recipe
from ractd_core.tasks import Task
from sweeps.layout import TaskContext
from sweeps.rows import parse_row, stage_of
from sweeps.step_times import Rate


class CostError(JobError):
    """A cost that is not known."""


class Times(Protocol):
    """What things cost, None where that is not known (:class:`sweeps.step_times.StepTimes`)."""

    def step(self, kind: str, recipe: Recipe, task: Task) -> Rate | None:
        """One training step of a stage, in worker seconds."""
        ...

    def episode(self, recipe: Recipe, task: Task) -> float | None:
        """Seconds of an evaluation episode of full length."""
        ...


class Costs:
    """A worker's seconds of one task's jobs, and in ``sources`` how the times are known.

    Raises :class:`CostError` where they are not.
    """

    def __init__(self, context: TaskContext, times: Times) -> None:
        self._spec, self._times = context.spec, times
        self._task: Task = context.dataset.task
        self._rows = context.spec.rows_of(context.dataset)
        self.sources: set[str] = set()

    def training(self, kind: str, recipe: Recipe) -> float:
        """Of a stage from its start."""
        # What is trained with the student's loss, or without any diffusion, costs at most a
        # student's steps or a teacher's.
        timed = {"regression": "teacher", "joint": "student"}.get(kind, kind)
        rate = self._times.step(timed, recipe, self._task)
        if rate is None:
            raise CostError(f"what a step of a {timed} of {self._task.name} costs is not known")
        self.sources.add(rate.source)
        own = recipe.student if kind == "joint" else getattr(recipe, kind)
        steps: int = own.optim.steps
        return steps * rate.seconds

    def trial(self, recipe: Recipe) -> float:
        """Of a trial's students, and of playing them."""
        evaluation = self._spec.evaluation
        points = -(-recipe.student.optim.steps // evaluation.every)
        episodes = points * evaluation.episodes + evaluation.selection_episodes
        played = episodes * self._episode(recipe)
        return self._spec.training_seeds * (self.training("student", recipe) + played)

    def confirmation(self, recipe: Recipe) -> float:
        """Of one candidate."""
        selection = self._spec.selection
        seeds = selection.retrain or self._spec.training_seeds
        trained = selection.retrain * self.training("student", recipe)
        return trained + seeds * selection.confirmation_episodes * self._episode(recipe)

    def rows(self, recipe: Recipe) -> float:
        """Of all rows: what they train beside the search, and playing them."""
        episodes = self._spec.evaluation.final_episodes
        seeds = self._spec.selection.retrain or self._spec.training_seeds
        total = seeds * episodes * self._episode(recipe)  # the winner's own
        for row in self._rows:
            method, sampling = parse_row(row)
            kind = stage_of(method)
            calls = sampling.calls or (
                2 * recipe.teacher.noise.bins - 2 if kind == "teacher" else 1
            )
            players = seeds if kind in ("student", "joint") else 1
            if kind != "teacher":
                total += players * self.training(kind, recipe)
            total += players * episodes * calls * self._episode(recipe)
        return total

    def _episode(self, recipe: Recipe) -> float:
        seconds = self._times.episode(recipe, self._task)
        if seconds is None:
            raise CostError(f"what an episode of {self._task.name} costs is not known")
        return seconds
