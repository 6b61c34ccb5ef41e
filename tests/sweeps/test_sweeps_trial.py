"""Real trials in this process, with very small networks: to the end, stopped, and interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.flatten import DIAGNOSTICS as DIAGNOSTIC_COLUMNS
from ractd_core.config import merged
from ractd_core.data.generate import make_local
from ractd_core.data.store import load
from ractd_core.draws import Draws
from ractd_core.evaluate import Evaluation
from ractd_core.files import read_json, write_text
from sweeps.jsonl import read_rows
from sweeps.layout import SweepFolder, TaskContext, TrialPlan
from sweeps.ledger import Record
from sweeps.search_space import Scalar
from sweeps.spec import load_spec
from sweeps.spec_parts import SELECTION_SEED
from sweeps.stage_store import MODEL
from sweeps.trial import CHECKPOINT, CURVE, DIAGNOSTICS, EPISODES, STOP, run_trial
from tests.sweeps.conftest import TINY

pytestmark = pytest.mark.usefixtures("project_home")

Spec = Callable[..., Path]
Start = Callable[..., TaskContext]
Rows = list[dict[str, Any]]
VALUES: dict[str, Scalar] = {"window.horizon": 16, "student.reward_weight": 1e-3}


@pytest.fixture
def start(tiny: Spec, tmp_path: Path) -> Start:
    """A context on a dataset that is there, with a storage of its own and changes to its recipe."""
    data = {"transitions": 1000}
    spec = load_spec(str(tiny(data=data)))
    [dataset] = spec.datasets()
    make_local(dataset, spec.data.recipe())

    def make(storage: str, **recipe: Any) -> TaskContext:
        spec = load_spec(str(tiny(data=data, recipe=merged(TINY["recipe"], recipe))))
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
    assert rows == read_rows(whole.folder / CURVE)
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
    assert (whole.folder / MODEL).exists()
    found = record["diagnostics"]
    assert found == read_json(whole.folder / DIAGNOSTICS)
    assert set(found) == set(DIAGNOSTIC_COLUMNS), "the report reads each by its name"
    # Every state of four episodes of 300 steps, and what followed.
    assert found["reward_pairs_own"] == 4 * 301
    # Where no held-out episode ever met the goal there is no variance to explain.
    assert found["reward_r2_held_out"] is None or found["reward_r2_held_out"] < 1
    assert found["disagreement"] is None
    assert 0 <= found["coverage_high"] <= 1
    assert not (whole.folder / CHECKPOINT).exists()

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
    assert (whole.folder / MODEL).read_bytes() == (cut.folder / MODEL).read_bytes()


def test_every_stage_takes_its_own_micro_batches_and_keeps_its_key(
    tiny: Spec, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    parts = Draws.parts

    def record(self: Draws, size: int) -> list[Draws]:
        sizes.append(size)
        return parts(self, size)

    monkeypatch.setattr(Draws, "parts", record)
    plain, rows, _ = run(start("plain"))
    resources = {"teacher": 5, "reward": 7, "student": 3}
    table = {kind: {"micro_batch": size} for kind, size in resources.items()}
    spec = load_spec(str(tiny(data={"transitions": 1000}, resources=table)))
    folder = SweepFolder(tmp_path / "divided", spec.name)
    folder.freeze(spec)
    sizes.clear()
    divided, divided_rows, outcome = run(replace(plain.context, folder=folder, spec=spec))
    assert outcome is not None
    assert outcome["status"] == "completed"
    assert set(sizes) == set(resources.values())
    assert divided.key == plain.key
    assert divided_rows[0]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-3)


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
    there = {path.name for path in plan.folder.iterdir()}
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
    assert not {path.name for path in plan.folder.iterdir()} & {MODEL, EPISODES, CHECKPOINT}


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
