"""Stability of training: each trial's score over its steps, coloured by the reward weight σ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from analysis.figures.style import (
    GREY,
    SCORE_TITLE,
    SEQUENTIAL,
    STATUS_COLOURS,
    STATUS_SYMBOLS,
    apply_style,
    plain,
)
from analysis.records import Records

_STOPPED = ("pruned", "failed")
_MOST = 200
"""Trials that can still be told apart, and that a browser draws without delay."""


@dataclass(frozen=True)
class StabilityLine:
    """A trial's curve with one training seed; scores are normalized, NaN where there was none."""

    sweep: str
    number: int
    training_seed: int
    status: str
    horizon: int
    ctm_weight: float
    dsm_weight: float
    reward_weight: float
    steps: tuple[int, ...]
    scores: tuple[float, ...]

    @property
    def end(self) -> tuple[int, float]:
        """Step and score of the last evaluation that gave a score."""
        return [(t, s) for t, s in zip(self.steps, self.scores, strict=True) if math.isfinite(s)][
            -1
        ]


@dataclass(frozen=True)
class StabilityInfo:
    """The curves of one dataset's trials.

    Besides them, how many trials have no score to draw and how many were left out of too many.
    """

    dataset: str
    horizons: tuple[int, ...]
    lines: tuple[StabilityLine, ...]
    without_curve: int
    left_out: int


def stability_info(sweep: Records, dataset: str) -> StabilityInfo:
    """The stability figure's numbers for the trials on `dataset`, by sweep and trial number."""
    curves = sweep.curves[sweep.curves["dataset"] == dataset].sort_values(
        ["sweep", "number", "training_seed", "step"]
    )
    lines = []
    for _, curve in curves.groupby(["sweep", "key", "training_seed"], sort=False):
        if curve["score"].isna().all():
            continue
        first = curve.iloc[0]
        lines.append(
            StabilityLine(
                sweep=str(first["sweep"]),
                number=int(first["number"]),
                training_seed=int(first["training_seed"]),
                status=str(first["status"]),
                horizon=int(first["horizon"]),
                ctm_weight=float(first["ctm_weight"]),
                dsm_weight=float(first["dsm_weight"]),
                reward_weight=float(first["reward_weight"]),
                steps=tuple(curve["step"].tolist()),
                scores=tuple(curve["score"].tolist()),
            )
        )
    trials = int((sweep.trials["dataset"] == dataset).sum())
    drawn = list(dict.fromkeys((line.sweep, line.number) for line in lines))
    shown = set(drawn[:: max(1, math.ceil(len(drawn) / _MOST))])
    lines = [line for line in lines if (line.sweep, line.number) in shown]
    horizons = tuple(sorted({line.horizon for line in lines}))
    without = trials - len(drawn)
    return StabilityInfo(dataset, horizons, tuple(lines), without, len(drawn) - len(shown))


def plot_stability(info: StabilityInfo) -> go.Figure:
    """One line per trial and training seed, one column per horizon.

    σ = 0 is grey, an x ends a pruned trial.
    """
    figure = make_subplots(
        rows=1,
        cols=max(1, len(info.horizons)),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"horizon {horizon}" for horizon in info.horizons],
    )
    colours = _colours([line.reward_weight for line in info.lines])
    for line in info.lines:
        column = info.horizons.index(line.horizon) + 1
        colour = colours[line.reward_weight]
        figure.add_trace(_curve(line, colour), row=1, col=column)
        if line.status in _STOPPED:
            figure.add_trace(_end_marker(line, colour), row=1, col=column)
    for trace in _legend(info):
        figure.add_trace(trace, row=1, col=1)
    positive = _positive(info)
    if positive:
        figure.update_layout(coloraxis=_colour_axis(positive))
    figure.update_xaxes(title_text="training steps")
    figure.update_yaxes(title_text=SCORE_TITLE, col=1)
    return apply_style(figure, height=460, titles=True)


def _curve(line: StabilityLine, colour: str) -> go.Scatter:
    hover = (
        f"trial {line.number} of {plain(line.sweep)}, training seed {line.training_seed} "
        f"({line.status})"
        f"<br>α {line.ctm_weight:g}  β {line.dsm_weight:g}  "
        f"σ {line.reward_weight:g}  horizon {line.horizon}"
        "<br>step %{x}: score %{y:.1f}<extra></extra>"
    )
    return go.Scatter(
        x=list(line.steps),
        y=list(line.scores),
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 4},
        hovertemplate=hover,
        showlegend=False,
    )


def _end_marker(line: StabilityLine, colour: str) -> go.Scatter:
    step, score = line.end
    return go.Scatter(
        x=[step],
        y=[score],
        mode="markers",
        marker=_marker(line.status, colour),
        hoverinfo="skip",
        showlegend=False,
    )


def _marker(status: str, colour: str) -> dict[str, Any]:
    shown = STATUS_COLOURS[status] if status == "failed" else colour
    return {
        "symbol": STATUS_SYMBOLS[status],
        "size": 11,
        "color": shown,
        "line": {"width": 2.5 if status == "pruned" else 0, "color": shown},
    }


def _legend(info: StabilityInfo) -> list[go.Scatter]:
    """Traces without points, that only put what occurs into the legend."""
    entries: list[dict[str, Any]] = []
    if any(line.reward_weight <= 0 for line in info.lines):
        entries.append({"mode": "lines", "line": {"color": GREY, "width": 2}, "name": "σ = 0"})
    for status in _STOPPED:
        if any(line.status == status for line in info.lines):
            entries.append({"mode": "markers", "marker": _marker(status, GREY), "name": status})
    positive = _positive(info)
    if positive:
        # carries the colour axis, which needs one trace to belong to
        marker = {"color": [math.log10(positive[0])], "coloraxis": "coloraxis"}
        entries.append({"mode": "markers", "marker": marker, "showlegend": False})
    return [go.Scatter(x=[None], y=[None], hoverinfo="skip", **entry) for entry in entries]


def _positive(info: StabilityInfo) -> list[float]:
    return sorted({line.reward_weight for line in info.lines if line.reward_weight > 0})


def _colours(weights: Sequence[float]) -> dict[float, str]:
    """A colour for each weight, by its logarithm; grey for 0, which has none."""
    logs = {weight: math.log10(weight) for weight in weights if weight > 0}
    colours = dict.fromkeys(weights, GREY)
    if logs:
        low, high = _log_range(list(logs.values()))
        places = [(log - low) / (high - low) for log in logs.values()]
        colours |= dict(zip(logs, sample_colorscale(SEQUENTIAL, places), strict=True))
    return colours


def _log_range(logs: Sequence[float]) -> tuple[float, float]:
    """The range of the colour axis, widened where all weights are the same."""
    low, high = min(logs), max(logs)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _colour_axis(positive: Sequence[float]) -> dict[str, Any]:
    logs = [math.log10(weight) for weight in positive]
    low, high = _log_range(logs)
    decades = range(math.floor(low), math.ceil(high) + 1)
    # few distinct weights label themselves, many are read against the decades
    ticks = logs if len(logs) <= 6 else [float(d) for d in decades if low <= d <= high]
    return {
        "colorscale": SEQUENTIAL,
        "cmin": low,
        "cmax": high,
        "colorbar": {
            "title": {"text": "σ"},
            "tickvals": ticks,
            "ticktext": [f"{10**tick:.3g}" for tick in ticks],
            "thickness": 12,
            "outlinewidth": 0,
        },
    }
