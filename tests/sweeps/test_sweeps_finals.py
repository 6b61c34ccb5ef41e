"""What trials leave behind: records that analysis can read, the winner, and the final rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import analysis
from analysis.runs import runs_of
from analysis.tables import benchmark_table
from ractd_core.bench import Latency, plan_latency
from ractd_core.data.flat import FlatDataset
from ractd_core.data.generate import make_local
from ractd_core.data.store import Original, load, put
from ractd_core.evaluate import Evaluation, evaluate
from ractd_core.files import read_json, write_json, write_text
from ractd_core.policy import Planner, make_policy
from ractd_core.tasks import DatasetName
from ractd_core.training import DivergedError
from sweeps.canonical import key_of
from sweeps.confirmation import confirm, confirmation, winner
from sweeps.finals import (
    PLAYED,
    RowsFailedError,
    changes,
    missing,
    play_rows,
    time_rows,
    to_play,
    to_time,
    wanted,
)
from sweeps.jsonl import append_row, read_rows
from sweeps.layout import CURVE, EPISODES, TaskContext
from sweeps.ledger import Record
from sweeps.search_space import apply
from sweeps.spec_parts import FINAL_SEED, SELECTION_SEED
from sweeps.stage_store import CHECKPOINT, DIVERGED, MODEL
from sweeps.students import reported, selection_seeds
from sweeps.trial import close_trial, run_trial
from sweeps.workers import failure_reason
from tests.sweeps.conftest import TINY
from tests.sweeps.played import Spec, close, open_context, plan_at, played, write_confirmation

pytestmark = pytest.mark.usefixtures("project_home")


@pytest.fixture
def context(tiny: Spec, tmp_path: Path) -> TaskContext:
    return open_context(tiny, tmp_path / "storage")


def crowned(context: TaskContext, number: int, score: float) -> Record:
    """A completed trial with the best selection score, that keeps it when it is confirmed."""
    record = close(context, number, "completed", score)
    write_confirmation(context, record, score)
    confirm(context.to_json())
    return record


def finish(context: TaskContext) -> None:
    """Play and time every row."""
    sent = json.loads(json.dumps(context.to_json()))
    play_rows(sent)
    time_rows(sent)


def few_steps() -> dict[str, Any]:
    """The tiny recipe with as little training as it takes."""
    return {
        part: {**config, "optim": {**config["optim"], "steps": 6}}
        for part, config in TINY["recipe"].items()
    }


def with_data(context: TaskContext) -> TaskContext:
    """The same sweep, whose data are there."""
    return TaskContext(
        context.folder, context.spec, context.dataset, load(context.dataset).fingerprint
    )


def with_a_winner(context: TaskContext) -> TaskContext:
    """The same sweep with its data, one trial that ran for real, and its confirmation."""
    write_json(context.folder.path / "sweep.json", {"created": "2026-01-05T10:00:00+00:00"})
    make_local(context.dataset, context.spec.data.recipe())
    ready = with_data(context)
    plan = plan_at(ready, 1e-3)
    run_trial({"context": ready.to_json(), "values": plan.values, "number": 0}, lambda row: None)
    confirm(ready.to_json())
    return ready


# A trial's record


def test_a_completed_trials_record_says_how_it_was_chosen(context: TaskContext) -> None:
    plan = plan_at(context, 1e-3)
    played(plan)
    close_trial(plan, 4, "completed")
    record = context.folder.trials.get(plan.key)
    assert record is not None
    assert (record["kind"], record["method"], record["number"]) == ("trial", "ractd", 4)
    assert (record["status"], record["reason"]) == ("completed", None)
    assert (record["steps"], record["seconds"], record["device"]) == (30, 6.0, "cpu")
    assert record["workers"] == context.spec.resources.student.workers
    assert (record["training_seeds"], record["retries"]) == (1, [])
    assert record["objectives"] == {"score": 90.0}
    assert record["selection"] == {
        "rule": "last",
        "score": 90.0,
        "last": 90.0,
        # Scores of 5, 10 and 15 after 10, 20 and 30 steps.
        "best": 15.0,
        "mean_of_last": 10.0,
        "seeds": [
            {
                "training_seed": 0,
                "last": 90.0,
                "best": 15.0,
                "best_step": 30,
                "mean_of_last": 10.0,
            }
        ],
        "std": 10.0,
        "episodes": 3,
        "first_seed": SELECTION_SEED,
        # Between the scores 80, 90 and 100, linearly.
        "q05": pytest.approx(81.0),
        "q25": pytest.approx(85.0),
        "q50": pytest.approx(90.0),
        "q75": pytest.approx(95.0),
        "q95": pytest.approx(99.0),
    }
    assert record.items() >= plan.identity().items()
    assert not (plan.student_folder(0) / CHECKPOINT).exists()


def test_a_winner_that_is_confirmed_otherwise_has_another_row_of_its_own(
    context: TaskContext,
) -> None:
    """Its row says how it was confirmed; the rows that it is compared with do not."""
    best = crowned(context, 0, 80.0)
    before = wanted(context, best)
    selection = context.spec.selection.model_copy(update={"confirmation_episodes": 9})
    spec = context.spec.model_copy(update={"selection": selection})
    extended = TaskContext(context.folder, spec, context.dataset, context.fingerprint)
    after = wanted(extended, best)
    assert [row for row in before if before[row] != after[row]] == ["ractd"]
    assert before.keys() == after.keys()


@pytest.mark.parametrize("status", ["pruned", "failed"])
def test_an_unfinished_trial_has_no_selection_but_what_it_took(
    context: TaskContext, status: str
) -> None:
    plan = plan_at(context, 1e-3)
    played(plan, steps=20)
    close_trial(plan, 4, status, "because")
    record = context.folder.trials.get(plan.key)
    assert record is not None
    assert (record["status"], record["reason"]) == (status, "because")
    assert record["selection"] is None
    assert (record["steps"], record["seconds"]) == (20, 4.0)


def test_a_trial_that_never_scored_can_be_closed(context: TaskContext) -> None:
    plan = plan_at(context, 1e-3)
    close_trial(plan, 0, "failed", "because")
    record = context.folder.trials.get(plan.key)
    assert record is not None
    assert (record["steps"], record["seconds"]) == (0, 0)


def test_closing_again_changes_nothing(context: TaskContext) -> None:
    plan = plan_at(context, 1e-3)
    played(plan)
    close_trial(plan, 4, "completed")
    before = context.folder.trials.get(plan.key)
    close_trial(plan, 4, "pruned", "too late")
    assert context.folder.trials.get(plan.key) == before


def test_one_selection_episode_is_enough(context: TaskContext) -> None:
    """A spec may ask for one; its spread is then 0, as in the curve, not a missing number."""
    plan = plan_at(context, 1e-3)
    played(plan, (42.0,))
    close_trial(plan, 0, "completed")
    record = context.folder.trials.get(plan.key)
    assert record is not None
    assert (record["selection"]["score"], record["selection"]["std"]) == (42.0, 0.0)


def test_analysis_reads_every_field_of_the_records(tiny: Spec, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    context = open_context(tiny, storage)
    write_json(context.folder.path / "sweep.json", {"created": "2026-01-05T10:00:00+00:00"})
    records = [
        close(context, number, status, 10.0 * number)
        for number, status in enumerate(["completed", "pruned", "failed", "completed"])
    ]
    begun = plan_at(context, 0.5)
    append_row(begun.folder / CURVE, {"training_seed": 0, "step": 10, "score": 1.0})
    for kind in ("teacher", "reward"):
        request = context.request(kind, begun.recipe)

        def build(folder: Path) -> dict[str, Any]:
            (folder / MODEL).write_bytes(b"weights")
            took = {"steps": 30, "loss": 0.5, "seconds": 2.0, "workers": 2}
            return took | {"device": "cpu", "device_seconds": 4.0}

        context.folder.store.ensure(request, build)

    sweep = analysis.load(storage, [context.folder.name])
    assert sweep.unfinished_trials == 1
    frame = sweep.trials.set_index("number")
    assert len(frame) == 4
    for record in records:
        line = frame.loc[record["number"]]
        for name in ("key", "status", "dataset", "fingerprint", "steps", "seconds", "device"):
            assert line[name] == record[name]
        assert line["horizon"] == 16
        assert line["reward_weight"] == record["number"] / 1000
        if record["selection"]:
            assert line["selection_score"] == record["selection"]["score"]
            assert line["selection_first_seed"] == SELECTION_SEED
    assert list(sweep.curves.groupby("number").size()) == [3, 3, 3, 3]
    assert set(sweep.stages["kind"]) == {"teacher", "reward"}
    assert set(sweep.stages["device_seconds"]) == {4.0}
    assert set(sweep.stages.loc[sweep.stages["kind"] == "teacher", "horizon"]) == {16.0}
    assert len(sweep.uses) == 8


# Running a trial again, and trials that fail


def test_a_trial_with_a_record_is_not_run_again_but_its_scores_are_reported(
    context: TaskContext,
) -> None:
    plan = plan_at(context, 1e-3)
    played(plan)
    close_trial(plan, 4, "completed")
    before = {path: path.stat().st_mtime_ns for path in plan.folder.iterdir() if path.suffix}
    told: list[dict[str, Any]] = []
    run_trial({"context": context.to_json(), "values": plan.values, "number": 9}, told.append)
    assert told == [reported(plan, row) for row in read_rows(plan.folder / CURVE)]
    assert [row["step"] for row in told] == [10, 20, 30]
    after = {path: path.stat().st_mtime_ns for path in plan.folder.iterdir() if path.suffix}
    assert after == before
    assert not context.folder.store.root.exists(), "a stage was built for nothing"


def test_an_error_inside_a_trial_becomes_its_record(context: TaskContext) -> None:
    """There are no data here."""
    plan = plan_at(context, 1e-3)
    run_trial({"context": context.to_json(), "values": plan.values, "number": 2}, lambda row: None)
    record = context.folder.trials.get(plan.key)
    assert record is not None
    assert (record["status"], record["number"]) == ("failed", 2)
    assert record["reason"].startswith("DataError: dataset local/maze2d-umaze-v1 is not under ")
    assert "Traceback" in (plan.folder / "error.txt").read_text()


def test_trouble_with_the_storage_is_raised_and_leaves_no_record(
    context: TaskContext,
) -> None:
    context.folder.store.root.parent.mkdir(parents=True, exist_ok=True)
    context.folder.store.root.write_text("a file where a folder should be")
    plan = plan_at(context, 1e-3)
    payload = {"context": context.to_json(), "values": plan.values, "number": 2}
    with pytest.raises(OSError, match="stages"):
        run_trial(payload, lambda row: None)
    assert context.folder.trials.get(plan.key) is None


def test_a_diverged_trial_says_so() -> None:
    assert failure_reason(DivergedError("loss not finite at step 7")) == (
        "diverged: loss not finite at step 7"
    )


@given(st.text(max_size=1000))
def test_a_reason_is_one_short_line_with_the_kind_of_error(text: str) -> None:
    reason = failure_reason(ValueError(text))
    assert reason.startswith("ValueError: ")
    assert len(reason) <= 300
    assert len(reason.splitlines()) == 1
    kept = reason.removeprefix("ValueError: ").split()
    if not text.split():
        assert kept == ["no", "message"]
    elif len(reason) < 300:
        assert kept == text.split()


@given(st.integers(1, 1000))
def test_selection_never_meets_the_final_seeds(episodes: int) -> None:
    seeds = selection_seeds(episodes)
    assert len(set(seeds)) == episodes
    assert max(seeds) < FINAL_SEED


# The winner's rows


def test_rows_are_wanted_for_the_winner_by_the_spec(context: TaskContext) -> None:
    assert missing(context) == []
    one = crowned(context, 0, 10.0)
    assert winner(context) == one
    first = wanted(context, one)
    assert list(first) == ["ractd", *context.spec.rows_of(context.dataset)]
    assert len(set(first.values())) == len(first)
    other = crowned(context, 1, 20.0)
    assert winner(context) == other
    assert not set(first.values()) & set(wanted(context, other).values())


def test_other_final_episodes_want_other_rows(context: TaskContext) -> None:
    best = close(context, 0, "completed", 10.0)
    episodes = context.spec.evaluation.model_copy(update={"final_episodes": 6})
    spec = context.spec.model_copy(update={"evaluation": episodes})
    other = TaskContext(context.folder, spec, context.dataset, context.fingerprint)
    assert not set(wanted(context, best).values()) & set(wanted(other, best).values())


def test_what_is_missing_shrinks_as_rows_are_written(context: TaskContext) -> None:
    rows = wanted(context, crowned(context, 0, 10.0))
    left = list(rows)
    for method in ("teacher", "ractd", "regression"):
        assert missing(context) == to_play(context) == left
        context.folder.rows.put(rows[method], {"kind": "row", "method": method})
        left.remove(method)
    assert missing(context) == left == []
    finish(context)  # nothing is left to be done
    crowned(context, 1, 20.0)
    assert missing(context) == list(rows), "a new winner needs its own rows"


def test_a_row_is_played_first_and_timed_afterwards(context: TaskContext) -> None:
    rows = wanted(context, crowned(context, 0, 10.0))
    write_json(context.folder.rows.folder(rows["teacher"]) / PLAYED, {})
    assert to_time(context) == ["teacher"]
    assert to_play(context) == ["ractd", "regression"]
    context.folder.rows.put(rows["teacher"], {"kind": "row", "method": "teacher"})
    assert to_time(context) == []
    assert missing(context) == to_play(context) == ["ractd", "regression"]


def test_rows_of_another_key_do_not_count(context: TaskContext) -> None:
    crowned(context, 0, 10.0)
    before = missing(context)
    context.folder.rows.put(key_of(["another winner"]), {"kind": "row", "method": "ractd"})
    assert missing(context) == before


# Rows of other calls, and without losses


CALLS = {
    "ractd": 1,
    "ractd:3": 3,
    "teacher": 158,
    "teacher:heun-4": 4,
    "teacher:ddim-5": 5,
    "teacher:ddpm-30": 30,
    "ctd": 1,
    "ctm": 1,
    "ctm:2": 2,
    "regression": 1,
    "teacher-guided:ddim-5": 5,
    "reward-in-teacher": 1,
    "reward-in-both": 1,
    "joint": 1,
}
"""Network calls of a plan, by row."""


def test_every_way_to_sample_is_a_row_of_its_own(tiny: Spec, tmp_path: Path) -> None:
    context = open_context(tiny, tmp_path / "storage", rows=[*CALLS, "ractd:1", "teacher:heun-158"])
    best = close(context, 0, "completed", 10.0)
    rows = wanted(context, best)
    assert list(rows) == [*CALLS, "ractd:1", "teacher:heun-158"]
    assert len(set(rows.values())) == len(rows)


def test_another_row_wanted_leaves_the_others_keys_alone(tiny: Spec, tmp_path: Path) -> None:
    """What has been played is not played again because a row was added."""
    few, more = (
        open_context(tiny, tmp_path / folder, rows=rows)
        for folder, rows in (("few", ["teacher"]), ("more", ["ctm", "teacher:ddim-20", "teacher"]))
    )
    best = close(few, 0, "completed", 10.0)
    assert wanted(few, best).items() < wanted(more, best).items()


def test_rows_are_played_by_as_many_calls_as_they_say(
    tiny: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_context(
        tiny,
        tmp_path / "storage",
        # Dense returns show every difference between two plans.
        tasks=["local/maze2d-umaze-dense-v1"],
        rows=list(CALLS),
        data={"transitions": 1000},
        recipe=few_steps() | {"policy": {"guidance": 40.0}},
        evaluation={"every": 6, "episodes": 1, "selection_episodes": 1, "final_episodes": 2},
    )
    context = with_a_winner(context)
    best = winner(context)
    assert best is not None

    counted: list[int] = []
    repeated: list[int] = []

    def timed(planner: Planner, *, repetitions: int) -> Latency:
        calls: list[int] = []
        network = getattr(planner.network, "network", planner.network)
        handle = network.register_forward_hook(lambda *_: calls.append(1))
        latency = plan_latency(planner, repetitions=1)
        handle.remove()
        # Three more have warmed up.
        counted.append(len(calls) // 4)
        repeated.append(repetitions)
        return latency

    monkeypatch.setattr("sweeps.finals.plan_latency", timed)
    finish(context)
    assert missing(context) == []
    rows = wanted(context, best)
    records = {method: context.folder.rows.get(key) or {} for method, key in rows.items()}
    assert {method: record["method"] for method, record in records.items()} == {m: m for m in rows}
    assert {method: record["nfe"] for method, record in records.items()} == CALLS
    assert counted == [CALLS[method] for method in rows]
    # Enough decisions for a median, and not many more calls than that takes.
    assert all(
        often >= 10 and (often == 10 or often * calls <= 200)
        for often, calls in zip(repeated, counted, strict=True)
    )
    assert max(repeated) == 200

    own, horizon = best["params"], {"horizon": 16}
    no_reward = {**own, "reward_weight": 0.0}
    assert own["reward_weight"] == 1e-3
    assert own["dsm_weight"] > 0
    params = {
        "ractd": own,
        "ctd": no_reward,
        "ctm": {**no_reward, "dsm_weight": 0.0},
        "teacher": horizon,
        "regression": horizon,
        "teacher-guided": {**horizon, "guidance": 40.0},
        "reward-in-teacher": {**no_reward, "teacher.reward_weight": 1e-3},
        "reward-in-both": {**own, "teacher.reward_weight": 1e-3},
        "joint": own,
    }
    for method, record in records.items():
        assert record["params"] == params[method.split(":")[0]], method
        selected = best["selection"]["score"] if method == "ractd" else None
        assert record["selection_score"] == selected
        assert record["trial"] == best["key"]
        assert record["evaluation"]["first_seed"] == FINAL_SEED
        guided = method.startswith("teacher-guided")
        assert record["reward_gradients"] == (CALLS[method] if guided else 0)
        assert record["executed_actions"] is None

    # One model per method, trained as its record says, whatever the number of calls.
    manifests = [read_json(path) for path in context.folder.store.root.glob("*/manifest.json")]
    kinds = sorted(manifest["kind"] for manifest in manifests)
    assert kinds == ["joint", "regression", "reward", *["student"] * 4, *["teacher"] * 2]
    by_name = {manifest["name"]: manifest for manifest in manifests}
    built = [
        (
            manifest["config"]["reward_weight"],
            manifest["config"]["dsm_weight"],
            by_name[manifest["parents"]["teacher"]]["config"].get("reward_weight", 0.0),
        )
        for manifest in manifests
        if manifest["kind"] == "student"
    ]
    dsm = own["dsm_weight"]
    assert sorted(built) == [(0.0, 0.0, 0.0), (0.0, dsm, 0.0), (0.0, dsm, 1e-3), (1e-3, dsm, 1e-3)]
    assert records["ractd:3"]["steps"] == best["steps"]
    assert records["joint"]["steps"] == 6 + 6
    for method in ("reward-in-teacher", "reward-in-both"):
        [teacher] = [n for n, m in by_name.items() if m["kind"] == "teacher" and m["parents"]]
        assert records[method]["stages"]["teacher"] == teacher

    # Another sampler or model plans otherwise, and so its episodes go.
    played = {
        method: (context.folder.rows.folder(key) / EPISODES).read_text()
        for method, key in rows.items()
    }
    assert len(set(played.values())) == len(played)
    frame = analysis.load(tmp_path / "storage", [context.folder.name]).rows.set_index("method")
    assert frame["nfe"].to_dict() == CALLS


def test_a_row_that_cannot_be_does_not_keep_the_others_from_being_played(
    tiny: Spec, tmp_path: Path
) -> None:
    small = few_steps()
    small["student"]["ctm_weight"] = 0.0
    context = open_context(
        tiny,
        tmp_path / "storage",
        # Without CTM and without DSM nothing is left to learn.
        rows=["ctm", "regression"],
        data={"transitions": 1000},
        recipe=small,
        evaluation={"every": 6, "episodes": 1, "selection_episodes": 1, "final_episodes": 1},
    )
    context = with_a_winner(context)
    with pytest.raises(RowsFailedError, match=r"^ctm: ValidationError: .*nothing ties plans"):
        play_rows(context.to_json())
    assert to_play(context) == ["ctm"]
    time_rows(context.to_json())
    assert missing(context) == ["ctm"]


def test_a_row_whose_training_diverges_has_a_record_and_is_not_trained_again(
    tiny: Spec, tmp_path: Path
) -> None:
    small = {part: {**c, "optim": {**c["optim"], "steps": 6}} for part, c in TINY["recipe"].items()}
    small["regression"]["optim"]["lr"] = 1e30
    context = open_context(
        tiny,
        tmp_path / "storage",
        rows=["ctd", "regression"],
        data={"transitions": 1000},
        training_seeds=2,
        recipe=small,
        evaluation={"every": 6, "episodes": 1, "selection_episodes": 1, "final_episodes": 2},
    )
    write_json(context.folder.path / "sweep.json", {"created": "2026-01-05T10:00:00+00:00"})
    make_local(context.dataset, context.spec.data.recipe())
    fingerprint = load(context.dataset).fingerprint
    context = TaskContext(context.folder, context.spec, context.dataset, fingerprint)
    plan = plan_at(context, 1e-3)
    run_trial({"context": context.to_json(), "values": plan.values, "number": 0}, lambda row: None)
    confirm(context.to_json())
    # As another process leaves it that has seen the second student of CTD diverge.
    recipe = apply(plan.recipe, {**changes("ctd", plan.recipe), "student.seed": 1})
    store = context.folder.store
    student = store.building(context.request("student", recipe).name)
    write_text(student / DIVERGED, "loss not finite at step 7")
    play_rows(context.to_json())
    assert to_time(context) == ["ractd"], "a diverged row is not timed"
    rows = wanted(context, winner(context) or {})
    records = {row: context.folder.rows.get(key) or {} for row, key in rows.items()}
    assert records["ctd"]["status"] == records["regression"]["status"] == "failed"
    assert records["ctd"]["reason"] == "diverged: training seed 1: loss not finite at step 7"
    assert records["regression"]["reason"].startswith("diverged: training seed 0: loss")
    assert records["regression"]["evaluation"] is None
    [kept] = records["ctd"]["evaluation"]["seeds"]
    assert kept["training_seed"] == 0

    before = sorted(store.root.rglob("*"))
    for path in store.root.rglob(DIVERGED):
        path.unlink()
    finish(context)
    assert missing(context) == []
    assert [path for path in before if path.name != DIVERGED] == sorted(store.root.rglob("*"))
    sweep = analysis.load(tmp_path / "storage", [context.folder.name])
    found = runs_of(sweep, "ctd")[str(context.dataset)]
    assert found == pytest.approx({0: kept["score"], 1: np.nan}, nan_ok=True)
    table = benchmark_table(sweep).set_index("method")
    assert table.loc["ctd", "score"] == pytest.approx(kept["score"] / 2)
    assert (table.loc["regression", "score"], table.loc["regression", "diverged"]) == (0.0, 1.0)


@pytest.mark.parametrize("retrain", [0, 2])
def test_rows_are_trained_and_played_for_every_training_seed_of_the_winner(
    tiny: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retrain: int
) -> None:
    context = open_context(
        tiny,
        tmp_path / "storage",
        tasks=["local/maze2d-umaze-dense-v1"],
        rows=["ctd", "teacher:ddim-2"],
        data={"transitions": 1000},
        training_seeds=2,
        selection={"confirmation_episodes": 2, "retrain": retrain},
        recipe=few_steps(),
        evaluation={"every": 6, "episodes": 1, "selection_episodes": 1, "final_episodes": 2},
    )
    context = with_a_winner(context)
    best = winner(context)
    assert best is not None
    seeds = [1000, 1001] if retrain else [0, 1]
    confirmed = (confirmation(context, best) or {})["confirmation"]
    assert [each["training_seed"] for each in confirmed["seeds"]] == seeds

    # Killed as it plays its third student, it goes on with that one.
    played: list[int] = []

    def killed(policy: Any, dataset: Any, episodes: Any) -> Evaluation:
        played.append(len(episodes))
        if len(played) == 3:
            raise KeyboardInterrupt
        return evaluate(policy, dataset, episodes)

    monkeypatch.setattr("sweeps.players.evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        play_rows(context.to_json())
    assert to_time(context) == ["ractd"]
    finish(context)
    assert played == [2] * 6, "two of RACTD and CTD each, one teacher, and the one that was killed"
    rows = {row: context.folder.rows.get(key) or {} for row, key in wanted(context, best).items()}
    of = {
        row: [each["training_seed"] for each in record["evaluation"]["seeds"]]
        for row, record in rows.items()
    }
    assert of == {"ractd": seeds, "ctd": seeds, "teacher:ddim-2": [0]}
    assert rows["ctd"]["steps"] == rows["ractd"]["steps"] == 2 * 6
    for row, record in rows.items():
        found = record["evaluation"]
        means = [each["score"] for each in found["seeds"]]
        assert found["score"] == pytest.approx(np.mean(means))
        assert (found["episodes"], found["first_seed"]) == (2, FINAL_SEED)
        assert record["training_seeds"] == len(of[row])
    assert len({each["score"] for each in rows["ctd"]["evaluation"]["seeds"]}) == 2
    assert rows["ractd"]["confirmation_score"] == confirmed["score"]
    assert rows["ctd"]["confirmation_score"] is None
    sweep = analysis.load(tmp_path / "storage", [context.folder.name])
    over = benchmark_table(sweep).set_index("method")["interval_over"]
    assert over[list(of)].tolist() == ["training seeds", "training seeds", "episodes"]
    assert sweep.confirmations["score"].tolist() == [confirmed["score"]]
    assert sweep.confirmations["training_seeds"].tolist() == [2]


def keep_hopper_data(name: DatasetName) -> None:
    """Rows in Hopper's range, not played: enough to train what then falls soon."""
    rng = np.random.default_rng(0)
    bounds = np.arange(9) * 41
    observations = rng.uniform(-1, 1, (bounds[-1], 11)) * 0.2 + np.eye(11)[0] * 1.2
    actions, rewards = rng.uniform(-1, 1, (bounds[-1], 3)), rng.normal(3, 1, bounds[-1])
    actions[bounds[1:] - 1], rewards[bounds[1:] - 1] = 0, 0
    data = FlatDataset(
        name=name,
        observations=observations.astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=rewards.astype(np.float32),
        bounds=bounds,
        terminated=np.arange(8) % 2 == 0,
    )
    assert put(name, lambda: Original(data, {"kind": "made"}, "none", "made for a test"))


