"""Real trials in this process, with very small networks: to the end, stopped, and interrupted."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.schema import DIAGNOSTICS as DIAGNOSTIC_COLUMNS
from ractd_core.checkpoint import load_checkpoint
from ractd_core.config import merged
from ractd_core.data.generate import make_local
from ractd_core.data.store import load
from ractd_core.draws import Draws
from ractd_core.evaluate import Evaluation, evaluate
from ractd_core.files import read_json, write_text
from ractd_core.policy import Planner, make_policy
from ractd_core.stages import Model, StudentStage, TeacherStage
from sweeps import trial
from sweeps.jsonl import append_row, read_rows
from sweeps.layout import BEST, CURVE, EPISODES, STOP, SweepFolder, TaskContext, TrialPlan
from sweeps.ledger import Record
from sweeps.memory import RETRY
from sweeps.search_space import Scalar
from sweeps.spec import load_spec
from sweeps.spec_parts import SELECTION_SEED
from sweeps.stage_store import CHECKPOINT, MODEL
from sweeps.students import DIAGNOSTICS, over_time, reported, selection_seeds
from sweeps.trial import run_trial
from sweeps.workers import failure_reason, is_out_of_memory
from tests.sweeps.conftest import TINY
from tests.sweeps.played import open_context, plan_at, played

pytestmark = pytest.mark.usefixtures("project_home")

Spec = Callable[..., Path]
Start = Callable[..., TaskContext]
Rows = list[dict[str, Any]]
VALUES: dict[str, Scalar] = {"window.horizon": 16, "student.reward_weight": 1e-3}


@pytest.fixture
def start(tiny: Spec, tmp_path: Path) -> Start:
    """A context on a dataset that is there, with a storage of its own.

    ``changes`` are of the spec, others of its recipe.
    """
    data = {"transitions": 1000}
    spec = load_spec(str(tiny(data=data)))
    [dataset] = spec.datasets()
    make_local(dataset, spec.data.recipe())

    def make(storage: str, changes: dict[str, Any] | None = None, **recipe: Any) -> TaskContext:
        path = tiny(data=data, recipe=merged(TINY["recipe"], recipe), **changes or {})
        spec = load_spec(str(path))
        folder = SweepFolder(tmp_path / storage, spec.name)
        folder.freeze(spec)
        return TaskContext(folder, spec, dataset, load(dataset).fingerprint)

    return make


def run(
    context: TaskContext, report: Callable[[dict[str, Any]], None] = lambda row: None
) -> tuple[TrialPlan, Rows, Record | None]:
    """Run the trial; its plan, the rows it reported, and its record."""
    plan = context.trial(VALUES)
    rows: Rows = []

    def both(row: dict[str, Any]) -> None:
        rows.append(row)
        report(row)

    run_trial({"context": context.to_json(), "values": VALUES, "number": 3}, both)
    return plan, rows, context.folder.trials.get(plan.key)


def without_clock(rows: Rows) -> Rows:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_an_interrupted_trial_ends_as_if_it_had_not_been(start: Start) -> None:
    whole, rows, record = run(start("whole"))
    assert record is not None
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows == [reported(whole, row) for row in read_rows(whole.folder / CURVE)]
    episodes = pd.read_csv(whole.folder / EPISODES)
    count = whole.context.spec.evaluation.selection_episodes
    assert list(episodes["seed"]) == list(range(SELECTION_SEED, SELECTION_SEED + count))
    selection, scores = record["selection"], np.sort(episodes["score"])
    assert selection["score"] == pytest.approx(scores.mean())
    # Of four scores the quartiles lie a quarter of the way from the second and to the third.
    assert selection["q25"] == pytest.approx(scores[0] + 0.75 * (scores[1] - scores[0]))
    assert selection["q50"] == pytest.approx((scores[1] + scores[2]) / 2)
    assert scores[0] <= selection["q05"] <= selection["q25"]
    assert selection["q75"] <= selection["q95"] <= scores[-1]
    assert (record["status"], record["number"], record["steps"]) == ("completed", 3, 30)
    store = whole.context.folder.store
    assert all(store.find(name) for name in record["stages"].values())
    student = whole.student_folder(0)
    found = record["diagnostics"]
    assert found == read_json(student / DIAGNOSTICS)
    assert set(found) == set(DIAGNOSTIC_COLUMNS), "the report reads each by its name"
    # Every state of four episodes of 300 steps, and what followed.
    assert found["reward_pairs_own"] == 4 * 301
    # Where no held-out episode ever met the goal there is no variance to explain.
    assert found["reward_r2_held_out"] is None or found["reward_r2_held_out"] < 1
    assert found["disagreement"] is None
    assert 0 <= found["coverage_high"] <= 1
    assert {path.name for path in student.iterdir()} == {MODEL, DIAGNOSTICS}

    def interrupt(row: dict[str, Any]) -> None:
        if row["step"] == 20:
            raise KeyboardInterrupt

    again = start("interrupted")
    with pytest.raises(KeyboardInterrupt):
        run(again, interrupt)
    assert list(again.folder.trials) == []
    cut, more, continued = run(again)
    assert continued is not None
    assert more[0]["step"] == 10, "what the search may have missed is reported again"
    curves = [read_rows(plan.folder / CURVE) for plan in (whole, cut)]
    assert without_clock(curves[0]) == without_clock(curves[1])
    assert continued["selection"] == record["selection"]
    assert continued["diagnostics"] == record["diagnostics"]
    assert (whole.folder / EPISODES).read_bytes() == (cut.folder / EPISODES).read_bytes()
    assert whole.selected(0).read_bytes() == cut.selected(0).read_bytes()


def test_every_stage_takes_its_own_micro_batches_and_keeps_its_key(
    tiny: Spec, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    parts = Draws.parts

    def record(self: Draws, size: int) -> list[Draws]:
        sizes.append(size)
        return parts(self, size)

    monkeypatch.setattr(Draws, "parts", record)
    plain, _, _ = run(start("plain"))
    resources = {"teacher": 5, "reward": 7, "student": 3}
    table = {kind: {"micro_batch": size} for kind, size in resources.items()}
    spec = load_spec(str(tiny(data={"transitions": 1000}, resources=table)))
    folder = SweepFolder(tmp_path / "divided", spec.name)
    folder.freeze(spec)
    sizes.clear()
    divided, _, outcome = run(replace(plain.context, folder=folder, spec=spec))
    assert outcome is not None
    assert outcome["status"] == "completed"
    assert set(sizes) == set(resources.values())
    assert divided.key == plain.key
    losses = [read_rows(each.folder / CURVE)[0]["loss"] for each in (plain, divided)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_trial_that_is_asked_to_stop_ends_as_pruned_with_the_reason(start: Start) -> None:
    context = start("stopped")
    folder = context.trial(VALUES).folder

    def give_up(row: dict[str, Any]) -> None:
        write_text(folder / STOP, "no hope")

    plan, rows, record = run(context, give_up)
    assert record is not None
    assert (record["status"], record["reason"], record["selection"]) == ("pruned", "no hope", None)
    assert [row["step"] for row in rows] == [10]
    assert record["steps"] == 10
    there = {path.name for path in plan.folder.rglob("*")}
    assert not there & {MODEL, DIAGNOSTICS, EPISODES, CHECKPOINT}
    assert record["diagnostics"] is None
    # Asked again, as after a kill, it says what it said and does nothing.
    assert run(context)[1:] == (rows, record)


def test_a_trial_that_collapses_is_recorded_as_diverged_with_the_reason(start: Start) -> None:
    # No student is so close to its data: sooner or later it predicts something beyond their range.
    context = start("collapsed", student={"collapse": {"gain": None, "saturation": 1e-9}})
    plan, rows, record = run(context)
    assert record is not None
    assert record["status"] == "failed"
    assert record["reason"].startswith("diverged: collapsed by step ")
    assert "of the data's range (limit 0%)" in record["reason"]
    # What it was scored at until then stays, and nothing is left that could be taken for a result.
    assert len(rows) < 3
    assert record["steps"] == (rows[-1]["step"] if rows else 0)
    assert record["selection"] is None
    assert not {path.name for path in plan.folder.rglob("*")} & {MODEL, EPISODES, CHECKPOINT}


@pytest.mark.parametrize("error", [ValueError("no such window"), OSError("disk full")])
def test_diagnostics_that_fail_do_not_fail_the_trial_unless_the_storage_does(
    start: Start, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(self: Evaluation) -> None:
        raise error

    monkeypatch.setattr(Evaluation, "dataset", fail)
    context = start("failing")
    if isinstance(error, OSError):
        with pytest.raises(OSError, match="disk full"):
            run(context)
        assert list(context.folder.trials) == []
        return
    _, _, record = run(context)
    assert record is not None
    assert record["status"] == "completed"
    assert record["diagnostics"] == {"failed": "ValueError: no such window"}
    assert record["selection"]["episodes"] == 4


# Several training seeds


SEEDS = {"training_seeds": 2, "selection": {"rule": "best"}}


def test_a_trial_cut_short_in_its_second_student_ends_as_if_it_had_not_been(start: Start) -> None:
    asked = {**SEEDS, "objectives": ["score", "seconds", "latency_ms"]}
    asked |= {"pruner": {"kind": "diverged"}}
    short = {"optim": {"steps": 20}}
    whole, rows, record = run(start("whole", asked, student=short))
    assert record is not None
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    curve = read_rows(whole.folder / CURVE)
    assert [(row["training_seed"], row["step"]) for row in curve] == [
        (seed, step) for seed in (0, 1) for step in (10, 20)
    ]
    selection = record["selection"]
    assert (record["steps"], record["training_seeds"]) == (40, 2)
    assert record["seconds"] == pytest.approx(sum(row["seconds"] for row in curve), abs=1e-3)
    assert set(record["objectives"]) == {"score", "seconds", "latency_ms"}
    assert record["objectives"]["score"] == selection["score"] == selection["best"]
    assert record["objectives"]["seconds"] == record["seconds"]
    assert 0 < record["objectives"]["latency_ms"] < 1000

    def interrupt(row: dict[str, Any]) -> None:
        if row["step"] == 40:
            raise KeyboardInterrupt

    again = start("interrupted", asked, student=short)
    with pytest.raises(KeyboardInterrupt):
        run(again, interrupt)
    first = again.trial(VALUES).selected(0)
    finished = first.stat().st_mtime_ns
    cut, more, continued = run(again)
    assert continued is not None
    assert [row["step"] for row in more] == [10, 20, 30, 40]
    assert first.stat().st_mtime_ns == finished, "a finished student was trained again"
    assert without_clock(read_rows(cut.folder / CURVE)) == without_clock(curve)
    assert continued["selection"] == selection
    for seed in (0, 1):
        for name in (MODEL, BEST):
            one, other = (plan.student_folder(seed) / name for plan in (whole, cut))
            assert one.read_bytes() == other.read_bytes(), (seed, name)
    assert whole.selected(0).read_bytes() != whole.selected(1).read_bytes()

    # Of each student the weights of its best step are kept: they play its best score again.
    dataset, episodes = whole.context.dataset, whole.context.spec.evaluation.episodes
    for student in selection["seeds"]:
        seed = student["training_seed"]
        scores = {row["step"]: row["score"] for row in curve if row["training_seed"] == seed}
        assert student["best"] == scores[student["best_step"]] == max(scores.values())
        planner = Planner.load(whole.selected(seed), torch.device("cpu"))
        result = evaluate(make_policy(planner), dataset, selection_seeds(episodes))
        assert result.score == student["best"]


class _Killed(BaseException):
    """A process that ends at this point."""


def test_weights_that_a_kill_kept_from_being_written_come_from_the_checkpoint(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between checkpoint and weights, whichever point was the best."""
    whole, _, record = run(start("whole", {"selection": {"rule": "best"}}))
    assert record is not None
    best_step = record["selection"]["seeds"][0]["best_step"]
    again = start("killed", {"selection": {"rule": "best"}})
    plan, save = again.trial(VALUES), Model.save

    def killed(self: Model, path: Path) -> None:
        if path.name == BEST and len(read_rows(plan.folder / CURVE)) * 10 == best_step:
            raise _Killed
        save(self, path)

    monkeypatch.setattr(Model, "save", killed)
    with pytest.raises(_Killed):
        run(again)
    assert load_checkpoint(plan.student_folder(0) / CHECKPOINT)[1]["step"] == best_step
    monkeypatch.setattr(Model, "save", save)
    run(again)
    assert plan.selected(0).read_bytes() == whole.selected(0).read_bytes()


