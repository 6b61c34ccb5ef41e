"""Parallel coordinates: every trial as a line through its parameters to its score.

Drawn with plain lines, which print, need no WebGL and answer to a pointer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go

from analysis.figures.points import TrialPoint, searched, trial_points
from analysis.figures.scale import Scale, scale_of
from analysis.figures.style import BLUE, GREY, SKY, VERMILLION, apply_style, plain
from analysis.records import Records

_GROUPS = {
    "best quarter": (BLUE, 2.0, 0.9),
    "second quarter": (SKY, 1.2, 0.7),
    "lower half": (GREY, 1.0, 0.5),
    "stopped": (VERMILLION, 1.0, 0.45),
}
"""Colour, width and opacity, drawn in reverse order."""


@dataclass(frozen=True)
class ParallelInfo:
    """The axes of one dataset, the score last, and the trials by how they ended."""

    dataset: str
    scales: tuple[Scale, ...]
    groups: dict[str, tuple[TrialPoint, ...]]


def parallel_info(sweep: Records, dataset: str) -> ParallelInfo:
    """The figure's numbers; a stopped trial's line ends before the score's axis.

    Nothing where no trial completed or no parameter took two values.
    """
    points = trial_points(sweep, dataset)
    done = sorted((p for p in points if math.isfinite(p.score)), key=lambda p: -p.score)
    quarter, half = math.ceil(len(done) / 4), math.ceil(len(done) / 2)
    parts = (done[:quarter], done[quarter:half], done[half:])
    stopped = tuple(p for p in points if not math.isfinite(p.score))
    groups = dict(zip(_GROUPS, (*map(tuple, parts), stopped), strict=True))
    scales = searched(points)
    if not scales or not done:
        return ParallelInfo(dataset, (), dict.fromkeys(_GROUPS, ()))
    score = scale_of("score", [point.score for point in done])
    return ParallelInfo(dataset, (*scales, score), groups)


def plot_parallel(info: ParallelInfo) -> go.Figure:
    """An axis per parameter; the legend shows and hides the trials of one group."""
    figure = go.Figure()
    for name, (colour, width, opacity) in reversed(_GROUPS.items()):
        points = info.groups[name]
        if points:
            figure.add_trace(_lines(info, points, f"{name} ({len(points)})", colour, width))
            figure.data[-1].opacity = opacity
    for place, scale in enumerate(info.scales):
        figure.add_shape(
            type="line", x0=place, x1=place, y0=0, y1=1, line={"color": GREY, "width": 1}
        )
        figure.add_annotation(
            x=place, y=1.06, yanchor="bottom", text=f"<b>{plain(scale.label)}</b>", showarrow=False
        )
        for tick, text in zip(scale.ticks, scale.texts, strict=True):
            figure.add_annotation(
                x=place,
                y=(tick - scale.low) / (scale.high - scale.low),
                xanchor="right" if place == len(info.scales) - 1 else "left",
                xshift=-4 if place == len(info.scales) - 1 else 4,
                text=plain(text),
                font={"size": 11},
                # The page's script makes it the page's own colour.
                bgcolor="rgba(255,255,255,0.75)",
                borderpad=0,
                showarrow=False,
            )
    apply_style(figure, height=470)
    last = max(1, len(info.scales) - 1)
    figure.update_xaxes(visible=False, range=[-0.08, last + 0.08])
    figure.update_yaxes(visible=False, range=[-0.06, 1.18])
    figure.update_layout(margin={"l": 12, "r": 12, "t": 8, "b": 80})
    return figure.update_layout(legend={"traceorder": "reversed"})


def _lines(
    info: ParallelInfo, points: tuple[TrialPoint, ...], name: str, colour: str, width: float
) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    names: list[str | None] = []
    for point in points:
        values = [*[point.params.get(scale.name) for scale in info.scales[:-1]], point.score]
        label = point.name + ("" if math.isnan(point.score) else f"<br>score {point.score:.1f}")
        for place, (scale, value) in enumerate(zip(info.scales, values, strict=True)):
            x.append(place)
            y.append(scale.unit(value))
            names.append(label)
        x.append(None)
        y.append(None)
        names.append(None)
    return go.Scatter(
        x=x,
        y=y,
        customdata=names,
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": width},
        marker={"size": 4},
        hovertemplate="%{customdata}<extra></extra>",
    )
