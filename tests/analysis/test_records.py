"""Loading: shapes and values of the frames, and errors that name the file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from analysis import schema
from analysis.records import RecordError, load

if TYPE_CHECKING:
    from tests.analysis.conftest import SweepBuilder


def test_full_sweep(full: SweepBuilder) -> None:
    (full.folder / "trials" / "running").mkdir()
    (full.folder / "trials" / ".tmp-write").mkdir()
    (full.folder / "rows" / "running").mkdir()
    sweep = load(full.storage, ["quickstart"])
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
    trials = load(builder.storage, ["quickstart"]).trials
    assert list(trials["number"]) == [2, 11]
    assert trials.loc[0, "reason"] == "out of memory"
    assert trials["selection_score"].isna()[0]
    assert trials["steps"].isna()[0]
    assert trials.loc[1, "selection_score"] == 141.0
    assert trials.loc[1, "params.student.learning_rate"] == 3e-4
    assert trials["reason"].isna().tolist() == [False, True]


def test_curves_carry_their_trials_weights(builder: SweepBuilder) -> None:
    builder.trial(0, sigma=0.01, curve=[1.0, None, float("nan"), 4.0])
    curves = load(builder.storage, ["quickstart"]).curves
    assert list(curves["step"]) == [100, 200, 300, 400]
    assert curves["score"].isna().tolist() == [False, True, True, False]
    assert set(curves["reward_weight"]) == {0.01}


def test_gap_is_selection_minus_evaluation(builder: SweepBuilder) -> None:
    builder.row("ractd", [130.0, 134.0], selection_score=135.0)
    builder.row("teacher", [130.0])
    rows = load(builder.storage, ["quickstart"]).rows.set_index("method")
    assert rows.loc["ractd", "gap"] == 3.0
    assert rows["gap"].isna()["teacher"]


def test_confirmations_say_by_how_much_the_search_flattered(builder: SweepBuilder) -> None:
    builder.confirmation(4, 130.5, selected=140.0)
    builder.confirmation(2, None, reason="diverged: loss not finite at step 3")
    frame = load(builder.storage, ["quickstart"]).confirmations
    assert frame["number"].tolist() == [2, 4]
    assert frame["gap"].isna().tolist() == [True, False]
    assert frame["trial"].tolist() == ["0002abcd", "0004abcd"]
    assert (frame["score"][1], frame["gap"][1]) == (130.5, 9.5)
    assert frame["status"].tolist() == ["failed", "completed"]


def test_a_student_whose_episodes_are_not_all_there_is_named(builder: SweepBuilder) -> None:
    path = builder.row("ractd", training_seeds=(0, 1)) / "episodes.csv"
    assert len(load(builder.storage, ["quickstart"]).episodes) == 8
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RecordError, match="3, 4 episodes, expected 4"):
        load(builder.storage, ["quickstart"])


def test_stage_without_manifest_has_no_cost(builder: SweepBuilder) -> None:
    builder.trial(0, "failed", stages={"teacher": "teacher-lost"}, reason="disk full")
    stages = load(builder.storage, ["quickstart"]).stages
    assert stages.loc[0, "kind"] == "teacher"
    assert stages["device_seconds"].isna()[0]


def test_empty_sweep_has_typed_columns(builder: SweepBuilder) -> None:
    sweep = load(builder.storage, ["quickstart"])
    for frame in (sweep.trials, sweep.rows, sweep.curves, sweep.stages, sweep.data):
        assert frame.empty
    assert sweep.trials["selection_score"].dtype == np.float64
    assert sweep.datasets == []


def test_unknown_sweep_names_those_there(builder: SweepBuilder) -> None:
    type(builder)(builder.storage, "umaze-full")
    with pytest.raises(RecordError, match=r"quickstart, umaze-full; did you mean quickstart\?"):
        load(builder.storage, ["quickstrat"])
    with pytest.raises(RecordError, match="none; run one first"):
        load(builder.storage / "elsewhere", ["quickstart"])


def test_a_name_is_no_path(builder: SweepBuilder) -> None:
    with pytest.raises(RecordError, match="no sweep"):
        load(builder.storage, ["../sweeps/quickstart"])
    builder.trial(0, stages={"teacher": "../../secret"})
    with pytest.raises(RecordError, match="is a path"):
        load(builder.storage, ["quickstart"])


def test_truncated_record_is_named(builder: SweepBuilder) -> None:
    path = builder.trial(0) / "record.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(RecordError, match=rf"{path}: not valid JSON .* truncated"):
        load(builder.storage, ["quickstart"])


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
        load(builder.storage, ["quickstart"])
    assert str(path) in str(caught.value)


def test_missing_key_is_named(builder: SweepBuilder) -> None:
    path = builder.trial(0) / "record.json"
    record = json.loads(path.read_text())
    del record["params"]["reward_weight"]
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match="params: key 'reward_weight' is missing"):
        load(builder.storage, ["quickstart"])


@pytest.mark.parametrize("content", [b"[1]", b"\xff\xfe", b""])
def test_record_that_is_no_object(builder: SweepBuilder, content: bytes) -> None:
    path = builder.trial(0) / "record.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=str(path)):
        load(builder.storage, ["quickstart"])


def test_torn_curve_names_file_and_line(builder: SweepBuilder) -> None:
    path = builder.trial(0, curve=[1.0, 2.0]) / "curve.jsonl"
    path.write_text(path.read_text() + '{"step": 3')
    with pytest.raises(RecordError, match=r"curve.jsonl, line 3: not valid JSON"):
        load(builder.storage, ["quickstart"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column training_seed, .* found nothing"),
        ("training_seed,seed,score\n0,1,2\n", "no column return, length"),
        ("training_seed,seed,return,score,length\n0,1,2,3,4\n", "1 episodes, expected 4"),
        ("training_seed,seed,return,score,length\n0,1,2,,4\n", "not a table of numbers"),
        ("training_seed,seed,return,score,length\n0,1,2,inf,4\n", "a cell is not a finite number"),
    ],
)
def test_damaged_episodes_are_named(builder: SweepBuilder, content: str, message: str) -> None:
    path: Path = builder.row("ractd") / "episodes.csv"
    path.write_text(content)
    with pytest.raises(RecordError, match=message) as caught:
        load(builder.storage, ["quickstart"])
    assert str(path) in str(caught.value)


def test_a_completed_row_needs_its_episodes(builder: SweepBuilder) -> None:
    folder = builder.row("ractd")
    (folder / "episodes.csv").unlink()
    with pytest.raises(RecordError, match=r"episodes.csv: file not found, .* resume the sweep"):
        load(builder.storage, ["quickstart"])


def test_what_no_release_has_written_is_named(builder: SweepBuilder) -> None:
    rule = {"rule": "newest", "score": 1.0, "std": 0.0, "episodes": 5, "first_seed": 0}
    builder.trial(0, selection={**rule, **dict.fromkeys(schema.RULES, 1.0)})
    with pytest.raises(RecordError, match="'rule' is 'newest', expected one of last, best, mean-"):
        load(builder.storage, ["quickstart"])
    builder.trial(0)
    path = builder.row("ctd", status="failed", reason="diverged: NaN") / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "training_seeds": None}))
    with pytest.raises(RecordError, match="'training_seeds' is None, expected a whole number"):
        load(builder.storage, ["quickstart"])


@pytest.mark.parametrize("current", [{"d": ["key"]}, {"d": {"rows": "key"}}, {"d": {"rows": [1]}}])
def test_current_keys_must_be_lists_of_texts(builder: SweepBuilder, current: Any) -> None:
    (builder.folder / "current.json").write_text(json.dumps(current))
    with pytest.raises(RecordError, match=r"current.json.*expected (an object|.*strings)"):
        load(builder.storage, ["quickstart"])


@pytest.mark.parametrize("score", ["high", True, float("nan")])
def test_behaviour_scores_must_be_numbers(builder: SweepBuilder, score: Any) -> None:
    builder.data([1.0, score])
    with pytest.raises(RecordError, match=f"'behaviour_scores' is {score!r}, expected finite"):
        load(builder.storage, ["quickstart"])


def test_what_an_extension_has_replaced_is_not_reported(builder: SweepBuilder) -> None:
    builder.trial(0)
    for day, key in enumerate(("first", "second"), start=1):
        finished = f"2026-01-0{day}T10:00:00+00:00"
        builder.row("ractd", [130.0], key=key, finished=finished)
    for number in (0, 1):
        builder.confirmation(number, 120.0)
    both = load(builder.storage, ["quickstart"])
    assert (list(both.rows["key"]), len(both.confirmations)) == (["second"], 2)
    current = {builder.dataset: {"rows": ["first"], "confirmations": ["confirmation1"]}}
    (builder.folder / "current.json").write_text(json.dumps(current))
    now = load(builder.storage, ["quickstart"])
    assert list(now.rows["key"]) == ["first"]
    assert list(now.confirmations["number"]) == [1]
    # Of a dataset without a winner yet, what was played last.
    (builder.folder / "current.json").write_text("{}")
    assert list(load(builder.storage, ["quickstart"]).rows["key"]) == ["second"]


def test_the_schema_is_what_the_frames_have(full: SweepBuilder) -> None:
    empty = type(full)(full.storage, "empty")
    full.confirmation(0, 130.0)
    (full.folder / "events.jsonl").write_text('{"time": "2026-01-05T10:00:00+00:00"}\n')
    for names in (["quickstart"], [empty.name], None):
        records = load(full.storage, names)
        frames = {field.name: getattr(records, field.name) for field in fields(records)}
        assert set(frames) == set(schema.FRAMES)
        for name, (_, columns) in schema.FRAMES.items():
            types = {column: str(dtype) for column, dtype in frames[name].dtypes.items()}
            assert types == {column: each.dtype for column, each in columns.items()}, name
            assert names is None or names[0] == "empty" or len(frames[name]) or name == "seeds"


def test_the_documented_schema_is_the_schema() -> None:
    document = Path(schema.__file__).with_name("SCHEMA.md").read_text(encoding="utf-8")
    assert document == schema.to_markdown(), "write analysis.schema.to_markdown() to SCHEMA.md"


def test_several_sweeps_are_told_apart(builder: SweepBuilder) -> None:
    other = type(builder)(builder.storage, "other")
    teacher = builder.stage("teacher", "t", sweep="quickstart")
    for each in (builder, other):
        each.trial(0, curve=[1.0, 2.0], stages={"teacher": teacher})
        each.row("ractd", [10.0, 20.0])
        each.data()
    (other.folder / "trials" / "running").mkdir()
    records = load(builder.storage, ["other", "quickstart"])
    assert records.name == "other, quickstart"
    assert records.unfinished_trials == 1
    assert records.datasets == [builder.dataset]
    for frame in (records.trials, records.rows, records.data, records.sweeps, records.uses):
        assert frame["sweep"].tolist() == ["other", "quickstart"]
    for frame, count in ((records.curves, 2), (records.episodes, 2)):
        assert frame.groupby("sweep").size().to_dict() == {"other": count, "quickstart": count}
    # A stage is the storage's: one line, however many sweeps use it.
    assert records.stages[["name", "built_by"]].to_numpy().tolist() == [[teacher, "quickstart"]]
    assert load(builder.storage).name == "other, quickstart"


def test_no_sweep_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no sweep asked for.*none; run one first"):
        load(tmp_path)


def test_a_newer_record_is_named_as_such(builder: SweepBuilder) -> None:
    path = builder.trial(0) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 3}))
    with pytest.raises(RecordError, match="schema 3, expected 2: a newer release") as caught:
        load(builder.storage)
    assert str(path) in str(caught.value)


def test_latency_is_shared_by_the_actions_of_a_window(builder: SweepBuilder) -> None:
    builder.row("bc", latency=8.0, executed_actions=4, task="hopper-medium-v2")
    builder.row("teacher", latency=100.0, nfe=158)
    builder.row("ctd", latency=None)
    builder.trial(0, objectives={"score": 130.0, "latency_ms": 2.0})
    latency = load(builder.storage).latency.set_index("method")
    assert latency["seconds"].to_dict() == {"bc": 0.002, "teacher": 0.1, "ractd": 0.002}
    assert latency["per"].to_dict() == {"bc": "action", "teacher": "plan", "ractd": "window"}


def test_scores_of_each_training_seed(builder: SweepBuilder) -> None:
    seeds = [
        {"training_seed": n, "last": 1.0 + n, "best": 5.0, "mean_of_last": 2.0} for n in (0, 1)
    ]
    selection = {"rule": "mean-of-last", "score": 2.0, "last": 1.5, "best": 5.0}
    selection |= {"mean_of_last": 2.0, "std": 1.0, "episodes": 5, "first_seed": 0, "seeds": seeds}
    builder.trial(0, selection=selection)
    builder.trial(1, "failed", reason="boom")
    builder.confirmation(0, 7.0)
    found = load(builder.storage).seeds
    assert found["owner"].tolist() == ["trial", "trial", "confirmation"]
    assert found["score"].tolist() == [2.0, 2.0, 7.0]
    assert found["last"].tolist()[:2] == [1.0, 2.0]


def test_a_log_that_is_being_written_is_read_to_its_last_whole_line(builder: SweepBuilder) -> None:
    whole = '{"time": "2026-01-05T10:00:00+00:00", "kind": "stage", "seconds": 3.5}\n'
    (builder.folder / "events.jsonl").write_text(whole + whole[:30])
    events = load(builder.storage).events
    assert events["seconds"].tolist() == [3.5]
    assert str(events["time"][0]) == "2026-01-05 10:00:00+00:00"


def test_torn_lines_inside_a_log_are_skipped_and_counted(builder: SweepBuilder) -> None:
    whole = b'{"time": "2026-01-05T10:00:00+00:00", "kind": "stage", "seconds": 3.5}\n'
    torn = [whole[:30] + whole, b"\x00\x00\xff\n", b"3\n"]
    (builder.folder / "events.jsonl").write_bytes(b"".join([whole, *torn, whole, whole[:30]]))
    records = load(builder.storage)
    assert records.events["seconds"].tolist() == [3.5, 3.5]
    assert records.sweeps["unreadable_events"].tolist() == [3]


@pytest.mark.parametrize("name", ["sweep.json", "current.json", "data/x.json"])
def test_nobody_is_told_to_move_a_whole_sweep_away(builder: SweepBuilder, name: str) -> None:
    builder.data()
    (builder.folder / name).write_text("{")
    with pytest.raises(RecordError, match=rf"{name}: not valid JSON .* restore it from a copy"):
        load(builder.storage)


def test_a_damaged_manifest_is_built_again(builder: SweepBuilder) -> None:
    teacher = builder.stage("teacher", "t")
    builder.trial(0, stages={"teacher": teacher})
    (builder.storage / "stages" / teacher / "manifest.json").write_text("{")
    with pytest.raises(RecordError, match=r"manifest\.json: .* move its folder away"):
        load(builder.storage)
