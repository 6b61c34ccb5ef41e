"""Tables for a paper: hand-made records with known answers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analysis
from analysis.records import Records
from analysis.runs import runs_of
from analysis.stats_tasks import aggregate
from analysis.table import Cell, Table
from analysis.tables import benchmark_table, benchmark_terminal
from analysis.tables_ablation import calls_table, reward_place_table, setting_table
from analysis.tables_all import all_tables
from analysis.tables_published import published_table
from analysis.tables_scores import choices_table, score_table
from analysis.tables_timing import timing_table
from tests.analysis.conftest import SweepBuilder

HOPPER = "hopper-medium-replay-v2"


def _texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def _column(table: Table, name: str) -> dict[str, Cell]:
    place = table.header.index(name)
    return {row[0].text: row[place] for row in table.rows}


def _line(table: Table, *start: str) -> dict[str, Cell]:
    [row] = [row for row in table.rows if tuple(c.text for c in row[: len(start)]) == start]
    return dict(zip(table.header, row, strict=True))


def _on(task: str, source: str = "local") -> dict[str, Any]:
    return {"task": task, "dataset": f"{source}/{task}"}


def _suite(builder: SweepBuilder) -> Records:
    """Two mazes and a hopper; means over seeds of ractd are 101, 121 and 61, of ctd 91 and 131."""
    seeds: dict[str, Any] = {"training_seeds": (0, 1, 2)}
    for key, method, scores, where in (
        ("a", "ractd", [90.0, 110.0], _on("maze2d-umaze-v1")),
        ("b", "ctd", [80.0, 100.0], _on("maze2d-umaze-v1")),
        ("c", "ractd", [120.0, 120.0], _on("maze2d-medium-v1")),
        ("d", "ctd", [130.0, 130.0], _on("maze2d-medium-v1")),
        ("e", "ractd", [60.0, 60.0], _on(HOPPER)),
    ):
        builder.row(method, scores, key=key, **seeds, **where)
    return analysis.load(builder.storage)


def test_scores_stand_by_domain_with_averages_and_a_total(builder: SweepBuilder) -> None:
    table = score_table(_suite(builder))
    assert table.header == ("dataset", "ctd", "ractd")
    assert [row[0].text for row in table.rows] == [
        f"local/{HOPPER}",
        "local/maze2d-medium-v1",
        "local/maze2d-umaze-v1",
        "average of Maze2d",
        "average of all",
        "total of 3",
    ]
    ours = _column(table, "ractd")
    assert ours["average of Maze2d"].text.startswith("111.0 [")
    assert ours["average of all"].text.startswith("94.3 [")
    assert ours["total of 3"].text == "283.0"
    theirs = _column(table, "ctd")
    assert theirs["average of Maze2d"].text.startswith("111.0 [")
    # It was not played on one of the datasets, so there is no average over all of them.
    assert theirs[f"local/{HOPPER}"].text == theirs["average of all"].text == "–"
    assert theirs["total of 3"].text == "–"
    assert table.rules == {1, 4}


def test_the_average_and_its_interval_are_those_of_the_statistics(builder: SweepBuilder) -> None:
    records = _suite(builder)
    runs = runs_of(records, "ractd")
    assert runs["local/maze2d-umaze-v1"] == {0: 100.0, 1: 101.0, 2: 102.0}
    found = aggregate(runs, "mean")
    text = _column(score_table(records), "ractd")["average of all"].text
    assert text == f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def test_bold_is_the_best_and_what_lies_in_its_interval(builder: SweepBuilder) -> None:
    # The seeds' means are s, s + 1, s + 2: Student's interval is the mean give or take 2.48.
    for method, score in (("ractd", 100.0), ("ctd", 98.0), ("regression", 97.0)):
        builder.row(method, [score], training_seeds=(0, 1, 2))
    builder.data([500.0, 501.0])
    table = score_table(analysis.load(builder.storage))
    bold = {name: cell.bold for name, cell in _line(table, builder.dataset).items()}
    assert bold.pop("data (its own behaviour)") is False
    assert bold == {"dataset": False, "regression": False, "ctd": True, "ractd": True}
    chosen = {
        row[1].text: row[5].bold for row in choices_table(analysis.load(builder.storage)).rows
    }
    assert chosen == {
        "data (its own behaviour)": False,
        "regression": False,
        "ctd": True,
        "ractd": True,
    }


def test_one_training_seed_gives_an_average_without_interval(builder: SweepBuilder) -> None:
    for task in ("maze2d-umaze-v1", "maze2d-medium-v1"):
        builder.row("ractd", [100.0, 120.0], key=task, **_on(task))
    table = score_table(analysis.load(builder.storage))
    assert _column(table, "ractd")["average of Maze2d"].text == "110.0"


def test_sweeps_with_the_same_dataset_have_columns_of_their_own(builder: SweepBuilder) -> None:
    other = SweepBuilder(builder.storage, "other")
    builder.row("ractd", [100.0, 102.0])
    other.row("ractd", [50.0, 52.0])
    other.row("ctd", [40.0, 42.0])
    table = score_table(analysis.load(builder.storage))
    assert table.header == ("dataset", "ctd", "ractd (other)", "ractd (quickstart)")
    [row] = table.rows
    assert [cell.text.partition(" ")[0] for cell in row[1:]] == ["41.0", "51.0", "101.0"]


def test_datasets_of_one_name_and_other_content_are_not_mixed(builder: SweepBuilder) -> None:
    other = SweepBuilder(builder.storage, "other")
    builder.row("ractd", [100.0, 102.0])
    other.row("ractd", [50.0, 52.0], fingerprint="beefbeef" * 8)
    names = [row[0].text for row in score_table(analysis.load(builder.storage)).rows]
    assert names[:2] == [f"{builder.dataset} (beefbeef)", f"{builder.dataset} (f00dfeed)"]


def test_choices_say_what_was_selected_and_what_it_costs(builder: SweepBuilder) -> None:
    rules = {"rule": "best", "score": 150.0, "last": 140.0, "best": 150.0, "mean_of_last": 145.0}
    selection = rules | {"std": 1.0, "episodes": 5, "first_seed": 0}
    builder.trial(4, selection=selection)
    builder.row(
        "ractd", [130.0, 132.0], trial="0004abcd", selection_score=150.0, confirmation_score=133.0
    )
    builder.row("bc", [20.0, 22.0], executed_actions=4, nfe=8, latency=2.0, **_on(HOPPER))
    table = choices_table(analysis.load(builder.storage))
    line = _line(table, builder.dataset, "ractd")
    assert [line[name].text for name in ("last", "selected", "confirmed")] == [
        "140.0",
        "150.0",
        "133.0",
    ]
    assert line["score [95 % CI]"].text.startswith("131.0 [")
    assert [line[name].text for name in ("σ", "α", "β", "horizon")] == ["0.0001", "1", "1", "160"]
    assert (line["network calls"].text, line["seconds"].text) == ("1 / plan", "0.0009 / plan")
    cloned = _line(table, f"local/{HOPPER}", "bc")
    # A window of eight calls and two milliseconds, of which four actions are executed.
    assert (cloned["network calls"].text, cloned["seconds"].text) == ("2", "0.0005")


def test_footnotes_say_how_the_numbers_came_about(full: SweepBuilder) -> None:
    full.trial(9, versions={"ractd": "0.1.0", "torch": "2.13.0"})
    notes = "\n".join(score_table(analysis.load(full.storage)).notes)
    for text in (
        "Bold: the best score",
        "fingerprint f00dfeed",
        "a return of 23.85 (random), 100 one of 161.86",
        'the rule "last"',
        "seeds 1000000 to 1000099",
        "Training seeds: 1.",
        "Versions: ractd 0.1.0, torch 2.13.0.",
    ):
        assert text in notes


def test_failed_rows_are_named(builder: SweepBuilder) -> None:
    builder.row("ractd", [1.0, 2.0])
    builder.row("ctd", status="failed", reason="diverged: x", evaluation=None, latency=None)
    builder.row("ctm", status="failed", reason="worker died", evaluation=None, latency=None)
    records = analysis.load(builder.storage)
    notes = "\n".join(score_table(records).notes)
    assert f"1 failed rows (ctm on {builder.dataset})" in notes
    assert aggregate(runs_of(records, "ctd"), "mean").diverged == 1
    assert runs_of(records, "ctm") == {}


def test_rows_of_an_earlier_winner_are_out_of_force_everywhere(builder: SweepBuilder) -> None:
    """Stopped before its first end and extended, a sweep has rows of two winners."""
    old, new = "0000abcd", "0001abcd"
    builder.confirmation(0, 90.0)
    builder.confirmation(1, 95.0)
    seeds: dict[str, Any] = {"training_seeds": (0, 1)}
    for place, dataset in enumerate(("local/maze2d-umaze-v1", "local/maze2d-medium-v1")):
        task: dict[str, Any] = {"dataset": dataset, "task": dataset.removeprefix("local/")}
        builder.row("ractd", [50.0, 51.0], key=f"z{place}", trial=old, **seeds, **task)
        builder.row("ractd", [70.0, 71.0], key=f"a{place}", trial=new, **seeds, **task)
        builder.row("ctd", [40.0, 41.0], key=f"c{place}", trial=old, **seeds, **task)
    records = analysis.load(builder.storage)
    assert sorted(records.rows["key"]) == ["a0", "a1"]
    table = score_table(records)
    assert [row[1].text.split(" ")[0] for row in table.rows] == ["71.0", "71.0", "71.0", "142.0"]


def test_a_row_with_a_diverged_training_seed_counts_it_and_keeps_the_others(
    builder: SweepBuilder,
) -> None:
    builder.row("ractd", [30.0, 30.0], training_seeds=(0, 1, 2))
    reason = "diverged: training seed 1: loss not finite at step 7"
    folder = builder.row(
        "ctd", [60.0, 62.0], training_seeds=(0, 1, 2), status="failed", reason=reason, latency=None
    )
    lines = (folder / "episodes.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("1,")]
    (folder / "episodes.csv").write_text("\n".join([*kept, ""]))
    builder.row("bc", status="failed", reason="diverged: x", evaluation=None, latency=None)
    records = analysis.load(builder.storage)
    line = benchmark_table(records).set_index("method").loc["ctd"]
    # Two scores, of 61 and 63, and a random policy's.
    assert line["score"] == pytest.approx((61.0 + 0.0 + 63.0) / 3)
    assert line["low"] < 0.0 < 63.0 < line["high"]
    assert (line["diverged"], line["interval_over"]) == (1, "training seeds")
    table = score_table(records)
    row = dict(zip(table.header, (cell.text for cell in table.rows[0]), strict=True))
    assert row["ctd"].startswith("41.3 [")
    assert row["ctd"].endswith("], 1 diverged")
    assert row["bc"] == "0.0, 1 diverged"
    assert "0.0, 1 diverged" in benchmark_terminal(benchmark_table(records))
    notes = "\n".join(table.notes)
    assert f"counts as 0: bc on {builder.dataset} (1 of 1), ctd on {builder.dataset} (1 of 3)." in (
        notes
    )
    assert "Without a score" not in notes
    found = runs_of(records, "ctd")[builder.dataset]
    assert found == pytest.approx({0: 61.0, 1: math.nan, 2: 63.0}, nan_ok=True)


def _ladder(builder: SweepBuilder, number: int, sigma: float, scores: list[float]) -> None:
    seeds = [
        {"training_seed": seed, "last": score, "best": score, "mean_of_last": score}
        for seed, score in enumerate(scores)
    ]
    rules = dict.fromkeys(("score", "last", "best", "mean_of_last"), sum(scores) / len(scores))
    selection = {"rule": "last", **rules, "std": 0.0, "episodes": 5, "first_seed": 0}
    builder.trial(number, sigma=sigma, selection=selection | {"seeds": seeds}, training_seeds=3)


def test_a_weight_ladder_has_a_row_per_weight(builder: SweepBuilder) -> None:
    _ladder(builder, 0, 0.0, [10.0, 11.0, 12.0])
    _ladder(builder, 1, 0.5, [20.0, 21.0, 22.0])
    collapsed = "diverged: collapsed by step 80"
    builder.trial(2, "failed", sigma=2.0, reason=collapsed, training_seeds=3)
    builder.trial(3, "failed", sigma=2.0, reason="out of memory", training_seeds=3)
    builder.trial(4, "pruned", sigma=1.0)
    table = setting_table(analysis.load(builder.storage), "reward_weight")
    assert table.header[:3] == ("dataset", "σ", "score [95 % CI]")
    assert _texts(table) == [
        [builder.dataset, "0", "11.0 [8.5, 13.5]", "12.0", "1", "0", "0", "0"],
        [builder.dataset, "0.5", "21.0 [18.5, 23.5]", "22.0", "1", "0", "0", "0"],
        [builder.dataset, "1", "–", "–", "0", "0", "1", "0"],
        [builder.dataset, "2", "0.0 [0.0, 0.0]", "–", "0", "1", "0", "1"],
    ]
    assert [row[2].bold for row in table.rows] == [False, True, False, False]
    assert table.name == "ablation-reward-weight"
    assert not any(note.startswith("Trials of one row differ") for note in table.notes)


def test_a_score_that_is_no_number_counts_as_diverged(builder: SweepBuilder) -> None:
    _ladder(builder, 0, 0.5, [20.0, 21.0, 22.0])
    _ladder(builder, 1, 2.0, [20.0, math.nan, 22.0])
    table = setting_table(analysis.load(builder.storage), "reward_weight")
    assert _texts(table)[1] == [builder.dataset, "2", "0.0 [0.0, 0.0]", "–", "0", "1", "0", "0"]


def test_rows_that_mix_other_settings_have_no_interval_and_say_so(builder: SweepBuilder) -> None:
    for number, width in enumerate((32, 64)):
        builder.trial(number, sigma=0.1, horizon=160, params={"student.width": width})
    table = setting_table(analysis.load(builder.storage), "horizon")
    assert _texts(table)[0][:3] == [builder.dataset, "160", "130.5"]
    assert "Trials of one row differ in student.width." in table.notes
    by_width = setting_table(analysis.load(builder.storage), "params.student.width")
    assert [row[1] for row in _texts(by_width)] == ["32", "64"]
    assert by_width.name == "ablation-student-width"


def test_an_unknown_setting_is_refused(builder: SweepBuilder) -> None:
    with pytest.raises(ValueError, match="setting is 'gamma', expected one of ctm_weight"):
        setting_table(analysis.load(builder.storage), "gamma")


def test_calls_and_where_the_reward_acts(builder: SweepBuilder) -> None:
    for method, score, calls in (
        ("ractd", 130.0, 1),
        ("ractd:4", 128.0, 4),
        ("ctd", 120.0, 1),
        ("reward-in-teacher", 125.0, 1),
        ("teacher-guided:ddim-20", 126.0, 20),
        ("teacher", 110.0, 158),
    ):
        key = method.replace(":", "-")
        builder.row(method, [score, score + 2], calls, key=key, latency=float(calls))
    records = analysis.load(builder.storage)
    lines = [(row[1], row[3]) for row in _texts(calls_table(records))]
    assert lines.index(("ractd", "1 / plan")) < lines.index(("ractd:4", "4 / plan"))
    assert len(lines) == 6
    assert [row[1] for row in _texts(reward_place_table(records))] == [
        "nowhere (ctd)",
        "the teacher's training (reward-in-teacher)",
        "the student's training (ractd)",
        "the student's training (ractd:4)",
        "the teacher's sampling (teacher-guided:ddim-20)",
    ]


def test_timing_has_the_ratio_to_one_call(builder: SweepBuilder) -> None:
    builder.row("ractd", latency=2.0)
    builder.row("teacher", latency=300.0, nfe=158)
    builder.row("ctd", latency=None)
    builder.row("bc", latency=9.0, device="cuda")
    table = timing_table(analysis.load(builder.storage))
    assert {row[1]: row[8] for row in _texts(table)} == {"ractd": "1", "teacher": "150", "bc": "–"}
    assert _line(table, builder.dataset, "teacher")["seconds"].text == "0.3 / plan"


def test_published_times_are_grey_and_have_no_ratio(builder: SweepBuilder) -> None:
    builder.row("ractd", latency=2.0, executed_actions=1, **_on(HOPPER))
    table = timing_table(analysis.load(builder.storage))
    grey = [row for row in table.rows if row[0].grey]
    assert [row[1].text for row in grey] == ["RACTD student", "EDM teacher", "Diffuser"]
    assert [row[7].text for row in grey] == ["0.015", "2.13", "0.644"]
    assert {row[8].text for row in grey} == {"–"}
    assert all("table 4, secondary notes on arXiv" in row[9].text for row in grey)


@pytest.mark.parametrize("source", ["local", "minari", "d4rl"])
def test_published_scores_are_cited_and_stand_alone(builder: SweepBuilder, source: str) -> None:
    builder.row("ractd", [100.0, 102.0], **_on(HOPPER, source))
    table = published_table(analysis.load(builder.storage))
    assert table.rows[0][0].text == f"{source}/{HOPPER}"
    assert not any(cell.grey for cell in table.rows[0])
    assert len(table.rows) > 10
    for row in table.rows[1:]:
        assert all(cell.grey for cell in row)
        assert row[0].text == f"D4RL {HOPPER}"
        assert row[4].text.endswith("of [1]")
    assert any(note.startswith("[1] ") and "arXiv 2506.07822" in note for note in table.notes)


def test_conflicts_are_marked_and_explained(builder: SweepBuilder) -> None:
    builder.row("ractd", [100.0, 102.0], **_on("kitchen-partial-v0"))
    table = published_table(analysis.load(builder.storage))
    marked = [row for row in table.rows if "‡" in row[2].text]
    assert {row[1].text for row in marked} == {"RACTD", "Consistency-AC"}
    notes = [note for note in table.notes if note.startswith("‡")]
    assert len(notes) == len(marked)
    assert any("does not fit average 42.0" in note for note in notes)


def test_numbers_of_published_and_measured_scores_say_which_they_are(builder: SweepBuilder) -> None:
    builder.row("ractd", [100.0, 102.0])
    numbers = published_table(analysis.load(builder.storage)).numbers
    published = numbers[numbers["origin"] == "published"]
    assert published["source"].notna().all()
    assert published["dataset"].str.startswith("D4RL ").all()
    assert numbers.loc[numbers["origin"] == "measured", "dataset"].tolist() == [builder.dataset]


def test_no_dataset_stands_under_d4rls_name_alone(full: SweepBuilder) -> None:
    for table in all_tables(analysis.load(full.storage)):
        for row in table.rows:
            name = row[0].text
            assert name.startswith(("local/", "average of", "total of")) or row[0].grey, name


def test_no_record_no_table(builder: SweepBuilder) -> None:
    assert all_tables(analysis.load(builder.storage)) == ()


def test_all_failed_gives_only_what_can_be_said(builder: SweepBuilder) -> None:
    for number, sigma in enumerate((0.1, 0.2)):
        builder.trial(number, "failed", sigma=sigma, reason="diverged: loss not finite")
    tables = {table.name: table for table in all_tables(analysis.load(builder.storage))}
    assert [row[2] for row in _texts(tables["ablation-reward-weight"])] == ["0.0", "0.0"]
    assert "benchmark" not in tables


def test_every_table_is_written_in_four_formats(full: SweepBuilder, tmp_path: Path) -> None:
    written = analysis.write_tables(analysis.load(full.storage), tmp_path / "tables")
    assert set(written) == {
        "benchmark",
        "choices",
        "ablation-reward-weight",
        "ablation-horizon",
        "ablation-calls",
        "ablation-reward",
        "timing",
        "published",
    }
    for paths in written.values():
        assert set(paths) == {"md", "tex", "csv", "html"}
        assert all(path.read_text(encoding="utf-8").strip() for path in paths.values())
        assert not pd.read_csv(paths["csv"]).empty
