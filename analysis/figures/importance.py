"""Which parameters told good trials from bad, counting those that were stopped early.

A trial that was pruned or diverged has no final score, but it is known not to be among the best.
So the question is not how much of the score a parameter explains but how far the best trials'
values differ from all trials': the idea of PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255),
measured by Cramér's V without its bias (Bergsma 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from analysis.figures.points import TrialPoint, searched, trial_points
from analysis.figures.style import BLUE, GREY, apply_style, plain
from analysis.records import Records

_FEWEST = 8
"""Trials below which nothing can be told."""
_BEST = 0.25
_BINS = 4
_SHUFFLES = 500


@dataclass(frozen=True)
class Importance:
    """One parameter: `value` from 0 (the best trials are spread like all) to 1.

    `chance` is what 95 % of random orders of the trials stay below, `completed_only` the value
    that one would get by leaving out the trials that were stopped.
    """

    name: str
    value: float
    chance: float
    completed_only: float


@dataclass(frozen=True)
class ImportanceInfo:
    """The parameters of one dataset, the most important first, and the trials counted."""

    dataset: str
    parameters: tuple[Importance, ...]
    completed: int
    stopped: int


def importance_info(sweep: Records, dataset: str) -> ImportanceInfo:
    """The figure's numbers; no parameter with fewer than eight trials.

    Trials that failed for an outer reason (no memory, a lost disk) say nothing and are left out.
    """
    points = [
        p for p in trial_points(sweep, dataset) if p.status in ("completed", "pruned") or p.diverged
    ]
    completed = [p for p in points if math.isfinite(p.score)]
    parameters = [
        Importance(
            scale.label,
            association(bins := _binned(points, scale.name), best := _best(points)),
            _chance(bins, best),
            association(_binned(completed, scale.name), _best(completed)),
        )
        for scale in (searched(points) if len(points) >= _FEWEST and completed else ())
    ]
    parameters.sort(key=lambda each: -each.value)
    stopped = len(points) - len(completed)
    return ImportanceInfo(dataset, tuple(parameters), len(completed), stopped)


def association(bins: NDArray[np.int64], best: NDArray[np.bool_]) -> float:
    """Cramér's V, free of bias, between the bin of a value and being among the best; 0 to 1."""
    count, columns = len(bins), int(bins.max(initial=0)) + 1
    if columns < 2 or best.all() or not best.any():
        return 0.0
    table = np.zeros((2, columns))
    np.add.at(table, (best.astype(np.int64), bins), 1)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / count
    square = float(((table - expected) ** 2 / expected).sum()) / count
    unbiased = max(0.0, square - (columns - 1) / (count - 1))
    smaller = min(2 - 1 / (count - 1), columns - (columns - 1) ** 2 / (count - 1)) - 1
    return math.sqrt(min(1.0, unbiased / smaller)) if smaller > 0 else 0.0


def plot_importance(info: ImportanceInfo) -> go.Figure:
    """A bar per parameter, the most important on top, and a tick where chance ends."""
    shown = list(reversed(info.parameters))
    names = [plain(each.name) for each in shown]
    figure = go.Figure(
        [
            go.Bar(
                x=[each.value for each in shown],
                y=names,
                orientation="h",
                marker={"color": BLUE},
                name="all trials",
                hovertemplate="%{y}: %{x:.2f}<extra></extra>",
            ),
            go.Scatter(
                x=[each.completed_only for each in shown],
                y=names,
                mode="markers",
                marker={"symbol": "circle-open", "size": 10, "color": GREY, "line": {"width": 2}},
                name="completed trials alone",
                hovertemplate="%{y}, completed trials alone: %{x:.2f}<extra></extra>",
            ),
            go.Scatter(
                x=[each.chance for each in shown],
                y=names,
                mode="markers",
                marker={"symbol": "line-ns", "size": 18, "line": {"width": 2, "color": GREY}},
                name="chance (95 %)",
                hovertemplate="%{y}: chance reaches %{x:.2f}<extra></extra>",
            ),
        ]
    )
    figure.update_xaxes(title_text="Cramér's V", range=[-0.02, 1.02])
    return apply_style(figure, height=190 + 42 * max(1, len(shown)))


def _best(points: Sequence[TrialPoint]) -> NDArray[np.bool_]:
    """The best quarter of the trials, by score; what was stopped is never among them."""
    scores = np.array([p.score if math.isfinite(p.score) else -math.inf for p in points])
    taken = min(max(1, round(_BEST * len(points))), int(np.isfinite(scores).sum()))
    best = np.zeros(len(points), dtype=np.bool_)
    best[np.argsort(-scores, kind="stable")[:taken]] = True
    return best


def _binned(points: Sequence[TrialPoint], name: str) -> NDArray[np.int64]:
    """The bin of each trial's value: the value itself if few occur, else its quartile."""
    values = [point.params.get(name) for point in points]
    distinct = sorted({str(value) for value in values})
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(distinct) <= _BINS or len(numbers) < len(values):
        return np.array([distinct.index(str(value)) for value in values], dtype=np.int64)
    array = np.array(numbers, dtype=np.float64)
    edges = np.quantile(array, np.linspace(0, 1, _BINS + 1)[1:-1])
    _, places = np.unique(np.searchsorted(edges, array, side="left"), return_inverse=True)
    return places.astype(np.int64)


def _chance(bins: NDArray[np.int64], best: NDArray[np.bool_]) -> float:
    generator = np.random.default_rng(0)
    drawn = [association(bins, generator.permutation(best)) for _ in range(_SHUFFLES)]
    return float(np.quantile(drawn, 0.95))
