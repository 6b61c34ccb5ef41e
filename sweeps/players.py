"""The trained models that are played after the search, and playing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ractd_core.config import Recipe, Sampling
from ractd_core.evaluate import evaluate
from ractd_core.policy import Planner, make_policy
from ractd_core.stages import parent_kinds
from sweeps.build import ensure_stage
from sweeps.episodes import add_episodes, played
from sweeps.layout import TaskContext, TrialPlan
from sweeps.ledger import Record
from sweeps.mirror import fetch
from sweeps.search_space import apply, canonical_path
from sweeps.workers import device

_RETRAINED = 1000
"""Where the training seeds of retrained students begin, counted from the trial's own."""


@dataclass(frozen=True)
class Players:
    """One model per training seed, alike but for that.

    ``trained`` has the ``steps`` and ``seconds`` that all of them took, and their ``workers``;
    ``weights`` says whether they are those of the ``last`` step or the ``best`` point of a curve;
    ``diverged`` which training seeds have no model, and why.
    """

    paths: dict[int, Path]
    trained: dict[str, Any]
    weights: str = "last"
    diverged: Mapping[int, str] = field(default_factory=dict)


def plan_of_record(context: TaskContext, trial: Record) -> TrialPlan:
    """The plan of a trial that has a record."""
    values = {canonical_path(name): value for name, value in trial["params"].items()}
    return context.trial({p: v for p, v in values.items() if p in context.spec.search})


def selected_players(context: TaskContext, trial: Record) -> Players:
    """A trial's own students as its rule selects them, or as many as the spec has retrained.

    Retrained students play their last weights whatever the rule: nothing is played while they are
    built. Raises as :meth:`sweeps.stage_store.StageStore.ensure`.
    """
    plan = plan_of_record(context, trial)
    count = context.spec.selection.retrain
    if count:
        first = plan.recipe.student.seed + _RETRAINED
        seeds = range(first, first + count)
        return players_of(
            {seed: build_player(context, "student", plan.recipe, seed) for seed in seeds}
        )
    paths = {seed: plan.selected(seed) for seed in plan.training_seeds}
    for path in paths.values():
        fetch(path)
    trained = {key: trial[key] for key in ("steps", "seconds", "workers")}
    return Players(paths, trained, "best" if plan.keeps_best else "last")


Built = tuple[Path, dict[str, Any]]
"""A stage's model file and manifest."""


def players_of(built: Mapping[int, Built], diverged: Mapping[int, str] | None = None) -> Players:
    """Models that have been built, by training seed, with what all of them took."""
    manifests = [manifest for _, manifest in built.values()]
    trained = {key: sum(each[key] for each in manifests) for key in ("steps", "seconds")}
    trained["workers"] = max((each["workers"] for each in manifests), default=None)
    paths = {seed: path for seed, (path, _) in built.items()}
    return Players(paths, trained, diverged=diverged or {})


def build_player(context: TaskContext, kind: str, recipe: Recipe, seed: int) -> Built:
    """The stage of ``kind`` with a training seed of the student, built if need be."""
    return build_stage(context, kind, apply(recipe, {"student.seed": seed}))


def build_stage(context: TaskContext, kind: str, recipe: Recipe) -> Built:
    """A stage's model file and manifest, after building it and what it is built from."""
    for parent in parent_kinds(kind, recipe):
        build_stage(context, parent, recipe)
    request = context.request(kind, recipe)
    resources = getattr(context.spec.resources, kind, context.spec.resources.student)
    store = context.folder.store
    manifest = ensure_stage(store, request, resources, context.folder.scratch)
    return store.path(request.name), manifest


def play(
    plan: TrialPlan,
    players: Players,
    seeds: range,
    episodes: Path,
    sampling: Sampling | None = None,
    reward: Path | None = None,
) -> None:
    """Add each player's episodes on ``seeds`` to the file ``episodes``, if they are not there."""
    executed = plan.recipe.policy.executed_actions
    done = played(episodes)
    for training_seed, path in players.paths.items():
        if training_seed not in done:
            planner = Planner.load(path, device(), sampling, reward)
            policy = make_policy(planner, executed_actions=executed)
            add_episodes(episodes, training_seed, evaluate(policy, plan.context.dataset, seeds))
