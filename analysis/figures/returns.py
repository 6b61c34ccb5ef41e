"""Returns of data, teacher and student side by side: a histogram with shared bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from analysis.figures.style import SCORE_TITLE, apply_style
from analysis.records import Sweep

_BINS = 30
_COLOURS = {"data": "#8a8f98", "teacher": "#4f7fd6", "student (ractd)": "#d9822b"}


@dataclass(frozen=True)
class ReturnsGroup:
    """One group's share of episodes in each bin; the shares sum to 1."""

    label: str
    count: int
    mean: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class ReturnsInfo:
    """Bin edges in normalized score, one more than a group has shares, and the groups there are."""

    dataset: str
    edges: tuple[float, ...]
    groups: tuple[ReturnsGroup, ...]


def returns_info(sweep: Sweep, dataset: str) -> ReturnsInfo:
    """The returns figure's numbers: the data's behaviour, and the rows of teacher and RACTD.

    Several rows of one method are pooled; a group without episodes is left out.
    """
    behaviour = sweep.behaviour.loc[sweep.behaviour["dataset"] == dataset, "score"]
    scores = {
        "data": behaviour.to_numpy(dtype="float64"),
        "teacher": _episode_scores(sweep, dataset, "teacher"),
        "student (ractd)": _episode_scores(sweep, dataset, "ractd"),
    }
    scores = {label: values for label, values in scores.items() if values.size}
    if not scores:
        return ReturnsInfo(dataset, (), ())
    edges = np.histogram_bin_edges(np.concatenate(list(scores.values())), bins=_BINS)
    groups = tuple(
        ReturnsGroup(
            label=label,
            count=values.size,
            mean=float(values.mean()),
            shares=tuple((np.histogram(values, edges)[0] / values.size).tolist()),
        )
        for label, values in scores.items()
    )
    return ReturnsInfo(dataset, tuple(edges.tolist()), groups)


def plot_returns(info: ReturnsInfo) -> go.Figure:
    """Overlaid steps, one per group, with mean and number of episodes in the legend."""
    figure = go.Figure()
    for group in info.groups:
        colour = _COLOURS[group.label]
        figure.add_trace(
            go.Scatter(
                x=[info.edges[0], *info.edges],
                y=[0.0, *(100 * share for share in group.shares), 0.0],
                name=f"{group.label}: mean {group.mean:.1f}, n = {group.count}",
                line={"shape": "hv", "color": colour, "width": 2},
                fill="tozeroy",
                opacity=0.9,
                hovertemplate="score from %{x:.1f}: %{y:.0f} % of episodes<extra></extra>",
            )
        )
    figure.update_xaxes(title_text=SCORE_TITLE)
    figure.update_yaxes(title_text="% of episodes", rangemode="tozero")
    return apply_style(figure, height=420)


def _episode_scores(sweep: Sweep, dataset: str, method: str) -> np.ndarray:
    rows = sweep.rows[(sweep.rows["dataset"] == dataset) & (sweep.rows["method"] == method)]
    owned = (sweep.episodes["owner"] == "row") & sweep.episodes["key"].isin(rows["key"])
    return sweep.episodes.loc[owned, "score"].to_numpy(dtype="float64")
