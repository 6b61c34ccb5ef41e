"""The benchmark and trials tables: order, values, text, Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from analysis.figures.intervals import intervals_info, plot_intervals
from analysis.methods import METHODS
from analysis.protocol import protocol_lines
from analysis.published import base_task, load_published
from analysis.records import Records, load
from analysis.tables import (
    PUBLISHED,
    benchmark_table,
    benchmark_terminal,
    benchmark_text,
    short_reason,
    trials_table,
    trials_text,
)

if TYPE_CHECKING:
    from tests.analysis.conftest import SweepBuilder


def _sweep(builder: SweepBuilder) -> Records:
    return load(builder.storage, [builder.name])


def _benchmark(builder: SweepBuilder) -> pd.DataFrame:
    return benchmark_table(_sweep(builder))


def test_benchmark_order_and_origin(full: SweepBuilder) -> None:
    table = _benchmark(full)
    assert list(table["method"]) == [
        "data (its own behaviour)",
        "regression",
        "teacher",
        "ctd",
        "ractd",
        PUBLISHED,
    ]
    assert list(table["dataset"]) == [full.dataset] * 5 + ["D4RL maze2d-umaze"]
    assert table["score"].iloc[-1] == 125.7
    assert table["low"].isna().tolist() == [False] * 5 + [True]


def test_rows_of_other_calls_stand_with_their_method(builder: SweepBuilder) -> None:
    for method in (
        "ractd:4",
        "teacher:ddim-20",
        "ctd:2",
        "ractd",
        "ctm:2",
        "teacher",
        "unheard-of",
        "ctm",
        "regression",
        "ctd",
    ):
        # The ledger's folders are read by name: theirs have nothing to do with the order.
        builder.row(method, key=method[::-1].replace(":", "-"))
    builder.data()
    methods = list(_benchmark(builder)["method"])
    places = [method.split(":")[0] for method in methods]
    assert list(dict.fromkeys(places)) == [
        "data (its own behaviour)",
        "regression",
        "teacher",
        "ctm",
        "ctd",
        "ractd",
        "unheard-of",
        PUBLISHED,
    ]
    # Each stands in one block: no method comes back after another's rows.
    assert places == sorted(places, key=list(dict.fromkeys(places)).index)
    assert len(methods) == 12
    assert {"teacher:ddim-20", "ctd:2", "ctm:2", "ractd:4"} <= set(methods)


def test_a_row_of_other_calls_is_a_setting_of_its_own(builder: SweepBuilder) -> None:
    builder.row("ractd", key="one", training_seeds=(0, 1, 2))
    builder.row("ractd:2", key="two", nfe=2, training_seeds=(5,))
    table = _benchmark(builder).dropna(subset="training_seeds")
    assert table.set_index("method")["training_seeds"].to_dict() == {"ractd": 3, "ractd:2": 1}
    calls = benchmark_text(_benchmark(builder)).set_index("method")["network calls"]
    assert calls["ractd:2"] == "2"
    assert calls["ractd"] == "1"


def test_every_method_has_its_place_and_says_what_it_is(builder: SweepBuilder) -> None:
    for method in reversed(METHODS):
        builder.row(method)
    table = _benchmark(builder)
    assert list(table["method"]) == [*METHODS, PUBLISHED]
    [line] = [line for line in protocol_lines(_sweep(builder)) if line.startswith("Methods: ")]
    for method, each in METHODS.items():
        assert f"{method}: {each.label}" in line


def test_gradients_of_the_reward_model_stand_beside_network_calls(builder: SweepBuilder) -> None:
    builder.row("teacher-guided:ddim-20", key="guided", nfe=20, reward_gradients=20)
    builder.row("teacher:ddim-20", key="plain", nfe=20, reward_gradients=0)
    builder.row("teacher", nfe=158)
    calls = benchmark_text(_benchmark(builder)).set_index("method")["network calls"]
    assert calls["teacher-guided:ddim-20"] == "20 + 20 ∇R"
    assert calls["teacher:ddim-20"] == "20"
    assert calls["teacher"] == "158"


def test_calls_and_latency_are_shared_by_the_actions_of_a_window(builder: SweepBuilder) -> None:
    row: dict[str, Any] = {"nfe": 20, "latency": 12.0, "reward_gradients": 20}
    for count in (1, 8):
        builder.row(f"teacher-guided:ddim-{count}", executed_actions=count, **row)
    builder.row("regression", nfe=1, latency=4.0, executed_actions=None)
    table = _benchmark(builder).set_index("executed_actions")
    for name, whole, shared in (
        ("nfe", 20, 2.5),
        ("reward_gradients", 20, 2.5),
        ("latency_ms", 12, 1.5),
        # They are settings of their own: neither is another training seed of the other.
        ("training_seeds", 1, 1),
    ):
        assert (table[name][1.0], table[name][8.0]) == (whole, shared), name
    text = benchmark_text(_benchmark(builder)).set_index("executed")
    assert (text["network calls"]["8"], text["latency ms"]["8"]) == ("2.5 + 2.5 ∇R", "1.5")
    assert text["network calls"]["–"].tolist() == ["1", "1"]
    # The frame of the rows keeps what one window takes.
    assert set(_sweep(builder).rows["latency_ms"]) == {12.0, 4.0}


def test_a_terminal_shows_executed_actions_only_where_there_are_several(
    builder: SweepBuilder,
) -> None:
    builder.row("ractd", executed_actions=1)
    assert "executed" not in benchmark_terminal(_benchmark(builder))
    builder.row("bc", executed_actions=4)
    assert "executed" in benchmark_terminal(_benchmark(builder))


def test_benchmark_values(builder: SweepBuilder) -> None:
    builder.row("ractd", [100.0, 120.0, 140.0, 200.0], selection_score=150.0)
    line = _benchmark(builder).iloc[0]
    assert line["score"] == 140.0
    assert line["iqm"] == 130.0
    assert line["gap"] == 10.0
    assert line["episodes"] == 4
    assert 100 <= line["low"] < 140 < line["high"] <= 200
    text = benchmark_text(_benchmark(builder)).iloc[0]
    assert text["score [95 % CI]"].startswith("140.0 [")
    assert (text["gap"], text["σ"], text["network calls"]) == ("+10.0", "0.0001", "1")
    assert (text["fingerprint"], text["training seeds"]) == ("f00dfeed", "1 (seed 0)")


def test_the_interval_is_over_training_seeds_where_there_are_several(
    builder: SweepBuilder,
) -> None:
    # The seeds' means are 110, 111 and 112, whatever their episodes.
    builder.row("ractd", [100.0, 120.0], training_seeds=(3, 4, 5))
    builder.row("ctd", [100.0, 120.0], training_seeds=(7,))
    table = _benchmark(builder).set_index("method")
    assert table["score"]["ractd"] == pytest.approx(111.0)
    # 4.3027 is Student's quantile for three values, whose standard deviation is 1.
    half = 4.3027 / np.sqrt(3)
    assert table["low"]["ractd"] == pytest.approx(111 - half, abs=1e-3)
    assert table["high"]["ractd"] == pytest.approx(111 + half, abs=1e-3)
    assert table["interval_over"][["ractd", "ctd"]].tolist() == ["training seeds", "episodes"]
    assert table["low"]["ctd"] == 100.0
    text = benchmark_text(_benchmark(builder)).set_index("method")["training seeds"]
    assert text[["ractd", "ctd"]].tolist() == ["3 (seeds 3 to 5)", "1 (seed 7)"]
    protocol = "\n".join(protocol_lines(_sweep(builder)))
    assert "Student's t over the means" in protocol
    assert "Interval: of all others, 95 % percentile bootstrap" in protocol


def test_failed_row_is_left_out(builder: SweepBuilder) -> None:
    builder.row("ractd", status="failed", reason="worker died", evaluation=None, latency=None)
    assert list(_benchmark(builder)["method"]) == [PUBLISHED]


def test_task_without_published_score(builder: SweepBuilder) -> None:
    builder.data(task="hopper-medium-v2", dataset="local/hopper-medium-v2")
    assert list(_benchmark(builder)["dataset"]) == ["local/hopper-medium-v2"]


def test_empty_sweep_has_an_empty_table(builder: SweepBuilder) -> None:
    assert _benchmark(builder).empty
    assert "score [95 % CI]" in benchmark_text(_benchmark(builder)).columns


def test_trials_table_shows_every_searched_parameter(builder: SweepBuilder) -> None:
    builder.trial(0, params={"student.width": 64})
    builder.trial(1, "failed", reason="boom")
    text = trials_text(trials_table(load(builder.storage, ["quickstart"])))
    assert list(text["student.width"]) == ["64.0", "–"]
    assert list(text["score"]) == ["130.0", "–"]
    assert list(text["reason"]) == ["–", "boom"]


def test_long_reason_is_one_short_line() -> None:
    reason = short_reason("Traceback:\n  " + "x" * 500)
    assert reason.startswith("Traceback: xxx")
    assert reason.endswith("…")
    assert len(reason) == 160
    assert short_reason("a\nb") == "a b"


def test_every_published_figure_has_a_source() -> None:
    table = load_published()
    assert table[["table", "benchmark", "task", "method", "source"]].notna().all().all()
    assert np.isfinite(table["value"]).all()
    assert set(table["measure"]) == {"score", "seconds per action"}
    assert table["source"].str.contains("arXiv").all()


def test_published_figures_that_contradict_each_other_are_marked() -> None:
    """Where one table has two figures for the same thing, each says so."""
    table = load_published()
    same = table["table"].str.rstrip("?") + table["task"].str.replace(r" \(.*", "", regex=True)
    for _, block in table.groupby([same, "method", "measure", table["nfe"].fillna(0)]):
        if block["value"].nunique() > 1 and not block["task"].str.contains("selection").all():
            assert block["conflict"].notna().all(), block
    diffuser = table[(table["method"] == "Diffuser") & table["task"].str.startswith("average of 9")]
    assert diffuser["conflict"].notna().all()
    assert diffuser["value"].tolist() == [77.5, 88.9]


@pytest.mark.parametrize("task", ["maze2d-umaze-v1", "maze2d-umaze"])
def test_base_task(task: str) -> None:
    assert base_task(task) == "maze2d-umaze"


@pytest.mark.parametrize(("task", "doubtful"), [("kitchen-partial-v0", 1), ("maze2d-umaze-v1", 0)])
def test_a_doubtful_published_score_says_so_wherever_it_stands(
    builder: SweepBuilder, task: str, doubtful: int
) -> None:
    builder.row("ractd", task=task, dataset=f"local/{task}")
    table = _benchmark(builder)
    (bars,) = intervals_info(table).datasets.values()
    figure = plot_intervals(intervals_info(table))
    told = (
        benchmark_text(table)["score [95 % CI]"].iloc[-1],
        str(figure.layout.yaxis.ticktext[0]),
    )
    explained = (
        benchmark_terminal(table),
        "\n".join(protocol_lines(_sweep(builder))),
        table["conflict"].fillna("").iloc[-1],
        bars[-1].doubt,
        str(figure.data[-1].hovertemplate),
    )
    assert [text.endswith(" ‡") for text in told] == [bool(doubtful)] * len(told)
    assert [text.count("order partial,mixed inferred") for text in explained] == [doubtful] * 5
