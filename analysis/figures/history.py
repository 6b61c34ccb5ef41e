"""The history of a search: what each trial scored, the best so far, and what was still missing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.points import TrialPoint, trial_points
from analysis.figures.slices import height
from analysis.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SCORE_TITLE,
    SKY,
    STATUS_SYMBOLS,
    VERMILLION,
    apply_style,
    plain,
)
from analysis.records import Records

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, GREY)


@dataclass(frozen=True)
class SearchHistory:
    """One sweep's trials by number, and the best selection score after each completed one.

    `regrets` is how far that is below the best score of all sweeps shown; never negative.
    """

    sweep: str
    points: tuple[TrialPoint, ...]
    numbers: tuple[int, ...]
    best: tuple[float, ...]
    regrets: tuple[float, ...]


@dataclass(frozen=True)
class HistoryInfo:
    """The searches of one dataset; `reference` is the best score found, NaN without any."""

    dataset: str
    reference: float
    searches: tuple[SearchHistory, ...]


def history_info(records: Records, dataset: str) -> HistoryInfo:
    """The figure's numbers for every sweep with trials on `dataset`."""
    points = trial_points(records, dataset)
    reference = max((p.score for p in points if math.isfinite(p.score)), default=math.nan)
    searches = tuple(
        _search(name, tuple(p for p in points if p.sweep == name), reference)
        for name in records.sweeps["sweep"]
    )
    return HistoryInfo(dataset, reference, tuple(each for each in searches if each.points))


def plot_history(info: HistoryInfo) -> go.Figure:
    """Above the scores and the best so far, below the regret; one colour per sweep."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.64, 0.36])
    for place, search in enumerate(info.searches):
        colour = _COLOURS[place % len(_COLOURS)]
        shared = {"legendgroup": search.sweep, "showlegend": False}
        line = {"shape": "hv", "color": colour, "width": 2}
        figure.add_trace(
            go.Scatter(
                x=[point.number for point in search.points],
                y=[height(point) for point in search.points],
                customdata=[point.name for point in search.points],
                mode="markers",
                marker={
                    "symbol": [STATUS_SYMBOLS[point.status] for point in search.points],
                    "color": colour,
                    "size": 7,
                    "opacity": 0.6,
                    "line": {"color": colour, "width": 1},
                },
                hovertemplate="%{customdata}<br>score %{y:.1f}<extra></extra>",
                **shared,
            ),
            row=1,
            col=1,
        )
        figure.add_trace(
            go.Scatter(
                x=list(search.numbers),
                y=list(search.best),
                mode="lines",
                line=line,
                name=f"{plain(search.sweep)}, best so far",
                hovertemplate="best up to trial %{x}: %{y:.1f}<extra></extra>",
                **(shared | {"showlegend": True}),
            ),
            row=1,
            col=1,
        )
        figure.add_trace(
            go.Scatter(
                x=list(search.numbers),
                y=list(search.regrets),
                mode="lines",
                line=line,
                hovertemplate="regret after trial %{x}: %{y:.1f}<extra></extra>",
                **shared,
            ),
            row=2,
            col=1,
        )
    figure.update_yaxes(title_text=SCORE_TITLE, row=1)
    figure.update_yaxes(title_text="regret", rangemode="tozero", row=2)
    figure.update_xaxes(title_text="trial", row=2)
    return apply_style(figure, height=540)


def _search(name: str, points: tuple[TrialPoint, ...], reference: float) -> SearchHistory:
    numbers: list[int] = []
    best: list[float] = []
    for point in points:
        if math.isfinite(point.score):
            numbers.append(point.number)
            best.append(max(point.score, best[-1]) if best else point.score)
    # The line goes on to the last trial, though that may have been stopped.
    if numbers and points[-1].number > numbers[-1]:
        numbers.append(points[-1].number)
        best.append(best[-1])
    regrets = tuple(reference - score for score in best)
    return SearchHistory(name, points, tuple(numbers), tuple(best), regrets)
