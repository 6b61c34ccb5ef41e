"""Figures of methods and training: ladder, Pareto front, intervals, profiles, error, timeline."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis import load
from analysis.figures.intervals import intervals_info, plot_intervals
from analysis.figures.ladder import ladder_info, plot_ladder
from analysis.figures.pareto import pareto_info, plot_pareto
from analysis.figures.profiles import plot_profiles, profiles_info
from analysis.figures.reward_error import plot_reward_error, reward_error_info
from analysis.figures.stability import stability_info
from analysis.figures.timeline import plot_timeline, timeline_info
from analysis.protocol import protocol_lines
from analysis.records import Records
from analysis.tables import PUBLISHED, benchmark_table, benchmark_terminal, benchmark_text
from tests.analysis.conftest import SweepBuilder
from tests.analysis.generated import write_trials

_DIAGNOSED = {
    "reward_r2_train": 0.75,
    "reward_r2_held_out": 0.5,
    "reward_r2_own": -3.0,
    "reward_rank_own": 0.25,
    "reward_bias_own": -7.0,
}


def _records(builder: SweepBuilder) -> Records:
    return load(builder.storage, [builder.name])


def _curves(folder: Path, scores: dict[int, list[float | None]]) -> None:
    points = [
        {"training_seed": seed, "step": 100 * (place + 1), "score": score, "ctm": 0.5, "dsm": None}
        for seed, curve in scores.items()
        for place, score in enumerate(curve)
    ]
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))


def test_a_rung_is_the_median_and_quartiles_of_its_runs(builder: SweepBuilder) -> None:
    _curves(builder.trial(0, sigma=1e-4), {0: [10.0, 50.0], 1: [20.0, 60.0]})
    _curves(builder.trial(1, sigma=1e-4), {0: [30.0, 70.0], 1: [40.0, None]})
    _curves(builder.trial(2, sigma=0.0), {0: [5.0]})
    _curves(builder.trial(3, "failed", sigma=1.0, reason="diverged: loss is NaN"), {0: [3.0, None]})
    zero, small, large = ladder_info(_records(builder), builder.dataset).rungs
    assert (zero.label, small.label, large.label) == ("σ = 0", "σ = 1e-4", "σ = 1")
    band = small.bands["score"]
    assert (band.steps, band.counts, small.runs) == ((100, 200), (4, 3), 4)
    assert band.medians == (25.0, 60.0)
    assert (band.lows, band.highs) == ((17.5, 55.0), (32.5, 65.0))
    assert small.bands["dsm"].steps == ()
    assert small.diverged == ()
    assert [(end.step, end.score) for end in large.diverged] == [(100, 3.0)]
    figure = plot_ladder(ladder_info(_records(builder), builder.dataset))
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "σ = 0 (1)",
        "σ = 1e-4 (4)",
        "σ = 1 (1)",
    ]
    crosses = [trace for trace in figure.data if trace.mode == "markers"]
    assert [trace.marker.symbol for trace in crosses] == ["x"]


def test_losses_over_many_decades_are_drawn_by_their_logarithm(builder: SweepBuilder) -> None:
    folder = builder.trial(0)
    points = [{"training_seed": 0, "step": step, "ctm": 10.0**-step} for step in range(1, 5)]
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    layout = plot_ladder(ladder_info(_records(builder), builder.dataset)).layout
    assert layout.yaxis2.type == "log"
    assert layout.yaxis3.type != "log"


def test_the_front_is_what_nothing_else_beats_in_both(builder: SweepBuilder) -> None:
    for method, score, latency in (
        ("ractd", 130.0, 1.0),
        ("ctd", 120.0, 1.0),
        ("regression", 125.0, 0.5),
        ("teacher", 140.0, 100.0),
        ("teacher:ddim-20", 129.0, 10.0),
        ("joint", 150.0, None),
    ):
        builder.row(method, [score, score], latency=latency, key=method.replace(":", "-"))
    info = pareto_info(benchmark_table(_records(builder)), builder.dataset)
    assert [(p.method, p.best) for p in info.points] == [
        ("regression", True),
        ("ractd", True),
        ("ctd", False),
        ("teacher:ddim-20", False),
        ("teacher", True),
    ]
    assert info.untimed == 1
    front = plot_pareto(info).data[0]
    assert front.x == (0.5, 1.0, 100.0)


def test_a_point_without_an_interval_shows_none(builder: SweepBuilder) -> None:
    builder.row("ractd", [130.0, 132.0])
    builder.row("ctd", [120.0])
    info = pareto_info(benchmark_table(_records(builder)), builder.dataset)
    hovers = {trace.name: trace.hovertemplate for trace in plot_pareto(info).data}
    assert "score %{y:.1f} [130.0, 132.0]<" in hovers["ractd"]
    assert "score %{y:.1f}<" in hovers["ctd"]


def test_intervals_are_those_of_the_table_with_the_published_score(full: SweepBuilder) -> None:
    table = benchmark_table(_records(full))
    (bars,) = intervals_info(table).datasets.values()
    assert [bar.method for bar in bars] == list(table["method"])
    assert bars[-1].method == PUBLISHED
    assert math.isnan(bars[-1].low)
    assert bars[-2].low < bars[-2].score < bars[-2].high
    figure = plot_intervals(intervals_info(table))
    assert list(figure.layout.yaxis.ticktext)[-1] == "data"
    assert "over episodes" in figure.data[1].hovertemplate


def test_a_doubtful_published_figure_is_marked_wherever_it_stands(builder: SweepBuilder) -> None:
    builder.row("ractd", dataset="local/kitchen-partial-v0", task="kitchen-partial-v0")
    records = _records(builder)
    table = benchmark_table(records)
    assert benchmark_text(table)["score [95 % CI]"].iloc[-1] == "59.0 ‡"
    doubt = "order partial,mixed inferred"
    assert f"59.0: {doubt}" in benchmark_terminal(table)
    assert any(f"‡ It is doubtful: {doubt}" in line for line in protocol_lines(records))
    figure = plot_intervals(intervals_info(table))
    assert figure.layout.yaxis.ticktext[0] == "published ‡"
    assert f"‡ {doubt}" in figure.data[-1].hovertemplate


def test_a_profile_is_the_share_of_runs_above(builder: SweepBuilder) -> None:
    builder.row("ractd", [100.0], training_seeds=(0, 10, 20))
    builder.row("teacher", [50.0], training_seeds=(0,))
    info = profiles_info(_records(builder))
    assert info.runs == {"ractd": 3}
    profile = info.profiles["ractd"]
    shares = dict(zip(profile.thresholds, profile.shares, strict=True))
    assert [share for threshold, share in shares.items() if threshold < 100] == pytest.approx(
        [1.0] * sum(threshold < 100 for threshold in shares)
    )
    assert profile.shares[-1] == 0
    assert list(profile.shares) == sorted(profile.shares, reverse=True)
    assert plot_profiles(info).data[-1].name == "ractd (3)"


def test_a_diverged_run_counts_in_a_profile(builder: SweepBuilder) -> None:
    builder.row("ractd", [100.0], training_seeds=(0, 1))
    lost: dict[str, Any] = {
        "status": "failed",
        "reason": "diverged: NaN",
        "evaluation": None,
        "latency": None,
    }
    builder.row("ctd", training_seeds=(0, 1), **lost)
    info = profiles_info(_records(builder))
    assert info.runs == {"ractd": 2, "ctd": 2}
    # Both lie at the score of a random policy, and thresholds begin below it.
    assert info.profiles["ctd"].shares[0] == 1.0
    profile = info.profiles["ctd"]
    shares = dict(zip(profile.thresholds, profile.shares, strict=True))
    assert all(share == (threshold < 0) for threshold, share in shares.items())


def test_a_method_that_lacks_a_dataset_has_no_profile(builder: SweepBuilder) -> None:
    for place, dataset in enumerate(("local/a-v1", "local/b-v1")):
        builder.row("ractd", key=f"r{place}", dataset=dataset)
    builder.row("ctd", key="c", dataset="local/a-v1")
    assert set(profiles_info(_records(builder)).profiles) == {"ractd"}


def test_the_reward_models_error_is_over_the_variance(builder: SweepBuilder) -> None:
    builder.trial(0, sigma=1e-3, diagnostics=_DIAGNOSED)
    builder.trial(1, sigma=1e-2)
    info = reward_error_info(_records(builder), builder.dataset)
    (trial,) = info.trials
    assert trial.errors == {
        "reward_r2_train": 0.25,
        "reward_r2_held_out": 0.5,
        "reward_r2_own": 4.0,
    }
    assert (trial.rank, trial.bias) == (0.25, -7.0)
    names = [trace.name for trace in plot_reward_error(info).data]
    assert names == ["data, trained on", "data, held out", "student's own episodes", None]


def test_trials_of_equal_numbers_in_two_sweeps_are_two(builder: SweepBuilder) -> None:
    for name, rank in (("one", 0.25), ("two", 0.75)):
        each = SweepBuilder(builder.storage, name)
        for number in range(2):
            diagnosed = {**_DIAGNOSED, "reward_rank_own": rank}
            each.trial(number, sigma=1e-3, curve=[1.0, 2.0], diagnostics=diagnosed)
    records = load(builder.storage, ["one", "two"])
    errors = reward_error_info(records, builder.dataset)
    assert [each.rank for each in errors.trials] == [0.25, 0.25, 0.75, 0.75]
    stability = stability_info(records, builder.dataset)
    assert (len(stability.lines), stability.without_curve, stability.left_out) == (4, 0, 0)


def test_spans_that_overlap_lie_on_several_lanes(builder: SweepBuilder) -> None:
    stage = builder.stage("teacher", "t", 120.0)
    keys = []
    for number in range(3):
        keys.append(builder.trial(number, stages={"teacher": stage}).name)
    events = [
        {"time": "2026-01-05T10:00:00+00:00", "kind": "sweep", "state": "started"},
        {"time": "2026-01-05T10:02:00+00:00", "kind": "stage", "state": "built"}
        | {"name": stage, "seconds": 60.0},
        *(
            {"time": f"2026-01-05T10:{minute:02d}:00+00:00", "kind": "trial", "key": key}
            | {"state": state, "dataset": builder.dataset, "seconds": 120.0}
            for key, state, minute in zip(
                keys, ("completed", "pruned", "failed"), (4, 5, 6), strict=True
            )
        ),
    ]
    (builder.folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    info = timeline_info(_records(builder))
    assert [(s.what, s.start, s.end, s.lane) for s in info.spans] == [
        ("teacher", 1.0, 2.0, 0),
        ("trial completed", 2.0, 4.0, 0),
        ("trial pruned", 3.0, 5.0, 1),
        ("trial failed", 4.0, 6.0, 0),
    ]
    assert info.starts == (0.0,)
    (shared,) = info.shared
    assert (shared.stages, shared.uses, shared.spent, shared.saved) == (1, 3, 2.0, 4.0)
    assert len(plot_timeline(info).data) == 6
    assert info.trials == 3
    assert info.trained == pytest.approx(3 * 12.3 / 60)
    assert math.isnan(info.allowed)
    assert math.isnan(info.out_of_time)


def test_the_budget_is_where_drivers_have_run_for_its_hours(builder: SweepBuilder) -> None:
    (builder.folder / "spec.yaml").write_text("budget: {hours: 0.1, device_hours: 2}")
    events = [
        {"time": f"2026-01-05T{time}:00+00:00", "kind": "sweep", "state": state}
        for time, state in (("10:00", "started"), ("10:04", "interrupted"), ("12:00", "started"))
    ]
    ticks: list[dict[str, Any]] = [
        {"time": f"2026-01-05T12:0{minute}:00+00:00", "kind": "message"} for minute in (1, 5)
    ]
    ticks[0] |= {"kind": "stage", "name": "teacher-t", "seconds": 30}
    log = builder.folder / "events.jsonl"
    log.write_text("".join(json.dumps(each) + "\n" for each in [*events, *ticks]))
    info = timeline_info(_records(builder))
    # Six minutes of drivers: four, and two more after the pause.
    assert (info.out_of_time, info.allowed) == (122.0, 120.0)
    lines = [shape for shape in plot_timeline(info).layout.shapes if shape.line.dash == "dash"]
    assert [line.x0 for line in lines] == [122.0, 120.0]
    log.write_text(json.dumps(events[0]) + "\n")
    assert math.isnan(timeline_info(_records(builder)).out_of_time)


def test_a_stage_that_was_logged_without_its_name_is_drawn(builder: SweepBuilder) -> None:
    event = {"time": "2026-01-05T10:02:00+00:00", "kind": "stage", "state": "built", "seconds": 60}
    (builder.folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    (span,) = timeline_info(_records(builder)).spans
    assert (span.what, span.name) == ("other stage", "unnamed stage")


def test_of_many_trials_some_lines_are_left_out(tmp_path: Path) -> None:
    write_trials(tmp_path, 450, points=2, episodes=2)
    info = stability_info(load(tmp_path), SweepBuilder.dataset)
    assert len(info.lines) == 150
    assert info.left_out == 300


@pytest.mark.parametrize(
    "draw",
    [
        lambda sweep: plot_ladder(ladder_info(sweep, SweepBuilder.dataset)),
        lambda sweep: plot_pareto(pareto_info(benchmark_table(sweep), SweepBuilder.dataset)),
        lambda sweep: plot_intervals(intervals_info(benchmark_table(sweep))),
        lambda sweep: plot_profiles(profiles_info(sweep)),
        lambda sweep: plot_reward_error(reward_error_info(sweep, SweepBuilder.dataset)),
        lambda sweep: plot_timeline(timeline_info(sweep)),
    ],
)
def test_nothing_or_little_still_draws(
    builder: SweepBuilder, draw: Callable[[Records], Any]
) -> None:
    draw(_records(builder)).to_json()
    builder.trial(0, "failed", reason="diverged: NaN", curve=[None])
    builder.row("unheard-of", [1.0], key="new")
    draw(_records(builder)).to_json()