def test_rows_execute_as_many_actions_as_the_winner_was_chosen_with(
    tiny: Spec, tmp_path: Path
) -> None:
    context = open_context(
        tiny,
        tmp_path / "storage",
        tasks=["local/hopper-medium-v2"],
        rows=["bc", "teacher-guided:ddim-2"],
        recipe=few_steps() | {"window": {"horizon": 16}},
        search={"policy.executed_actions": {"choices": [1, 4]}},
        evaluation={"every": 6, "episodes": 1, "selection_episodes": 2, "final_episodes": 2},
    )
    keep_hopper_data(context.dataset)
    context = with_data(context)
    plans = [context.trial({"policy.executed_actions": count}) for count in (1, 4)]
    for number, plan in enumerate(plans):
        payload = {"context": context.to_json(), "values": plan.values, "number": number}
        run_trial(payload, lambda row: None)
    trials = [context.folder.trials.get(plan.key) or {} for plan in plans]
    assert [trial["params"]["policy.executed_actions"] for trial in trials] == [1, 4]
    # The same student, to the last bit, that acts otherwise.
    models = [plan.selected(0).read_bytes() for plan in plans]
    assert models[0] == models[1]
    assert trials[0]["selection"]["score"] != trials[1]["selection"]["score"]
    confirm(context.to_json())
    finish(context)
    best = winner(context)
    assert best is not None
    executed = best["params"]["policy.executed_actions"]
    planners = {"ractd": 1, "bc": 1, "teacher-guided:ddim-2": 2}
    for method, key in wanted(context, best).items():
        record = context.folder.rows.get(key) or {}
        assert (record["nfe"], record["executed_actions"]) == (planners[method], executed)
    path = context.folder.trials.folder(best["key"]) / "student-0" / MODEL
    policy = make_policy(Planner.load(path, torch.device("cpu")), executed_actions=executed)
    expected = evaluate(policy, context.dataset, range(FINAL_SEED, FINAL_SEED + 2))
    row = context.folder.rows.get(wanted(context, best)["ractd"]) or {}
    assert row["evaluation"]["score"] == pytest.approx(expected.score, rel=1e-5)


def test_rows_without_reward_have_none_in_their_teacher_either(tiny: Spec, tmp_path: Path) -> None:
    rewarded = TINY["recipe"] | {"teacher": TINY["recipe"]["teacher"] | {"reward_weight": 0.5}}
    context = open_context(tiny, tmp_path / "storage", recipe=rewarded)
    recipe = plan_at(context, 1e-3).recipe
    found = {
        method: (
            changed.student.reward_weight,
            changed.student.dsm_weight,
            changed.teacher.reward_weight,
        )
        for method in ("ctm", "ctd", "reward-in-teacher", "reward-in-both", "joint", "teacher")
        for changed in [apply(recipe, changes(method, recipe))]
    }
    assert found == {
        "ctm": (0.0, 0.0, 0.0),
        "ctd": (0.0, 1.0, 0.0),
        "reward-in-teacher": (0.0, 1.0, 1e-3),
        "reward-in-both": (1e-3, 1.0, 1e-3),
        "joint": (1e-3, 1.0, 0.5),
        "teacher": (1e-3, 1.0, 0.5),
    }
