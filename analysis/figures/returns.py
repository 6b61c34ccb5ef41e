"""Returns of the data and of every row side by side: a histogram with shared bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from analysis.figures.style import GREY, SCORE_TITLE, apply_style
from analysis.methods import METHODS, method_of
from analysis.records import Records

_BINS = 30
_DATA = "data"
_SHOWN = (_DATA, "teacher", "ctd", "ractd")
"""Drawn at once, as in the paper's figure 3; the others a reader adds by the legend."""


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


def returns_info(sweep: Records, dataset: str) -> ReturnsInfo:
    """The returns figure's numbers: the data's behaviour, and the rows in the table's order.

    Rows of the same name are pooled; a group without episodes is left out.
    """
    played = set(sweep.rows.loc[sweep.rows["dataset"] == dataset, "method"])
    rows = [row for method in METHODS for row in sorted(played) if method_of(row) == method]
    behaviour = sweep.behaviour.loc[sweep.behaviour["dataset"] == dataset, "score"]
    scores = {
        _DATA: behaviour.to_numpy(dtype="float64"),
        **{row: _episode_scores(sweep, dataset, row) for row in rows},
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
    """Overlaid steps, one per group, with mean and number of episodes in the legend.

    A method keeps its colour; its rows by other numbers of calls are dotted.
    """
    figure = go.Figure()
    for group in info.groups:
        method = method_of(group.label)
        colour = METHODS[method].colour if method in METHODS else GREY
        figure.add_trace(
            go.Scatter(
                x=[info.edges[0], *info.edges],
                y=[0.0, *(100 * share for share in group.shares), 0.0],
                name=f"{group.label}: mean {group.mean:.1f}, n = {group.count}",
                line={
                    "shape": "hv",
                    "color": colour,
                    "width": 2,
                    "dash": "solid" if group.label == method else "dot",
                },
                visible=True if method in _SHOWN else "legendonly",
                fill="tozeroy",
                opacity=0.9,
                hovertemplate="score from %{x:.1f}: %{y:.0f} % of episodes<extra></extra>",
            )
        )
    figure.update_xaxes(title_text=SCORE_TITLE)
    figure.update_yaxes(title_text="% of episodes", rangemode="tozero")
    return apply_style(figure, height=420)


def _episode_scores(sweep: Records, dataset: str, method: str) -> np.ndarray:
    rows = sweep.rows[(sweep.rows["dataset"] == dataset) & (sweep.rows["method"] == method)]
    owned = (sweep.episodes["owner"] == "row") & sweep.episodes["key"].isin(rows["key"])
    return sweep.episodes.loc[owned, "score"].to_numpy(dtype="float64")
