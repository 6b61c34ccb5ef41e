"""Trials as they lie on storage when they have been played, without playing any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sweeps.confirmation import confirmation_key
from sweeps.jsonl import append_row
from sweeps.layout import CURVE, EPISODES, SweepFolder, TaskContext, TrialPlan
from sweeps.ledger import Record
from sweeps.players import selected_players
from sweeps.spec import load_spec
from sweeps.spec_parts import CONFIRMATION_SEED, SELECTION_SEED
from sweeps.stage_store import CHECKPOINT
from sweeps.trial import close_trial

Spec = Callable[..., Path]
SCORES = (80.0, 90.0, 100.0)


def open_context(tiny: Spec, storage: Path, index: int = 0, **changes: Any) -> TaskContext:
    spec = load_spec(str(tiny(**changes)))
    folder = SweepFolder(storage, spec.name)
    folder.freeze(spec)
    return TaskContext(folder, spec, spec.datasets()[index], "f" * 64)


def plan_at(context: TaskContext, sigma: float) -> TrialPlan:
    return context.trial({"window.horizon": 16, "student.reward_weight": sigma})


def write_episodes(
    path: Path, training_seeds: Sequence[int], first: int, scores: Sequence[float]
) -> None:
    """The same scores for each training seed; returns are half of them."""
    lines = [
        f"{training_seed},{first + index},{score / 2},{score},300,0"
        for training_seed in training_seeds
        for index, score in enumerate(scores)
    ]
    header = "training_seed,seed,return,score,length,terminated"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines, ""]))


def played(plan: TrialPlan, scores: Sequence[float] = SCORES, steps: int = 30) -> None:
    """The files of a trial that has been scored every ten steps and played its last episodes."""
    for seed in plan.training_seeds:
        for step in range(10, steps + 1, 10):
            row = {"training_seed": seed, "step": step, "loss": 0.5, "score": step / 2}
            row |= {"score_std": 1.0, "episodes": 3, "seconds": 2.0}
            append_row(plan.folder / CURVE, {**row, "device": "cpu"})
        folder = plan.student_folder(seed)
        folder.mkdir(exist_ok=True)
        (folder / CHECKPOINT).write_bytes(b"half way")
    write_episodes(plan.folder / EPISODES, plan.training_seeds, SELECTION_SEED, scores)


def close(context: TaskContext, number: int, status: str, score: float = 0.0) -> Record:
    plan = plan_at(context, number / 1000)
    played(plan, (score - 1, score + 1))
    close_trial(plan, number, status, None if status == "completed" else "because")
    record = context.folder.trials.get(plan.key)
    assert record is not None
    return record


def write_confirmation(context: TaskContext, trial: Record, score: float) -> None:
    """As if a trial's students had just played their confirmation, with a mean of ``score``."""
    ledger = context.folder.confirmations
    seeds = list(selected_players(context, trial).paths)
    path = ledger.folder(confirmation_key(context, trial)) / EPISODES
    write_episodes(path, seeds, CONFIRMATION_SEED, (score - 2, score + 2))
