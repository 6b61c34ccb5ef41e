"""One trial: teacher and reward from the store, student, evaluation, diagnostics, record."""

from __future__ import annotations

import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock

from ractd_core.data.flat import FlatDataset
from ractd_core.data.store import load
from ractd_core.diagnostics import diagnose
from ractd_core.evaluate import Evaluation, evaluate
from ractd_core.files import read_json, write_json, write_text
from ractd_core.policy import Planner, make_policy
from ractd_core.stages import Model, load_model, make_stage
from ractd_core.training import DivergedError, Metrics, Trainer
from sweeps.build import ensure_stage
from sweeps.jsonl import Row, append_row, read_rows
from sweeps.layout import TaskContext, TrialPlan, versions
from sweeps.ledger import Record
from sweeps.spec_parts import SELECTION_SEED
from sweeps.stage_store import MODEL
from sweeps.workers import Payload, Report, device, run_on_workers

CURVE = "curve.jsonl"
EPISODES = "episodes.csv"
DIAGNOSTICS = "diagnostics.json"
CHECKPOINT = "checkpoint.safetensors"
STOP = "stop"
ABOUT = "trial.json"
_REASON_LENGTH = 300
_QUANTILES = (5, 25, 50, 75, 95)


def run_trial(payload: Payload, report: Report) -> None:
    """Take the trial that ``payload`` describes to its record.

    What goes wrong inside the trial (a loss that is not finite, an error) becomes a FAILED record
    with its reason, so that the sweep goes on; only trouble with the storage is raised. A trial
    that has a record is not run again: its scores are reported as they were.
    """
    plan = plan_of(payload)
    plan.folder.mkdir(parents=True, exist_ok=True)
    # The process of a driver that was just killed may be at it for another second.
    with FileLock(plan.folder / "lock"):
        _run(plan, payload, report)


def _run(plan: TrialPlan, payload: Payload, report: Report) -> None:
    if plan.context.folder.trials.get(plan.key) is not None:
        for row in read_rows(plan.folder / CURVE):
            report(row)
        return
    write_json(plan.folder / ABOUT, {"number": payload["number"], **plan.identity()})
    spec = plan.context.spec
    scratch = plan.context.folder.scratch
    try:
        for kind in plan.student.parents:
            stage = plan.context.request(kind, plan.recipe)
            # A trial in a process of its own holds its CPUs while it builds: asking for more could
            # wait for ever. Resources do not change a stage's result.
            student, own = spec.resources.student, getattr(spec.resources, kind)
            if student.workers == 1:
                held = student.model_dump(include={"workers", "cpus", "gpus"})
                own = own.model_copy(update=held)
            ensure_stage(plan.context.folder.store, stage, own, scratch)
        run_on_workers(train_student, payload, spec.resources.student, scratch, report)
        if (plan.folder / EPISODES).exists():
            close_trial(plan, payload["number"], "completed")
        else:
            close_trial(plan, payload["number"], "pruned", (plan.folder / STOP).read_text())
    except OSError:
        raise
    except Exception as error:
        write_text(plan.folder / "error.txt", traceback.format_exc())
        close_trial(plan, payload["number"], "failed", failure_reason(error))


def failure_reason(error: Exception) -> str:
    """One line for people; the whole traceback lies in ``error.txt``."""
    if isinstance(error, DivergedError):
        return f"diverged: {error}"
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:_REASON_LENGTH]


def plan_of(payload: Payload) -> TrialPlan:
    """The plan of a trial from its ``context``, ``values`` and ``number``."""
    return TaskContext.from_json(payload["context"]).trial(payload["values"])


