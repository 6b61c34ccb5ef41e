"""The final rows of a task: the best trial and its comparisons, on episode seeds never used before.

Rows are ``ractd`` (the best trial's student), ``teacher`` (its teacher by Heun over the whole
grid), ``ctd`` (the same student without any reward) and ``ctm`` (nor denoising). Where the reward
belongs is asked by ``teacher-guided`` (the teacher, pulled by the reward model's gradient as it
samples), ``reward-in-teacher`` (the teacher trained with the winner's reward weight, the student
without) and ``reward-in-both``; ``joint`` is the winner's recipe with all its stages trained at
once. Without diffusion there are ``regression`` of a maze's plan from its ends, and elsewhere
``bc``, behaviour cloning. ``rows.py`` says how to name the same by other numbers of calls.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ractd_core.bench import plan_latency
from ractd_core.config import Recipe
from ractd_core.evaluate import evaluate
from ractd_core.files import write_text
from ractd_core.policy import Planner, make_policy
from ractd_core.stages import parent_kinds
from ractd_core.training import DivergedError
from sweeps.build import ensure_stage
from sweeps.canonical import key_of
from sweeps.layout import TaskContext, TrialPlan, versions
from sweeps.ledger import Record
from sweeps.rows import parse_row, stage_of
from sweeps.search_space import Scalar, apply, canonical_path, label
from sweeps.spec_parts import FINAL_SEED
from sweeps.stage_store import MODEL
from sweeps.trial import EPISODES, failure_reason
from sweeps.workers import device, use_threads

_REPETITIONS, _MOST = 10, 200
"""Timed decisions: at least ten, and as many as 200 network calls allow."""
_GUIDED = "teacher-guided"


class RowsFailedError(RuntimeError):
    """Some rows of a table could not be played; the message says which and why."""


def winner(context: TaskContext) -> Record | None:
    """The completed trial with the best selection score (the earlier one of two equals)."""
    done = [
        record
        for record in context.folder.trials
        if record["dataset"] == str(context.dataset) and record["status"] == "completed"
    ]
    return max(done, key=lambda r: (r["selection"]["score"], -r["number"]), default=None)


def wanted(context: TaskContext, best: Record) -> dict[str, str]:
    """The rows of the table, each with the key of its record."""
    fixed = [best["key"], context.spec.evaluation.final_episodes, FINAL_SEED]
    return {
        method: key_of([method, *fixed])
        for method in ("ractd", *context.spec.rows_of(context.dataset))
    }


def missing(context: TaskContext) -> list[str]:
    """The rows that have no record yet; none if no trial has completed."""
    best = winner(context)
    if best is None:
        return []
    rows = context.folder.rows
    return [method for method, key in wanted(context, best).items() if rows.get(key) is None]


def evaluate_rows(context_json: dict[str, Any]) -> None:
    """Build, play and time every row that is missing, one after the other: times are comparable.

    One that fails does not keep the others from being played; RowsFailedError names it at the end.
    """
    context = TaskContext.from_json(context_json)
    use_threads(context.spec.resources.student.cpus)
    best = winner(context)
    assert best is not None
    plan = _plan_of(context, best)
    failed = []
    for method in missing(context):
        try:
            _evaluate_row(plan, best, method, wanted(context, best)[method])
        except (ValueError, DivergedError) as error:
            failed.append(f"{method}: {failure_reason(error)}")
    if failed:
        raise RowsFailedError("; ".join(failed))


def _plan_of(context: TaskContext, best: Record) -> TrialPlan:
    values = {canonical_path(name): value for name, value in best["params"].items()}
    return context.trial({p: v for p, v in values.items() if p in context.spec.search})


def _evaluate_row(plan: TrialPlan, best: Record, row: str, key: str) -> None:
    context, where = plan.context, device()
    method, sampling = parse_row(row)
    model = _model(plan, best, method)
    reward = None
    if method == _GUIDED:
        sampling = sampling.model_copy(update={"guidance": plan.recipe.policy.guidance})
        reward, _ = _build(context, "reward", plan.recipe)
    planner = Planner.load(model.path, where, sampling, reward)
    executed = plan.recipe.policy.executed_actions
    count = context.spec.evaluation.final_episodes
    seeds = range(FINAL_SEED, FINAL_SEED + count)
    result = evaluate(make_policy(planner, executed_actions=executed), context.dataset, seeds)
    latency = plan_latency(planner, repetitions=max(_REPETITIONS, _MOST // planner.calls))
    write_text(context.folder.rows.folder(key) / EPISODES, result.csv())
    record = {
        "kind": "row",
        **plan.identity(),
        **model.identity,
        "method": row,
        "trial": best["key"],
        "status": "completed",
        "reason": None,
        **model.trained,
        # Where it was played and timed, which need not be where it was trained.
        "device": where.type,
        # Per window, of which a maze's plan has no number of actions.
        "nfe": planner.calls,
        "reward_gradients": planner.gradients,
        "executed_actions": executed if planner.modelled == "actions" else None,
        "evaluation": {
            "score": result.score,
            "std": result.std,
            "episodes": count,
            "first_seed": FINAL_SEED,
            "return_mean": float(result.returns.mean()),
        },
        "selection_score": best["selection"]["score"] if row == "ractd" else None,
        "latency_ms": asdict(latency),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    context.folder.rows.put(key, record)


@dataclass(frozen=True)
class _RowModel:
    """A row's model file, what its training took, and what its record says of it."""

    path: Path
    trained: dict[str, Any]
    identity: dict[str, Any]


def _model(plan: TrialPlan, best: Record, method: str) -> _RowModel:
    """The model that ``method`` plays, built if need be."""
    context, taken = plan.context, ("steps", "seconds", "workers")
    if method == "ractd":
        path = context.folder.trials.folder(best["key"]) / MODEL
        return _RowModel(path, {key: best[key] for key in taken}, {})
    values = changes(method, plan.recipe)
    recipe = apply(plan.recipe, values)
    kind = stage_of(method)
    request = context.request(kind, recipe)
    path, manifest = _build(context, kind, recipe)
    identity = plan.identity()
    own: dict[str, Any] = {}
    if kind in ("teacher", "regression"):
        own["params"] = {"horizon": recipe.window.horizon}
        if method == _GUIDED:
            own["params"]["guidance"] = recipe.policy.guidance
        own["training_seed"] = request.definition["config"]["seed"]
    else:
        own["params"] = identity["params"] | {label(path): v for path, v in values.items()}
        own["stages"] = request.parents
    return _RowModel(path, {key: manifest[key] for key in taken}, own)


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


def _build(context: TaskContext, kind: str, recipe: Recipe) -> tuple[Path, dict[str, Any]]:
    """A stage's model file and manifest, after building it and what it is built from."""
    for parent in parent_kinds(kind, recipe):
        _build(context, parent, recipe)
    request = context.request(kind, recipe)
    resources = getattr(context.spec.resources, kind, context.spec.resources.student)
    store = context.folder.store
    manifest = ensure_stage(store, request, resources, context.folder.scratch)
    return store.path(request.name), manifest
