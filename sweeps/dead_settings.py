"""Searched fields that no trial reads, given the other settings: noise for a search."""

from __future__ import annotations

from dataclasses import dataclass

from ractd_core.config import Recipe
from ractd_core.tasks import Task
from sweeps.search_space import Choices, Parameter, Scalar, contains, label, value_at
from sweeps.spec_parts import PrunerSpec

_REWARD_TERM = (
    "student.reward_at",
    "student.reward_scale",
    "student.pessimism",
    "student.trust_radius",
)
"""Fields of the student that only its reward term reads."""


@dataclass(frozen=True)
class _Rule:
    """``fields`` (paths, or their beginnings) are read only if ``read``; ``why`` names what not."""

    fields: tuple[str, ...]
    read: bool
    why: str


def may_be(recipe: Recipe, search: dict[str, Parameter], path: str, value: Scalar) -> bool:
    """Whether some trial has ``value`` at ``path``."""
    parameter = search.get(path)
    own = value_at(recipe, path) == value
    if parameter is None:
        return own
    return contains(parameter, value) or (bool(parameter.only_if) and own)


def may_be_positive(recipe: Recipe, search: dict[str, Parameter], path: str) -> bool:
    """Whether some trial has a weight above 0 at ``path``."""
    parameter = search.get(path)
    own = bool(value_at(recipe, path))
    if parameter is None:
        return own
    drawn = parameter.choices if isinstance(parameter, Choices) else (parameter.high,)
    return any(drawn) or (bool(parameter.only_if) and own)


def dead_settings(
    recipe: Recipe, search: dict[str, Parameter], task: Task, pruner: PrunerSpec
) -> dict[str, str]:
    """Searched paths that no trial of ``task`` reads, each with the setting that makes it so."""
    student, teacher, ctm = (
        may_be_positive(recipe, search, path)
        for path in ("student.reward_weight", "teacher.reward_weight", "student.ctm_weight")
    )
    none = f"{label('student.reward_weight')} is 0 in all trials"
    maze = task.domain == "maze2d"
    rules = [
        _Rule(("reward.", "student.reward_states"), student or teacher, none),
        _Rule(_REWARD_TERM, student, none),
        _Rule(
            ("student.solver_steps", "student.target_ema"),
            ctm,
            f"{label('student.ctm_weight')} is 0 in all trials",
        ),
        _Rule(
            ("reward.advantage_steps",),
            may_be(recipe, search, "reward.target", "advantage"),
            "reward.target is never advantage",
        ),
        _Rule(
            ("student.reward_states",),
            maze and may_be(recipe, search, "reward.network", "mlp"),
            "reward.network is conv, which reads whole plans"
            if maze
            else "of a window of actions only the first is scored",
        ),
        _Rule(("window.history",), not maze, "a maze's plan is conditioned on its two ends"),
        _Rule(("student.collapse.",), pruner.kind != "none", "pruner.kind is none"),
    ]
    return {
        path: rule.why
        for rule in reversed(rules)
        for path in search
        if path.startswith(rule.fields) and not rule.read
    }