def train_student(payload: Payload, report: Report) -> None:
    """Train and score the student; several workers share the episodes, and worker 0 writes.

    Leaves ``curve.jsonl``, ``model.safetensors``, ``diagnostics.json`` and ``episodes.csv`` (the
    selection episodes) in the trial's folder, and a checkpoint after every row of the curve. Once a
    file ``stop`` is there, training ends after the next row and nothing else is written. Asking is
    better than killing: Ray Train's workers outlive a trial that is killed and keep their
    resources.
    """
    plan, where = plan_of(payload), device()
    spec, store = plan.context.spec.evaluation, plan.context.folder.store
    resources = plan.context.spec.resources.student
    parents = {kind: store.path(name) for kind, name in plan.student.parents.items()}
    data = load(plan.context.dataset, plan.context.fingerprint)
    stage, normalizers = make_stage("student", plan.recipe, data, parents, where)
    trainer = Trainer(
        stage,
        stage.optim,
        seed=stage.seed,
        device=where,
        checkpoint=plan.folder / CHECKPOINT,
        identity=plan.key,
        micro_batch=resources.micro_batch,
        compile=resources.compile,
    )
    for row in read_rows(plan.folder / CURVE, up_to=trainer.step):
        report(row)
    clock = time.monotonic()

    def play(model: Model, episodes: int, *, record: bool = False) -> Evaluation:
        executed = plan.recipe.policy.executed_actions
        policy = make_policy(Planner(model, where), executed_actions=executed)
        seeds = selection_seeds(episodes)
        return evaluate(policy, plan.context.dataset, seeds, record=record)

    def score(trainer: Trainer, metrics: Metrics) -> bool:
        nonlocal clock
        row: Row = {"step": trainer.step, **metrics}
        result = play(stage.result(trainer.ema, normalizers), spec.episodes)
        if trainer.rank == 0:
            row |= {"score": result.score, "score_std": result.std, "episodes": spec.episodes}
            row |= {"seconds": time.monotonic() - clock, "device": where.type}
            append_row(plan.folder / CURVE, row)
        clock = time.monotonic()
        report(row)
        return (plan.folder / STOP).exists()

    trainer.run(every=spec.every, callback=score)
    if trainer.step == stage.optim.steps:
        model = stage.result(trainer.ema, normalizers)
        result = play(model, spec.selection_episodes, record=True)
        if trainer.rank == 0:
            model.save(plan.folder / MODEL)
            found = _diagnostics(plan, model, parents, data, result, where)
            write_json(plan.folder / DIAGNOSTICS, found)
            # Last: a trial is complete where this file is.
            write_text(plan.folder / EPISODES, result.csv())


def _diagnostics(
    plan: TrialPlan,
    model: Model,
    parents: dict[str, Path],
    data: FlatDataset,
    result: Evaluation,
    where: torch.device,
) -> dict[str, Any]:
    """What :func:`ractd_core.diagnostics.diagnose` finds, or under ``failed`` why it could not.

    A score is worth having without its explanation; only trouble with the storage is raised.
    """
    try:
        reward, teacher = (load_model(parents[k], k, device=where) for k in ("reward", "teacher"))
        return {**diagnose(model, reward, teacher, data, result.dataset(), plan.recipe, where)}
    except OSError:
        raise
    except Exception as error:
        return {"failed": failure_reason(error)}


def selection_seeds(episodes: int) -> range:
    """Seeds of the search; final evaluation never uses them."""
    return range(SELECTION_SEED, SELECTION_SEED + episodes)


def close_trial(plan: TrialPlan, number: int, status: str, reason: str | None = None) -> None:
    """Write the trial's record from what lies in its folder, then drop its checkpoint."""
    rows = read_rows(plan.folder / CURVE)
    resources = plan.context.spec.resources.student
    now = datetime.now(UTC)
    seconds = sum(row["seconds"] for row in rows)
    found = plan.folder / DIAGNOSTICS
    record: Record = {
        "kind": "trial",
        **plan.identity(),
        "method": "ractd",
        "number": number,
        "status": status,
        "reason": reason,
        "steps": rows[-1]["step"] if rows else 0,
        "seconds": round(seconds, 3),
        "device": rows[-1]["device"] if rows else device().type,
        "workers": resources.workers,
        "selection": _selection(plan) if status == "completed" else None,
        "diagnostics": read_json(found) if found.exists() else None,
        "finished": now.isoformat(timespec="seconds"),
        "versions": versions(),
    }
    plan.context.folder.trials.put(plan.key, record)
    (plan.folder / CHECKPOINT).unlink(missing_ok=True)


def _selection(plan: TrialPlan) -> dict[str, Any]:
    scores = pd.read_csv(plan.folder / EPISODES)["score"]
    return {
        "rule": "last",
        "score": float(scores.mean()),
        "std": float(scores.std()) if len(scores) > 1 else 0.0,
        "episodes": len(scores),
        "first_seed": SELECTION_SEED,
        **{f"q{share:02d}": float(scores.quantile(share / 100)) for share in _QUANTILES},
    }
