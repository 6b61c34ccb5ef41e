"""The final rows of a task: the best trial and its comparisons, on episode seeds never used before.

Rows are ``ractd`` (the best trial's student), ``teacher`` (its teacher by Heun over the whole
grid), ``ctd`` (the same student without reward), ``ctm`` (nor denoising) and ``regression``
(without diffusion: a maze's plan from its ends, elsewhere behaviour cloning); ``rows.py`` says how
to name the same by other numbers of calls.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ractd_core.bench import plan_latency
from ractd_core.evaluate import evaluate
from ractd_core.files import write_text
from ractd_core.policy import Planner, make_policy
from ractd_core.training import DivergedError
from sweeps.build import ensure_stage
from sweeps.canonical import key_of
from sweeps.layout import TaskContext, TrialPlan, versions
from sweeps.ledger import Record
from sweeps.rows import parse_row
from sweeps.search_space import Scalar, apply, canonical_path
from sweeps.spec import FINAL_SEED
from sweeps.stage_store import MODEL, StageRequest
from sweeps.trial import EPISODES, failure_reason
from sweeps.workers import device, use_threads

_REPETITIONS, _MOST = 10, 200
"""Timed decisions: at least ten, and as many as 200 network calls allow."""
_WITHOUT: dict[str, dict[str, Scalar]] = {
    "ctd": {"student.reward_weight": 0.0},
    "ctm": {"student.reward_weight": 0.0, "student.dsm_weight": 0.0},
}


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


def _evaluate_row(plan: TrialPlan, best: Record, method: str, key: str) -> None:
    context, where = plan.context, device()
    kind, sampling = parse_row(method)
    path, request, trained = _model(plan, best, kind)
    planner = Planner.load(path, where, sampling)
    count = context.spec.evaluation.final_episodes
    seeds = range(FINAL_SEED, FINAL_SEED + count)
    result = evaluate(make_policy(planner), context.dataset, seeds)
    latency = plan_latency(planner, repetitions=max(_REPETITIONS, _MOST // planner.calls))
    write_text(context.folder.rows.folder(key) / EPISODES, result.csv())
    identity = plan.identity()
    if kind in _WITHOUT:
        identity["params"] |= {path.split(".")[1]: 0.0 for path in _WITHOUT[kind]}
    elif kind != "ractd":
        identity["params"] = {"horizon": plan.recipe.window.horizon}
        identity["training_seed"] = request.definition["config"]["seed"]
    record = {
        "kind": "row",
        **identity,
        "method": method,
        "trial": best["key"],
        "status": "completed",
        "reason": None,
        **trained,
        # Where it was played and timed, which need not be where it was trained.
        "device": where.type,
        "nfe": planner.calls,
        "evaluation": {
            "score": result.score,
            "std": result.std,
            "episodes": count,
            "first_seed": FINAL_SEED,
            "return_mean": float(result.returns.mean()),
        },
        "selection_score": best["selection"]["score"] if method == "ractd" else None,
        "latency_ms": asdict(latency),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    context.folder.rows.put(key, record)


def _model(plan: TrialPlan, best: Record, kind: str) -> tuple[Path, StageRequest, dict[str, Any]]:
    """The model of a row of this kind, built if need be, and what its training took."""
    context = plan.context
    taken = ("steps", "seconds", "workers")
    if kind == "ractd":
        path = context.folder.trials.folder(best["key"]) / MODEL
        return path, plan.student, {key: best[key] for key in taken}
    recipe = apply(plan.recipe, _WITHOUT.get(kind, {}))
    stage = "student" if kind in _WITHOUT else kind
    request = context.request(stage, recipe)
    resources = getattr(context.spec.resources, stage, context.spec.resources.student)
    store = context.folder.store
    manifest = ensure_stage(store, request, resources, context.folder.scratch)
    return store.path(request.name), request, {key: manifest[key] for key in taken}
