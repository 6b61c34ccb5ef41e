"""Loading: shapes and values of the frames, and errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from analysis.records import RecordError, load_sweep

if TYPE_CHECKING:
    from tests.analysis.conftest import SweepBuilder


def test_full_sweep(full: SweepBuilder) -> None:
    (full.folder / "trials" / "running").mkdir()
    (full.folder / "trials" / ".tmp-write").mkdir()
    (full.folder / "rows" / "running").mkdir()
    sweep = load_sweep(full.storage, "quickstart")
    assert len(sweep.trials) == 8
    assert len(sweep.rows) == 4
    assert len(sweep.curves) == 5 * 6 + 2 * 3 + 4
    assert len(sweep.episodes) == 400
    assert len(sweep.behaviour) == 300
    assert (sweep.unfinished_trials, sweep.unfinished_rows) == (1, 1)
    assert sweep.datasets == [full.dataset]
    assert sweep.tasks == [full.task]
    assert list(sweep.stages["name"]) == ["reward-r", "teacher-t160", "teacher-t256"]
    assert len(sweep.uses) == 16


def test_trials_are_in_order_with_their_values(builder: SweepBuilder) -> None:
    builder.trial(11, params={"student.learning_rate": 3e-4})
    builder.trial(2, "failed", reason="out of memory", steps=None)
    trials = load_sweep(builder.storage, "quickstart").trials
    assert list(trials["number"]) == [2, 11]
    assert trials.loc[0, "reason"] == "out of memory"
    assert trials["selection_score"].isna()[0]
    assert trials["steps"].isna()[0]
    assert trials.loc[1, "selection_score"] == 141.0
    assert trials.loc[1, "params.student.learning_rate"] == 3e-4
    assert trials["reason"].isna().tolist() == [False, True]


def test_curves_carry_their_trials_weights(builder: SweepBuilder) -> None:
    builder.trial(0, sigma=0.01, curve=[1.0, None, float("nan"), 4.0])
    curves = load_sweep(builder.storage, "quickstart").curves
    assert list(curves["step"]) == [100, 200, 300, 400]
    assert curves["score"].isna().tolist() == [False, True, True, False]
    assert set(curves["reward_weight"]) == {0.01}


def test_gap_is_selection_minus_evaluation(builder: SweepBuilder) -> None:
    builder.row("ractd", [130.0, 134.0], selection_score=135.0)
    builder.row("teacher", [130.0])
    rows = load_sweep(builder.storage, "quickstart").rows.set_index("method")
    assert rows.loc["ractd", "gap"] == 3.0
    assert rows["gap"].isna()["teacher"]


def test_confirmations_say_by_how_much_the_search_flattered(builder: SweepBuilder) -> None:
    builder.confirmation(4, 130.5, selected=140.0)
    builder.confirmation(2, None, reason="diverged: loss not finite at step 3")
    frame = load_sweep(builder.storage, "quickstart").confirmations
    assert frame["number"].tolist() == [2, 4]
    assert frame["gap"].isna().tolist() == [True, False]
    assert frame["trial"].tolist() == ["0002abcd", "0004abcd"]
    assert (frame["score"][1], frame["gap"][1]) == (130.5, 9.5)
    assert frame["status"].tolist() == ["failed", "completed"]


def test_a_student_whose_episodes_are_not_all_there_is_named(builder: SweepBuilder) -> None:
    path = builder.row("ractd", training_seeds=(0, 1)) / "episodes.csv"
    assert len(load_sweep(builder.storage, "quickstart").episodes) == 8
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RecordError, match="3, 4 episodes, expected 4"):
        load_sweep(builder.storage, "quickstart")


def test_stage_without_manifest_has_no_cost(builder: SweepBuilder) -> None:
    builder.trial(0, "failed", stages={"teacher": "teacher-lost"}, reason="disk full")
    stages = load_sweep(builder.storage, "quickstart").stages
    assert stages.loc[0, "kind"] == "teacher"
    assert stages["device_seconds"].isna()[0]


def test_empty_sweep_has_typed_columns(builder: SweepBuilder) -> None:
    sweep = load_sweep(builder.storage, "quickstart")
    for frame in (sweep.trials, sweep.rows, sweep.curves, sweep.stages, sweep.data):
        assert frame.empty
    assert sweep.trials["selection_score"].dtype == np.float64
    assert sweep.datasets == []


def test_unknown_sweep_names_those_there(builder: SweepBuilder) -> None:
    type(builder)(builder.storage, "umaze-full")
    with pytest.raises(RecordError, match=r"quickstart, umaze-full; did you mean quickstart\?"):
        load_sweep(builder.storage, "quickstrat")
    with pytest.raises(RecordError, match="none; run one first"):
        load_sweep(builder.storage / "elsewhere", "quickstart")


def test_a_name_is_no_path(builder: SweepBuilder) -> None:
    with pytest.raises(RecordError, match="no sweep"):
        load_sweep(builder.storage, "../sweeps/quickstart")
    builder.trial(0, stages={"teacher": "../../secret"})
    with pytest.raises(RecordError, match="is a path"):
        load_sweep(builder.storage, "quickstart")


def test_truncated_record_is_named(builder: SweepBuilder) -> None:
    path = builder.trial(0) / "record.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(RecordError, match=rf"{path}: not valid JSON .* truncated"):
        load_sweep(builder.storage, "quickstart")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", 1, "schema 1, expected 2"),
        ("kind", "row", "expected one of trial"),
        ("status", "done", "expected one of completed, pruned, failed"),
        ("number", "3", "key 'number' is '3', expected a whole number"),
        ("number", True, "expected a whole number"),
        ("params", [], "expected an object"),
        ("task", None, "expected a string"),
    ],
)
def test_wrong_value_names_file_and_key(
    builder: SweepBuilder, key: str, value: Any, message: str
) -> None:
    path = builder.trial(0) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(RecordError, match=message) as caught:
        load_sweep(builder.storage, "quickstart")
    assert str(path) in str(caught.value)


def test_missing_key_is_named(builder: SweepBuilder) -> None:
    path = builder.trial(0) / "record.json"
    record = json.loads(path.read_text())
    del record["params"]["reward_weight"]
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match="params: key 'reward_weight' is missing"):
        load_sweep(builder.storage, "quickstart")


@pytest.mark.parametrize("content", [b"[1]", b"\xff\xfe", b""])
def test_record_that_is_no_object(builder: SweepBuilder, content: bytes) -> None:
    path = builder.trial(0) / "record.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=str(path)):
        load_sweep(builder.storage, "quickstart")


def test_torn_curve_names_file_and_line(builder: SweepBuilder) -> None:
    path = builder.trial(0, curve=[1.0, 2.0]) / "curve.jsonl"
    path.write_text(path.read_text() + '{"step": 3')
    with pytest.raises(RecordError, match=r"curve.jsonl, line 3: not valid JSON"):
        load_sweep(builder.storage, "quickstart")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as CSV"),
        ("training_seed,seed,score\n0,1,2\n", "no column return, length"),
        ("training_seed,seed,return,score,length\n0,1,2,3,4\n", "1 episodes, expected 4"),
        ("training_seed,seed,return,score,length\n0,1,2,,4\n", "a cell is empty"),
        ("training_seed,seed,return,score,length\n0,1,2,inf,4\n", "a cell is empty"),
    ],
)
def test_damaged_episodes_are_named(builder: SweepBuilder, content: str, message: str) -> None:
    path: Path = builder.row("ractd") / "episodes.csv"
    path.write_text(content)
    with pytest.raises(RecordError, match=message) as caught:
        load_sweep(builder.storage, "quickstart")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("score", ["high", True, float("nan")])
def test_behaviour_scores_must_be_numbers(builder: SweepBuilder, score: Any) -> None:
    builder.data([1.0, score])
    with pytest.raises(RecordError, match=f"'behaviour_scores' is {score!r}, expected finite"):
        load_sweep(builder.storage, "quickstart")


def test_what_an_extension_has_replaced_is_not_reported(builder: SweepBuilder) -> None:
    builder.trial(0)
    for key in ("old", "new"):
        builder.row("ractd", [130.0], key=key)
    for number in (0, 1):
        builder.confirmation(number, 120.0)
    both = load_sweep(builder.storage, "quickstart")
    assert (len(both.rows), len(both.confirmations)) == (2, 2)
    current = {builder.dataset: {"rows": ["new"], "confirmations": ["confirmation1"]}}
    (builder.folder / "current.json").write_text(json.dumps(current))
    now = load_sweep(builder.storage, "quickstart")
    assert list(now.rows["key"]) == ["new"]
    assert list(now.confirmations["number"]) == [1]
    # Of a dataset that has not come to its end yet, everything.
    (builder.folder / "current.json").write_text("{}")
    assert len(load_sweep(builder.storage, "quickstart").rows) == 2