def test_a_stop_at_the_end_of_a_student_ends_the_trial_before_the_next(start: Start) -> None:
    context = start("stopped", {"training_seeds": 2})
    folder = context.trial(VALUES).folder

    def give_up(row: dict[str, Any]) -> None:
        if row["step"] == 30:
            write_text(folder / STOP, "no hope")

    plan, rows, record = run(context, give_up)
    assert record is not None
    assert (record["status"], record["reason"], record["selection"]) == ("pruned", "no hope", None)
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert record["steps"] == 30
    assert not plan.student_folder(1).exists()


def test_a_trial_that_was_killed_after_it_had_been_asked_to_stop_trains_no_more(
    start: Start,
) -> None:
    context = start("stopped")
    plan = context.trial(VALUES)
    row = {"training_seed": 0, "step": 10, "score": 1.0, "seconds": 1.0, "device": "cpu"}
    append_row(plan.folder / CURVE, row)
    write_text(plan.folder / STOP, "no hope")
    _, rows, record = run(context)
    assert record is not None
    assert (record["status"], record["reason"], record["steps"]) == ("pruned", "no hope", 10)
    assert rows == []
    assert not context.folder.store.root.exists()


# What guards a trial


def test_a_trial_whose_time_is_over_has_failed(start: Start) -> None:
    context = start("slow", {"budget": {"trial_hours": 1e-9}})
    plan, rows, record = run(context)
    assert record is not None
    assert record["status"] == "failed"
    assert record["reason"].startswith("timed out after ")
    assert "budget.trial_hours 1e-09" in record["reason"]
    assert [row["step"] for row in rows] == [10]
    assert not {path.name for path in plan.folder.rglob("*")} & {MODEL, EPISODES, CHECKPOINT}


