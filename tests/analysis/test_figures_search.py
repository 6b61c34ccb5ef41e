"""Figures of the search: history, slices, contours, horizons, importance, parallel coordinates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from analysis import load
from analysis.figures.contours import contours_info, plot_contours
from analysis.figures.history import history_info, plot_history
from analysis.figures.horizons import horizons_info, plot_horizons
from analysis.figures.importance import association, importance_info, plot_importance
from analysis.figures.parallel import parallel_info, plot_parallel
from analysis.figures.slices import plot_slices, slices_info
from analysis.records import Records
from tests.analysis.conftest import SweepBuilder

_EVERY = (
    (history_info, plot_history),
    (slices_info, plot_slices),
    (contours_info, plot_contours),
    (horizons_info, plot_horizons),
    (importance_info, plot_importance),
    (parallel_info, plot_parallel),
)


def _records(builder: SweepBuilder, *names: str) -> Records:
    return load(builder.storage, names or [builder.name])


def _scored(score: float) -> dict[str, Any]:
    rules = dict.fromkeys(("score", "last", "best", "mean_of_last"), score)
    return {"rule": "last", "std": 1.0, "episodes": 50, "first_seed": 10_000} | rules


def test_regret_falls_to_zero_against_the_best_of_all_sweeps(builder: SweepBuilder) -> None:
    other = SweepBuilder(builder.storage, "other")
    for number, score in enumerate((50.0, 70.0, 60.0)):
        builder.trial(number, selection=_scored(score))
    builder.trial(3, "pruned", curve=[99.0])
    other.trial(0, selection=_scored(90.0))
    ours, theirs = history_info(_records(builder, "quickstart", "other"), builder.dataset).searches
    assert ours.numbers == (0, 1, 2, 3)
    assert ours.best == (50.0, 70.0, 70.0, 70.0)
    assert ours.regrets == (40.0, 20.0, 20.0, 20.0)
    assert theirs.regrets == (0.0,)


def test_slices_show_how_far_stopped_trials_came(builder: SweepBuilder) -> None:
    builder.trial(0, sigma=1e-4, selection=_scored(80.0))
    builder.trial(1, "pruned", sigma=1e-3, curve=[10.0, 20.0])
    builder.trial(2, "failed", sigma=1e-2)
    info = slices_info(_records(builder), builder.dataset)
    assert [scale.label for scale in info.scales] == ["σ"]
    assert info.without_score == 1
    drawn = {trace.name: trace.y for trace in plot_slices(info).data}
    assert drawn["completed"] == (80.0,)
    assert drawn["pruned"] == (20.0,)
    assert "trial 1 of quickstart (pruned)" in plot_slices(info).data[1].customdata[0]


def test_a_surface_is_smooth_and_empty_far_from_trials(builder: SweepBuilder) -> None:
    places = [(1e-4, 1.0), (1.1e-4, 1.1), (1.2e-4, 0.9), (0.9e-4, 1.0), (1e-2, 30.0)]
    for number, (sigma, alpha) in enumerate(places):
        builder.trial(
            number, sigma=sigma, params={"ctm_weight": alpha}, selection=_scored(50.0 + number)
        )
    (surface,) = contours_info(_records(builder), builder.dataset).surfaces
    values = np.array(surface.scores)
    assert (surface.x.label, surface.y.label) == ("σ", "α")
    assert np.nanmin(values) >= 49.9
    assert np.nanmax(values) <= 54.1
    assert math.isnan(values[0, -1])
    assert values[-1, -1] == pytest.approx(54.0, abs=0.1)


def test_a_heat_map_counts_what_each_cell_is_of(full: SweepBuilder) -> None:
    info = horizons_info(_records(full), full.dataset)
    assert info.horizons == (160, 256)
    assert info.rungs == ("σ = 0", "σ = 1e-5", "σ = 1e-4", "σ = 0.001")
    assert sum(cell.completed for row in info.cells for cell in row) == 5
    assert info.cells[1][3].failed == 1
    assert math.isnan(info.cells[1][3].score)
    assert info.cells[0][0].score == 130.0


def test_association_is_one_for_a_copy_and_nothing_for_noise() -> None:
    generator = np.random.default_rng(0)
    best = np.arange(400) % 4 == 0
    assert association(best.astype(np.int64), best) == pytest.approx(1, abs=0.01)
    noise = [association(generator.integers(4, size=400), best) for _ in range(200)]
    assert np.mean(noise) < 0.06
    assert association(np.zeros(400, dtype=np.int64), best) == 0
    assert association(np.arange(400) % 4, np.zeros(400, dtype=np.bool_)) == 0


def test_stopped_trials_count_as_not_among_the_best(builder: SweepBuilder) -> None:
    """Everything with a large σ is pruned: only counting those can show that σ matters."""
    generator = np.random.default_rng(0)
    for number in range(60):
        large = number % 2 == 1
        builder.trial(
            number,
            "pruned" if large else "completed",
            sigma=10 ** (generator.uniform(-3, -2) if large else generator.uniform(-5, -4)),
            params={"ctm_weight": float(generator.uniform(0.3, 3))},
            selection=None if large else _scored(float(generator.normal(100, 5))),
        )
    info = importance_info(_records(builder), builder.dataset)
    first = info.parameters[0]
    assert first.name == "σ"
    assert first.value > first.chance
    assert first.value > first.completed_only
    assert info.parameters[1].value < info.parameters[1].chance
    assert (info.completed, info.stopped) == (30, 30)


def test_importance_ignores_trials_that_broke(builder: SweepBuilder) -> None:
    for number in range(10):
        builder.trial(number, sigma=10.0 ** -(2 + number % 3), selection=_scored(float(number)))
    before = importance_info(_records(builder), builder.dataset)
    for number in range(10, 20):
        builder.trial(number, "failed", sigma=1.0, reason="out of memory")
    assert importance_info(_records(builder), builder.dataset) == before


def test_a_line_of_a_stopped_trial_ends_before_the_score(full: SweepBuilder) -> None:
    info = parallel_info(_records(full), full.dataset)
    assert [scale.label for scale in info.scales] == ["σ", "horizon", "score"]
    assert {name: len(points) for name, points in info.groups.items()} == {
        "best quarter": 2,
        "second quarter": 1,
        "lower half": 2,
        "stopped": 3,
    }
    stopped = next(trace for trace in plot_parallel(info).data if "stopped" in trace.name)
    scores = [y for x, y in zip(stopped.x, stopped.y, strict=True) if x == 2]
    assert all(math.isnan(score) for score in scores)


@pytest.mark.parametrize(("info", "plot"), _EVERY)
def test_little_or_odd_to_show_still_draws(builder: SweepBuilder, info: Any, plot: Any) -> None:
    plot(info(_records(builder), builder.dataset))
    builder.trial(0, "failed", sigma=0.0, reason="diverged: NaN")
    plot(info(_records(builder), builder.dataset))
    builder.trial(1, curve=[float("nan"), None], params={"student.times": "mixed"})
    builder.trial(2, params={"student.times": "uniform", "student.network.widths": [32, 64]})
    for number in range(3, 12):
        builder.trial(number, "pruned", curve=[1.0])
    figure = plot(info(_records(builder), builder.dataset))
    assert figure.layout.height >= 110
    figure.to_json()


def test_a_hostile_parameter_is_no_markup(builder: SweepBuilder) -> None:
    for number, value in enumerate(("<a href='https://x'>y</a>", "plain")):
        builder.trial(number, params={"student.times": value})
    text = plot_slices(slices_info(_records(builder), builder.dataset)).to_json()
    assert "<a href" not in text
