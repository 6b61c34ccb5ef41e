"""Slices of the search space: the score of every trial against each parameter alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.points import TrialPoint, searched, trial_points
from analysis.figures.scale import Scale
from analysis.figures.style import (
    SCORE_TITLE,
    STATUS_COLOURS,
    STATUS_SYMBOLS,
    apply_style,
)
from analysis.records import Records

_COLUMNS = 4


@dataclass(frozen=True)
class SlicesInfo:
    """The trials of one dataset and a scale for each searched parameter."""

    dataset: str
    scales: tuple[Scale, ...]
    points: tuple[TrialPoint, ...]

    @property
    def columns(self) -> int:
        """Panels beside each other."""
        return min(_COLUMNS, max(1, len(self.scales)))

    @property
    def without_score(self) -> int:
        """How many trials ended before their first score."""
        return sum(math.isnan(height(point)) for point in self.points)


def slices_info(sweep: Records, dataset: str) -> SlicesInfo:
    """The slices' numbers; no scale where no parameter took two values."""
    points = trial_points(sweep, dataset)
    return SlicesInfo(dataset, searched(points), points)


def height(point: TrialPoint) -> float:
    """A completed trial's selection score, for others the last score that they reached."""
    return point.score if point.status == "completed" else point.last


def plot_slices(info: SlicesInfo) -> go.Figure:
    """A panel per parameter; pruned trials are crosses and failed ones triangles."""
    rows = max(1, math.ceil(len(info.scales) / _COLUMNS))
    columns = info.columns
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.28 / rows,
    )
    for place, scale in enumerate(info.scales):
        row, column = place // columns + 1, place % columns + 1
        for status, colour in STATUS_COLOURS.items():
            points = [point for point in info.points if point.status == status]
            if points:
                figure.add_trace(
                    _trace(scale, status, colour, points, named=place == 0), row=row, col=column
                )
        figure.update_xaxes(
            title_text=scale.label,
            tickvals=scale.ticks,
            ticktext=scale.texts,
            row=row,
            col=column,
        )
    figure.update_yaxes(title_text=SCORE_TITLE, col=1)
    return apply_style(figure, height=120 + 250 * rows)


def _trace(
    scale: Scale, status: str, colour: str, points: list[TrialPoint], named: bool
) -> go.Scatter:
    return go.Scatter(
        x=[scale.place(point.params.get(scale.name)) for point in points],
        y=[height(point) for point in points],
        customdata=[point.name for point in points],
        mode="markers",
        marker={
            "color": colour,
            "symbol": STATUS_SYMBOLS[status],
            "size": 8,
            "opacity": 0.75,
            "line": {"color": colour, "width": 1.5 if status == "pruned" else 0},
        },
        name=status,
        legendgroup=status,
        showlegend=named,
        hovertemplate="%{customdata}<br>score %{y:.1f}<extra></extra>",
    )