def test_a_trial_that_hangs_is_over_its_time_too(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def hang(self: StudentStage, draws: Draws) -> Any:
        assert ended.wait(60)
        raise RuntimeError("the process has gone")

    monkeypatch.setattr(StudentStage, "forward", hang)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(trial, "_LOOK", 0.05)
    monkeypatch.setattr(trial, "_LEAST", 0.5)
    context = start("hangs", {"budget": {"trial_hours": 1e-9}})
    _, rows, record = run(context)
    assert rows == []
    assert record is not None
    assert record["status"] == "failed"
    assert record["reason"].startswith("timed out after 1e-09 h without a word")


@pytest.mark.parametrize(("seconds", "over"), [(6.1, False), (5.9, True)])
def test_a_trials_time_is_what_its_curve_says_resumed_or_not(
    tiny: Spec, tmp_path: Path, seconds: float, over: bool
) -> None:
    budget = {"trial_hours": seconds / 3600}
    plan = plan_at(open_context(tiny, tmp_path / "storage", budget=budget), 1e-3)
    played(plan)  # three rows of two seconds each
    assert over_time(plan) == over


def test_every_way_to_say_that_memory_is_short_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value), "torch's own, on the CPU"
    assert is_out_of_memory(SHORT)
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(MemoryError())
    assert failure_reason(caught.value).startswith("out of memory: ")
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))


SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def short_of_memory(monkeypatch: pytest.MonkeyPatch, rows: int, error: Exception) -> None:
    """From the twelfth step on, memory is enough for ``rows`` rows of a student's batch."""
    forward, calls = StudentStage.forward, itertools.count(1)

    def measured(self: StudentStage, draws: Draws) -> Any:
        if next(calls) >= 12 and draws.rows > rows:
            raise error
        return forward(self, draws)

    monkeypatch.setattr(StudentStage, "forward", measured)


def test_out_of_memory_is_tried_once_more_with_half_the_rows(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 8, SHORT)
    plan, rows, record = run(start("once"))
    assert record is not None
    assert (record["status"], record["reason"]) == ("completed", None)
    assert record["retries"] == [{"micro_batch": 8, "reason": failure_reason(SHORT)}]
    # The second time goes on from the checkpoint of step 10, whose score is reported again.
    assert [row["step"] for row in rows] == [10, 10, 20, 30]
    assert [row["step"] for row in read_rows(plan.folder / CURVE)] == [10, 20, 30]


def test_out_of_memory_a_second_time_fails_the_trial(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 7, SHORT)
    context = start("twice")
    _, rows, record = run(context)
    assert record is not None
    assert record["status"] == "failed"
    assert record["reason"].startswith("out of memory: CUDA out of memory")
    assert [retry["micro_batch"] for retry in record["retries"]] == [8]
    assert [row["step"] for row in rows] == [10, 10]


def test_a_stage_is_tried_once_more_with_half_the_rows_too(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TeacherStage.forward

    def measured(self: TeacherStage, draws: Draws) -> Any:
        if draws.rows > 8:
            raise SHORT
        return forward(self, draws)

    monkeypatch.setattr(TeacherStage, "forward", measured)
    plan, _, record = run(start("stage"))
    assert record is not None
    assert record["status"] == "completed"
    assert record["retries"] == [], "the student had memory enough"
    store = plan.context.folder.store
    assert read_json(store.root / plan.student.parents["teacher"] / RETRY)["micro_batch"] == 8
    assert not (store.root / plan.student.parents["reward"] / RETRY).exists()


def test_a_full_disk_is_raised_and_leaves_no_record(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 0, OSError(errno.ENOSPC, "No space left on device"))
    context = start("full")
    with pytest.raises(OSError, match="No space left"):
        run(context)
    assert list(context.folder.trials) == []
