"""Contours: the score over every pair of σ, α and β, smoothed between the trials."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from analysis.figures.points import TrialPoint, searched, trial_points
from analysis.figures.scale import Scale
from analysis.figures.style import FILLED, apply_style
from analysis.records import Records
from analysis.schema import WEIGHTS

_CELLS = 25
_FEWEST = 5
"""Completed trials below which a surface says nothing."""
_REACH = 0.05
"""Below this sum of weights a cell is too far from every trial to be filled."""


@dataclass(frozen=True)
class Surface:
    """Smoothed scores over a pair of weights; `scores[i][j]` at `ys[i]` and `xs[j]`.

    NaN where no trial is near. `xs` and `ys` are places on the scales.
    """

    x: Scale
    y: Scale
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ContoursInfo:
    """The surfaces of one dataset, and the completed trials that they are made of."""

    dataset: str
    surfaces: tuple[Surface, ...]
    points: tuple[TrialPoint, ...]


def contours_info(sweep: Records, dataset: str) -> ContoursInfo:
    """The contours' numbers; no surface with fewer than five completed trials or one weight."""
    points = tuple(p for p in trial_points(sweep, dataset) if p.status == "completed")
    scales = [scale for scale in searched(points) if scale.name in WEIGHTS]
    if len(points) < _FEWEST:
        return ContoursInfo(dataset, (), points)
    scores = np.array([point.score for point in points])
    surfaces = tuple(_surface(x, y, points, scores) for x, y in itertools.combinations(scales, 2))
    return ContoursInfo(dataset, surfaces, points)


def plot_contours(info: ContoursInfo) -> go.Figure:
    """A panel per pair, one colour scale for all; the points are the trials."""
    count = max(1, len(info.surfaces))
    figure = make_subplots(rows=1, cols=count, horizontal_spacing=0.24 / count)
    for column, surface in enumerate(info.surfaces, start=1):
        figure.add_trace(
            go.Contour(
                x=list(surface.xs),
                y=list(surface.ys),
                z=[list(row) for row in surface.scores],
                coloraxis="coloraxis",
                contours={"coloring": "heatmap"},
                line={"width": 0.5, "color": "rgba(255,255,255,0.5)"},
                hoverinfo="skip",
            ),
            row=1,
            col=column,
        )
        figure.add_trace(
            go.Scatter(
                x=[surface.x.place(point.params[surface.x.name]) for point in info.points],
                y=[surface.y.place(point.params[surface.y.name]) for point in info.points],
                customdata=[[point.name, point.score] for point in info.points],
                mode="markers",
                marker={
                    "color": [point.score for point in info.points],
                    "coloraxis": "coloraxis",
                    "size": 8,
                    "line": {"color": "#ffffff", "width": 1.2},
                },
                showlegend=False,
                hovertemplate="%{customdata[0]}<br>score %{customdata[1]:.1f}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        for update, scale in (
            (figure.update_xaxes, surface.x),
            (figure.update_yaxes, surface.y),
        ):
            update(
                title_text=scale.label,
                tickvals=scale.ticks,
                ticktext=scale.texts,
                row=1,
                col=column,
            )
    figure.update_layout(
        coloraxis={
            "colorscale": FILLED,
            "colorbar": {"title": {"text": "score"}, "thickness": 12, "outlinewidth": 0},
        }
    )
    apply_style(figure, height=400, legend=False)
    return figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False)


def _surface(
    x: Scale, y: Scale, points: tuple[TrialPoint, ...], scores: NDArray[np.float64]
) -> Surface:
    """A mean of the trials' scores, weighted by a Gaussian of their distance (Nadaraya, Watson).

    Its width is Scott's rule for two dimensions, on axes that both go from 0 to 1.
    """
    at = np.array([[x.unit(p.params[x.name]), y.unit(p.params[y.name])] for p in points])
    width = np.maximum(at.std(axis=0), 0.05) * len(points) ** (-1 / 6)
    cells = np.linspace(0, 1, _CELLS)
    grid = np.stack(np.meshgrid(cells, cells), axis=-1)
    distance = (((grid[:, :, None, :] - at) / width) ** 2).sum(axis=-1)
    weights = np.exp(-0.5 * distance)
    total = weights.sum(axis=-1)
    smoothed = np.where(total > _REACH, (weights @ scores) / np.maximum(total, _REACH), np.nan)
    return Surface(
        x,
        y,
        tuple((x.low + cells * (x.high - x.low)).tolist()),
        tuple((y.low + cells * (y.high - y.low)).tolist()),
        tuple(tuple(row) for row in smoothed.round(2).tolist()),
    )
