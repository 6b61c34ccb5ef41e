"""The weight ladder: score and parts of the loss over training, for each reward weight σ.

Trials with about the same σ form a rung; their runs (one per training seed) are summarized by
median and interquartile band. This is the paper's figure 4, for every loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.scale import short
from analysis.figures.style import (
    GREY,
    SCORE_TITLE,
    VERMILLION,
    apply_style,
    faded,
    plain,
    shades,
)
from analysis.records import Records
from analysis.runs import diverged

_RUNGS = 5
"""At most so many rungs of positive weights, besides σ = 0."""
_PANELS = {
    "score": SCORE_TITLE,
    "ctm": "CTM loss",
    "dsm": "DSM loss",
    "reward": "reward loss",
}
_LOG_FROM = 30.0
"""The ratio of largest to smallest from which a loss is drawn by its logarithm."""


@dataclass(frozen=True)
class Band:
    """Median and quartiles of `counts` runs at each of `steps`, in the unit of the curve."""

    steps: tuple[int, ...]
    medians: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """Where a run diverged: its trial, its last step, and its last score."""

    name: str
    step: int
    score: float


@dataclass(frozen=True)
class Rung:
    """The runs whose σ lies in a range; `bands` by curve: score, ctm, dsm, reward."""

    label: str
    low: float
    high: float
    runs: int
    bands: dict[str, Band]
    diverged: tuple[End, ...]


@dataclass(frozen=True)
class LadderInfo:
    """The rungs of one dataset, σ growing; diverged runs count until they end."""

    dataset: str
    rungs: tuple[Rung, ...]


def ladder_info(sweep: Records, dataset: str) -> LadderInfo:
    """The ladder's numbers for the trials on `dataset` that have a curve."""
    curves = sweep.curves[sweep.curves["dataset"] == dataset]
    trials = sweep.trials[sweep.trials["dataset"] == dataset]
    failed = trials[trials["status"] == "failed"]
    collapsed = failed[failed["reason"].map(diverged).astype(bool)]
    rungs = []
    for low, high in rungs_of(curves["reward_weight"]):
        inside = curves[curves["reward_weight"].between(low, high)]
        rungs.append(
            Rung(
                label=rung_label(low, high),
                low=low,
                high=high,
                runs=inside.groupby(["sweep", "key", "training_seed"]).ngroups,
                bands={name: _band(inside, name) for name in _PANELS},
                diverged=_ends(inside.merge(collapsed[["sweep", "key"]])),
            )
        )
    return LadderInfo(dataset, tuple(rungs))


def rungs_of(weights: pd.Series[float]) -> list[tuple[float, float]]:
    """Ranges, ends included, that together hold every weight that occurs, and each at least one.

    A few distinct weights are a rung each; more are cut into equal parts of their logarithm.
    """
    values = np.unique(weights.to_numpy(dtype="float64"))
    zero = [(float(v), float(v)) for v in values if v <= 0]
    positive = values[values > 0]
    if len(positive) <= _RUNGS:
        return [*zero, *((float(v), float(v)) for v in positive)]
    edges = np.geomspace(positive[0], positive[-1], _RUNGS + 1)
    place = np.clip(np.searchsorted(edges, positive, side="right") - 1, 0, _RUNGS - 1)
    parts = [positive[place == rung] for rung in np.unique(place)]
    return [*zero, *((float(part[0]), float(part[-1])) for part in parts)]


def plot_ladder(info: LadderInfo) -> go.Figure:
    """A panel for the score and one for each part of the loss; the legend shows and hides rungs.

    A cross is where a run diverged.
    """
    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=list(_PANELS.values()),
        horizontal_spacing=0.13,
        vertical_spacing=0.16,
    )
    positive = sum(rung.high > 0 for rung in info.rungs)
    colours = [*[GREY] * (len(info.rungs) - positive), *shades(positive)]
    for rung, colour in zip(info.rungs, colours, strict=True):
        for place, name in enumerate(_PANELS):
            for trace in _band_traces(rung, rung.bands[name], colour, named=place == 0):
                figure.add_trace(trace, row=place // 2 + 1, col=place % 2 + 1)
        if rung.diverged:
            figure.add_trace(_cross(rung), row=1, col=1)
    figure.update_yaxes(nticks=6, exponentformat="e")
    for place, name in enumerate(_PANELS):
        if _wide_range([median for rung in info.rungs for median in rung.bands[name].medians]):
            figure.update_yaxes(type="log", dtick=1, row=place // 2 + 1, col=place % 2 + 1)
    figure.update_xaxes(title_text="training steps", row=2)
    figure.update_xaxes(nticks=5, rangemode="tozero")
    return apply_style(figure, height=600, titles=True)


def _band_traces(rung: Rung, band: Band, colour: str, named: bool) -> list[go.Scatter]:
    steps = list(band.steps)
    several = any(count > 2 for count in band.counts)
    shared = {"legendgroup": rung.label, "showlegend": False}
    area = go.Scatter(
        x=[*steps, *reversed(steps)],
        y=[*band.highs, *reversed(band.lows)],
        mode="lines",
        fill="toself",
        fillcolor=faded(colour, 0.2),
        line={"width": 0},
        hoverinfo="skip",
        **shared,
    )
    line = go.Scatter(
        x=steps,
        y=list(band.medians),
        customdata=list(band.counts),
        name=f"{rung.label} ({rung.runs})",
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 4},
        hovertemplate=f"{rung.label}<br>step %{{x}}: median %{{y:.4g}} of %{{customdata}} runs"
        "<extra></extra>",
        **(shared | {"showlegend": named}),
    )
    return [area, line] if several else [line]


def _cross(rung: Rung) -> go.Scatter:
    return go.Scatter(
        x=[end.step for end in rung.diverged],
        y=[end.score for end in rung.diverged],
        customdata=[plain(end.name) for end in rung.diverged],
        mode="markers",
        marker={"symbol": "x", "size": 9, "color": VERMILLION},
        hovertemplate="%{customdata} diverged after step %{x}<extra></extra>",
        legendgroup=rung.label,
        showlegend=False,
    )


def _band(curves: pd.DataFrame, name: str) -> Band:
    values = curves.dropna(subset=name)
    groups = values.groupby("step")[name]
    quartiles = groups.quantile(np.array([0.25, 0.5, 0.75])).unstack()
    if quartiles.empty:
        return Band((), (), (), (), ())
    return Band(
        steps=tuple(int(step) for step in quartiles.index),
        medians=tuple(quartiles[0.5].tolist()),
        lows=tuple(quartiles[0.25].tolist()),
        highs=tuple(quartiles[0.75].tolist()),
        counts=tuple(groups.size().tolist()),
    )


def _wide_range(values: list[float]) -> bool:
    return min(values, default=0) > 0 and max(values) / min(values) >= _LOG_FROM


def _ends(curves: pd.DataFrame) -> tuple[End, ...]:
    scored = curves.dropna(subset="score").sort_values("step")
    last = scored.groupby(["sweep", "number", "training_seed"]).tail(1)
    return tuple(
        End(
            f"trial {line['number']}, training seed {line['training_seed']}",
            int(line["step"]),
            float(line["score"]),
        )
        for line in last.to_dict("records")
    )


def rung_label(low: float, high: float) -> str:
    """A rung in words."""
    if low == high or math.isclose(low, high):
        return f"σ = {short(low)}"
    return f"σ {short(low)} to {short(high)}"
