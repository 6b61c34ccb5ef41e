"""The figures' numbers, and what is drawn from them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from analysis import load
from analysis.figures.returns import plot_returns, returns_info
from analysis.figures.stability import plot_stability, stability_info
from analysis.figures.style import STATUS_SYMBOLS
from analysis.methods import METHODS

if TYPE_CHECKING:
    from tests.analysis.conftest import SweepBuilder


def test_stability_info(full: SweepBuilder) -> None:
    info = stability_info(load(full.storage, ["quickstart"]), full.dataset)
    assert info.horizons == (160, 256)
    assert [line.number for line in info.lines] == list(range(8))
    assert [len(line.steps) for line in info.lines] == [6] * 5 + [3, 3, 4]
    assert info.without_curve == 0


def test_plot_stability_marks_how_trials_ended(full: SweepBuilder) -> None:
    info = stability_info(load(full.storage, ["quickstart"]), full.dataset)
    figure = plot_stability(info)
    drawn = [trace for trace in figure.data if trace.x[0] is not None]
    curves = [trace for trace in drawn if "lines" in trace.mode]
    markers = [trace.marker.symbol for trace in drawn if trace.mode == "markers"]
    assert len(curves) == 8
    assert markers == [STATUS_SYMBOLS[status] for status in ("pruned", "pruned", "failed")]
    assert {trace.name for trace in figure.data if trace.showlegend is not False} == {
        "σ = 0",
        "pruned",
        "failed",
    }
    assert "σ 0.001" in curves[-1].hovertemplate
    assert [a.text for a in figure.layout.annotations] == ["horizon 160", "horizon 256"]
    assert list(figure.layout.coloraxis.colorbar.ticktext) == ["1e-05", "0.0001", "0.001"]


def test_colour_follows_the_logarithm_of_sigma(builder: SweepBuilder) -> None:
    for number, sigma in enumerate((1e-4, 1e-3, 1e-2)):
        builder.trial(number, sigma=sigma, curve=[1.0])
    figure = plot_stability(stability_info(load(builder.storage, ["quickstart"]), builder.dataset))
    colours = [trace.line.color for trace in figure.data[:3]]
    assert colours == ["rgb(79, 127, 214)", "rgb(47, 163, 154)", "rgb(217, 154, 43)"]


@pytest.mark.parametrize("sigma", [0.0, 1e-3])
def test_single_trial(builder: SweepBuilder, sigma: float) -> None:
    builder.trial(0, sigma=sigma, curve=[50.0])
    figure = plot_stability(stability_info(load(builder.storage, ["quickstart"]), builder.dataset))
    assert list(figure.data[0].y) == [50.0]


def test_many_sigmas_are_read_against_decades(builder: SweepBuilder) -> None:
    for number in range(9):
        builder.trial(number, sigma=10 ** (-4.2 + 0.4 * number), curve=[1.0])
    figure = plot_stability(stability_info(load(builder.storage, ["quickstart"]), builder.dataset))
    assert list(figure.layout.coloraxis.colorbar.tickvals) == [-4.0, -3.0, -2.0, -1.0]


def test_nan_scores_break_the_line_and_do_not_end_it(builder: SweepBuilder) -> None:
    builder.trial(0, "failed", curve=[10.0, float("nan"), 30.0, None])
    builder.trial(1, "failed", curve=[None])
    builder.trial(2, "failed")
    info = stability_info(load(builder.storage, ["quickstart"]), builder.dataset)
    (line,) = info.lines
    assert math.isnan(line.scores[1])
    assert line.end == (300, 30.0)
    assert info.without_curve == 2


def test_every_training_seed_has_a_line(builder: SweepBuilder) -> None:
    folder = builder.trial(0)
    points = [
        {"training_seed": seed, "step": step, "score": 10.0 * seed + step}
        for seed in (0, 1)
        for step in (1, 2)
    ]
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    builder.trial(1)
    info = stability_info(load(builder.storage, ["quickstart"]), builder.dataset)
    assert [line.scores for line in info.lines] == [(1.0, 2.0), (11.0, 12.0)]
    assert info.without_curve == 1


def test_empty_figures_still_draw(builder: SweepBuilder) -> None:
    sweep = load(builder.storage, ["quickstart"])
    assert stability_info(sweep, builder.dataset).lines == ()
    assert returns_info(sweep, builder.dataset).groups == ()
    plot_stability(stability_info(sweep, builder.dataset))
    plot_returns(returns_info(sweep, builder.dataset))


def test_returns_share_their_bins(full: SweepBuilder) -> None:
    info = returns_info(load(full.storage, ["quickstart"]), full.dataset)
    labels = ["data", "regression", "teacher", "ctd", "ractd"]
    assert [group.label for group in info.groups] == labels
    assert [group.count for group in info.groups] == [300, 100, 100, 100, 100]
    for group in info.groups:
        assert len(group.shares) == len(info.edges) - 1
        assert sum(group.shares) == pytest.approx(1)
    figure = plot_returns(info)
    assert figure.data[0].name.startswith("data: mean 43.7, n = 300")
    # The paper's figure 3.
    shown = [trace.name.partition(":")[0] for trace in figure.data if trace.visible is True]
    assert shown == ["data", "teacher", "ctd", "ractd"]


def test_a_method_keeps_its_colour_whatever_else_is_drawn(builder: SweepBuilder) -> None:
    def drawn() -> dict[str, tuple[str, str, object]]:
        info = returns_info(load(builder.storage, ["quickstart"]), builder.dataset)
        return {
            trace.name.partition(": mean")[0]: (trace.line.color, trace.line.dash, trace.visible)
            for trace in plot_returns(info).data
        }

    builder.row("joint", [1.0, 2.0])
    builder.row("teacher:ddim-20", [3.0], key="few")
    before = drawn()
    for method in (*METHODS, "reward-in-both:2"):
        builder.row(method, [5.0], key=method.replace(":", "-"))
    after = drawn()
    assert after.items() >= before.items()
    assert set(after) == {*METHODS, "reward-in-both:2", "teacher:ddim-20"}
    own = {method: after[method][0] for method in METHODS}
    # A task has one of these two.
    assert own.pop("bc") == own["regression"]
    assert len(set(own.values())) == len(own)
    assert after["teacher:ddim-20"] == (own["teacher"], "dot", True)
    assert after["reward-in-both:2"] == (own["reward-in-both"], "dot", "legendonly")
    shown = {method for method in METHODS if after[method][2] is True}
    assert shown == {"teacher", "ctd", "ractd"}


def test_returns_pool_rows_and_take_equal_scores(builder: SweepBuilder) -> None:
    builder.row("ractd", [5.0, 5.0], key="a")
    type(builder)(builder.storage, "other").row("ractd", [5.0], key="b")
    (group,) = returns_info(load(builder.storage), builder.dataset).groups
    assert (group.count, group.mean) == (3, 5.0)
