"""One trial: teacher and reward from the store, its students, and the record of how it ended."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from filelock import FileLock

from ractd_core.files import read_json, write_json, write_text
from sweeps.background import beside
from sweeps.build import ensure_stage
from sweeps.episodes import played, summary
from sweeps.jsonl import read_rows, spent
from sweeps.layout import ABOUT, CURVE, EPISODES, STOP, TrialPlan, plan_of
from sweeps.ledger import Record
from sweeps.memory import RETRY, with_one_retry
from sweeps.mirror import fetch, pull, push
from sweeps.selection import selection
from sweeps.stage_store import CHECKPOINT
from sweeps.students import (
    DIAGNOSTICS,
    LATENCY,
    over_time,
    reported,
    seconds_of,
    train_students,
)
from sweeps.versions import versions
from sweeps.workers import (
    Payload,
    Report,
    WorkersLostError,
    device,
    failure_reason,
    run_on_workers,
)

_LOOK, _LEAST = 10.0, 60.0
"""Seconds between two looks at whether training hangs, and without a word before it may."""


def run_trial(payload: Payload, report: Report) -> None:
    """Take the trial that ``payload`` describes to its record.

    What goes wrong inside the trial (a loss that is not finite, an error, memory that does not
    suffice even for half the rows at a time, its time being over) becomes a FAILED record with its
    reason, so that the sweep goes on; only trouble with the storage or the loss of workers is
    raised, and :class:`~ractd_core.training.TrainingInterrupted` once there is a checkpoint. A
    trial that has a record is not run again: its scores are reported as they were.
    """
    plan = plan_of(payload)
    plan.folder.mkdir(parents=True, exist_ok=True)
    # The process of a driver that was just killed may be at it for another second.
    with FileLock(plan.folder / "lock"):
        _run(plan, payload, report)


def _run(plan: TrialPlan, payload: Payload, report: Report) -> None:
    if plan.context.folder.trials.get(plan.key) is not None:
        for row in read_rows(plan.folder / CURVE):
            report(reported(plan, row))
        return
    pull(plan.folder)
    write_json(plan.folder / ABOUT, {"number": payload["number"], **plan.identity()})
    push(plan.folder)
    try:
        # One that was killed after it had been asked to stop has no more to do.
        if not fetch(plan.folder / STOP):
            _build_parents(plan)
            _train(plan, payload, report)
        pull(plan.folder)
        close_trial(plan, payload["number"], *_ending(plan))
    except (OSError, WorkersLostError):
        raise
    except Exception as error:
        write_text(plan.folder / "error.txt", traceback.format_exc())
        close_trial(plan, payload["number"], "failed", failure_reason(error))


def _build_parents(plan: TrialPlan) -> None:
    spec, folder = plan.context.spec, plan.context.folder
    for kind in plan.student.parents:
        stage = plan.context.request(kind, plan.recipe)
        # A trial in a process of its own holds its CPUs while it builds: asking for more could
        # wait for ever. Resources do not change a stage's result.
        student, own = spec.resources.student, getattr(spec.resources, kind)
        if student.alone:
            held = student.model_dump(include={"workers", "cpus", "gpus"})
            own = own.model_copy(update=held)
        ensure_stage(folder.store, stage, own, folder.scratch)


def _train(plan: TrialPlan, payload: Payload, report: Report) -> None:
    """Train the students, once more if memory does not suffice."""
    resources, scratch = plan.context.spec.resources.student, plan.context.folder.scratch
    with _watched(plan, payload["number"]):
        with_one_retry(
            lambda: run_on_workers(train_students, payload, resources, scratch, report),
            plan.folder,
            resources,
            plan.recipe.student.optim.batch_size,
        )


@contextmanager
def _watched(plan: TrialPlan, number: int) -> Iterator[None]:
    """End this process, after a record, if training hangs in the block.

    It does if the curve has not grown for as long as a whole trial may take: where it grows, the
    trial's time is looked at with every row.
    """
    hours = plan.context.spec.budget.trial_hours
    if hours is None:
        yield
        return
    limit = max(3600 * hours, _LEAST)

    def watch(over: threading.Event) -> None:
        heard, before = time.monotonic(), len(read_rows(plan.folder / CURVE))
        while not over.wait(_LOOK):
            rows = len(read_rows(plan.folder / CURVE))
            if rows != before:
                heard, before = time.monotonic(), rows
            elif time.monotonic() - heard > limit:
                reason = f"timed out after {hours:g} h without a word (budget.trial_hours)"
                close_trial(plan, number, "failed", reason)
                os._exit(1)  # What hangs cannot be asked to end.

    with beside(watch):
        yield


Saved = frozenset[tuple[Path, int]]


def saved(plan: TrialPlan) -> Saved:
    """The checkpoints that the trial, or who builds its stages, goes on from: they change."""
    store = plan.context.folder.store
    files = [plan.student_folder(seed) / CHECKPOINT for seed in plan.training_seeds]
    files += [store.building(name) / CHECKPOINT for name in plan.student.parents.values()]
    files += [plan.folder / EPISODES]
    return frozenset((path, path.stat().st_mtime_ns) for path in files if path.exists())


def _ending(plan: TrialPlan) -> tuple[str, str | None]:
    """Status and reason of a trial that ended by itself."""
    if set(plan.training_seeds) <= played(plan.folder / EPISODES):
        return "completed", None
    if (plan.folder / STOP).exists():
        return "pruned", (plan.folder / STOP).read_text()
    assert over_time(plan)
    hours, limit = seconds_of(plan) / 3600, plan.context.spec.budget.trial_hours
    return "failed", f"timed out after {hours:.3g} h (budget.trial_hours {limit:g})"


def close_trial(plan: TrialPlan, number: int, status: str, reason: str | None = None) -> None:
    """Write the trial's record from what lies in its folder, then drop its checkpoints."""
    pull(plan.folder)
    rows = read_rows(plan.folder / CURVE)
    completed = status == "completed"
    scored = _selection(plan) if completed else None
    taken, workers = spent(rows)
    seconds = round(taken, 3)
    retry = plan.folder / RETRY
    record: Record = {
        "kind": "trial",
        **plan.identity(),
        "method": "ractd",
        "number": number,
        "status": status,
        "reason": reason,
        "training_seeds": len(plan.training_seeds),
        "steps": plan.overall_step(rows[-1]) if rows else 0,
        "seconds": seconds,
        "device": rows[-1]["device"] if rows else device().type,
        "workers": workers,
        "retries": [read_json(retry)] if retry.exists() else [],
        "selection": scored,
        "objectives": _objectives(plan, scored["score"], seconds) if scored else None,
        "diagnostics": _diagnostics(plan),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    plan.context.folder.trials.put(plan.key, record)
    for seed in plan.training_seeds:
        (plan.student_folder(seed) / CHECKPOINT).unlink(missing_ok=True)


def _selection(plan: TrialPlan) -> dict[str, Any]:
    rows, last = read_rows(plan.folder / CURVE), summary(plan.folder / EPISODES)
    return selection(plan.context.spec.selection, rows, last)


def _objectives(plan: TrialPlan, score: float, seconds: float) -> dict[str, float]:
    """What the search is to improve; seconds are of training, and of playing on the way."""
    found = {"score": score, "seconds": seconds}
    if "latency_ms" in plan.context.spec.objectives:
        files = [plan.student_folder(seed) / LATENCY for seed in plan.training_seeds]
        found["latency_ms"] = fmean(read_json(path)["median"] for path in files)
    return {name: found[name] for name in plan.context.spec.objectives}


def _diagnostics(plan: TrialPlan) -> dict[str, Any] | None:
    """Means over the students that have been diagnosed; None if none has, or why one could not."""
    files = [plan.student_folder(seed) / DIAGNOSTICS for seed in plan.training_seeds]
    found = [read_json(path) for path in files if path.exists()]
    failed = [each for each in found if "failed" in each]
    if failed or not found:
        return failed[0] if failed else None
    values = {name: [each[name] for each in found if each[name] is not None] for name in found[0]}
    return {name: fmean(numbers) if numbers else None for name, numbers in values.items()}
