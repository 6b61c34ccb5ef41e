"""The final rows of a task: the winner and its comparisons, on episode seeds never used before.

Rows are ``ractd`` (the winner's students), ``teacher`` (its teacher by Heun over the whole
grid), ``ctd`` (the same student without any reward) and ``ctm`` (nor denoising). Where the reward
belongs is asked by ``teacher-guided`` (the teacher, pulled by the reward model's gradient as it
samples), ``reward-in-teacher`` (the teacher trained with the winner's reward weight, the student
without) and ``reward-in-both``; ``joint`` is the winner's recipe with all its stages trained at
once. Without diffusion there are ``regression`` of a maze's plan from its ends, and elsewhere
``bc``, behaviour cloning. ``rows.py`` says how to name the same by other numbers of calls.

Rows are played first, by as many processes as like to, and timed later, when nothing else runs.
One whose training diverged has a record that says so, with the scores of those of its training
seeds that did not, and is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from ractd_core.bench import plan_latency
from ractd_core.config import Recipe, Sampling
from ractd_core.files import read_json, write_json
from ractd_core.policy import Planner
from ractd_core.training import DivergedError
from sweeps.canonical import key_of
from sweeps.confirmation import confirmation, confirmation_key, winner
from sweeps.episodes import summary
from sweeps.layout import EPISODES, TaskContext, TrialPlan
from sweeps.ledger import Record
from sweeps.mirror import fetch, pull, push
from sweeps.players import (
    Built,
    Players,
    build_player,
    build_stage,
    plan_of_record,
    play,
    players_of,
    selected_players,
)
from sweeps.rows import parse_row, stage_of
from sweeps.search_space import Scalar, apply, label
from sweeps.spec_parts import FINAL_SEED
from sweeps.versions import versions
from sweeps.workers import device, failure_reason, use_threads

PLAYED = "played.json"
_REPETITIONS, _MOST = 10, 200
"""Timed decisions: at least ten, and as many as 200 network calls allow."""
_GUIDED = "teacher-guided"


class RowsFailedError(RuntimeError):
    """Some rows of a table could not be played; the message says which and why."""


def wanted(context: TaskContext, best: Record) -> dict[str, str]:
    """The rows of the table, each with the key of its record.

    The winner's own record says how it was confirmed too, and is another where that changes.
    """
    spec = context.spec
    fixed = [best["key"], spec.evaluation.final_episodes, FINAL_SEED, spec.selection.retrain]
    own = {"ractd": key_of(["ractd", *fixed, confirmation_key(context, best)])}
    return own | {row: key_of([row, *fixed]) for row in spec.rows_of(context.dataset)}


def missing(context: TaskContext) -> list[str]:
    """The rows that have no record yet; none if there is no winner."""
    return list(_unfinished(context))


def to_play(context: TaskContext) -> list[str]:
    """The rows of the winner that have not been played."""
    return [row for row, played in _unfinished(context).items() if not played]


def to_time(context: TaskContext) -> list[str]:
    """The rows that have been played, and not timed."""
    return [row for row, played in _unfinished(context).items() if played]


def _unfinished(context: TaskContext) -> dict[str, bool]:
    """The rows that have no record, and whether they have been played."""
    best, ledger = winner(context), context.folder.rows
    if best is None:
        return {}
    return {
        row: fetch(ledger.folder(key) / PLAYED)
        for row, key in wanted(context, best).items()
        if ledger.get(key) is None
    }


def play_rows(context_json: dict[str, Any]) -> None:
    """Build and play every row that has not been played; divergence is a result like another.

    One that fails otherwise does not keep the others from being played; RowsFailedError names it at
    the end.
    """
    _each(context_json, to_play, _play_row)


def time_rows(context_json: dict[str, Any]) -> None:
    """Time every row that has been played, one after the other, and write its record.

    Times are comparable if nothing else runs meanwhile. Errors as of :func:`play_rows`.
    """
    _each(context_json, to_time, _time_row)


_Step = Callable[[TaskContext, Record, str], None]


def _each(
    context_json: dict[str, Any], todo: Callable[[TaskContext], list[str]], step: _Step
) -> None:
    context = TaskContext.from_json(context_json)
    use_threads(context.spec.resources.student.cpus)
    best = winner(context)
    failed = []
    for row in todo(context):
        assert best is not None
        try:
            step(context, best, row)
        except OSError:
            raise
        except Exception as error:
            failed.append(f"{row}: {failure_reason(error)}")
    if failed:
        raise RowsFailedError("; ".join(failed))


def _play_row(context: TaskContext, best: Record, row: str) -> None:
    plan = plan_of_record(context, best)
    method, sampling = parse_row(row)
    players, own = _players(plan, best, method)
    key = wanted(context, best)[row]
    folder = context.folder.rows.folder(key)
    pull(folder)
    if players.paths:
        seeds = range(FINAL_SEED, FINAL_SEED + context.spec.evaluation.final_episodes)
        guide = _guide(plan, method, sampling)
        play(plan, players, seeds, folder / EPISODES, **guide)
    diverged = [f"training seed {seed}: {why}" for seed, why in players.diverged.items()]
    training_seeds = {*players.paths, *players.diverged}
    confirmed = confirmation(context, best)
    assert confirmed is not None
    chosen = row == "ractd"
    record = {
        **plan.identity(),
        "training_seed": min(training_seeds),
        **own,
        "method": row,
        "trial": best["key"],
        "status": "failed" if diverged else "completed",
        "reason": failure_reason(DivergedError("; ".join(diverged))) if diverged else None,
        "training_seeds": len(training_seeds),
        "weights": players.weights,
        **players.trained,
        "evaluation": summary(folder / EPISODES) if players.paths else None,
        "selection_score": best["selection"]["score"] if chosen else None,
        "confirmation_score": confirmed["confirmation"]["score"] if chosen else None,
    }
    if diverged:
        context.folder.rows.put(key, {"kind": "row", **record, **_ending(device())})
        return
    # Last: a row has been played where this file is.
    write_json(folder / PLAYED, record)
    push(folder, patient=True)


def _time_row(context: TaskContext, best: Record, row: str) -> None:
    plan, where = plan_of_record(context, best), device()
    method, sampling = parse_row(row)
    players, _ = _players(plan, best, method)
    # Weights make no difference: one of the students stands for all.
    planner = Planner.load(
        players.paths[min(players.paths)], where, **_guide(plan, method, sampling)
    )
    latency = plan_latency(planner, repetitions=max(_REPETITIONS, _MOST // planner.calls))
    key = wanted(context, best)[row]
    actions = planner.modelled == "actions"
    record = {
        "kind": "row",
        **read_json(context.folder.rows.folder(key) / PLAYED),
        # Per window, of which a maze's plan has no number of actions.
        "nfe": planner.calls,
        "reward_gradients": planner.gradients,
        "executed_actions": plan.recipe.policy.executed_actions if actions else None,
        "latency_ms": asdict(latency),
        # Where it was timed, which need not be where it was trained or played.
        **_ending(where),
    }
    context.folder.rows.put(key, record)


def _ending(where: torch.device) -> dict[str, Any]:
    return {
        "device": where.type,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def _guide(plan: TrialPlan, method: str, sampling: Sampling) -> dict[str, Any]:
    """How a planner samples, and the reward model that guides it, if one does."""
    if method != _GUIDED:
        return {"sampling": sampling}
    guided = sampling.model_copy(update={"guidance": plan.recipe.policy.guidance})
    return {"sampling": guided, "reward": build_stage(plan.context, "reward", plan.recipe)[0]}


def _players(plan: TrialPlan, best: Record, method: str) -> tuple[Players, dict[str, Any]]:
    """The models that ``method`` plays, built if need be, and what a record says of them alone.

    Students of comparison are trained with the winner's training seeds; a teacher and a regression
    have their own one.
    """
    context = plan.context
    selected = selected_players(context, best)
    if method == "ractd":
        return selected, {}
    values = changes(method, plan.recipe)
    recipe = apply(plan.recipe, values)
    kind = stage_of(method)
    if kind in ("teacher", "regression"):
        params: dict[str, Any] = {"horizon": recipe.window.horizon}
        if method == _GUIDED:
            params["guidance"] = recipe.policy.guidance
        try:
            if method == _GUIDED:
                build_stage(context, "reward", plan.recipe)
            path, manifest = build_stage(context, kind, recipe)
        except DivergedError as error:
            seed = getattr(recipe, kind).seed
            return players_of({}, {seed: str(error)}), {"params": params}
        trained = {key: manifest[key] for key in ("steps", "seconds", "workers")}
        return Players({manifest["config"]["seed"]: path}, trained), {"params": params}
    identity = plan.identity()
    own = {
        "params": identity["params"] | {label(path): v for path, v in values.items()},
        "stages": context.request(kind, recipe).parents,
    }
    built: dict[int, Built] = {}
    diverged: dict[int, str] = {}
    for seed in selected.paths:
        try:
            built[seed] = build_player(context, kind, recipe, seed)
        except DivergedError as error:
            diverged[seed] = str(error)
    return players_of(built, diverged), own


def changes(method: str, recipe: Recipe) -> dict[str, Scalar]:
    """What the student of ``method`` is trained with otherwise than the winner."""
    weight = recipe.student.reward_weight
    unrewarded: dict[str, Scalar] = {"student.reward_weight": 0.0}
    if recipe.teacher.reward_weight:
        unrewarded["teacher.reward_weight"] = 0.0
    by_method: dict[str, dict[str, Scalar]] = {
        "ctd": unrewarded,
        "ctm": {**unrewarded, "student.dsm_weight": 0.0},
        "reward-in-teacher": {"student.reward_weight": 0.0, "teacher.reward_weight": weight},
        "reward-in-both": {"teacher.reward_weight": weight},
    }
    return by_method.get(method, {})
