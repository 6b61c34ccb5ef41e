"""Score against latency: what each method's decisions cost, and which are worth their time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from analysis.figures.style import (
    GREY,
    SCORE_TITLE,
    apply_style,
    method_colour,
    method_symbol,
    plain,
)


@dataclass(frozen=True)
class ParetoPoint:
    """A row of the benchmark table: milliseconds per decision, score and its 95 % interval.

    `best` is on the front: nothing else is as fast and scores higher, or scores as high and is
    faster.
    """

    method: str
    calls: float
    latency_ms: float
    score: float
    low: float
    high: float
    best: bool


@dataclass(frozen=True)
class ParetoInfo:
    """The timed rows of one dataset, the fastest first, and how many have no time."""

    dataset: str
    points: tuple[ParetoPoint, ...]
    untimed: int


def pareto_info(benchmark: pd.DataFrame, dataset: str) -> ParetoInfo:
    """The figure's numbers; `benchmark` is `tables.benchmark_table(sweep)`."""
    rows = benchmark[(benchmark["dataset"] == dataset) & benchmark["nfe"].notna()]
    timed = rows[rows["latency_ms"] > 0].dropna(subset="score")
    timed = timed.sort_values(["latency_ms", "score"], ascending=[True, False])
    # The fastest first: what is not above all before it is dominated by one of them.
    front = timed["score"] > timed["score"].cummax().shift(fill_value=-math.inf)
    return ParetoInfo(
        dataset,
        tuple(
            ParetoPoint(
                method=str(row["method"]),
                calls=float(row["nfe"]),
                latency_ms=float(row["latency_ms"]),
                score=float(row["score"]),
                low=float(row["low"]),
                high=float(row["high"]),
                best=bool(best),
            )
            for row, best in zip(timed.to_dict("records"), front, strict=True)
        ),
        len(rows) - len(timed),
    )


def plot_pareto(info: ParetoInfo) -> go.Figure:
    """A point with its interval per row, milliseconds by their logarithm, the front as a step."""
    figure = go.Figure()
    front = [point for point in info.points if point.best]
    if len(front) > 1:
        figure.add_trace(
            go.Scatter(
                x=[point.latency_ms for point in front],
                y=[point.score for point in front],
                mode="lines",
                line={"shape": "hv", "color": GREY, "width": 1.5, "dash": "dot"},
                name="Pareto front",
                hoverinfo="skip",
            )
        )
    for point in info.points:
        colour = method_colour(point.method)
        between = "" if math.isnan(point.low) else f" [{point.low:.1f}, {point.high:.1f}]"
        figure.add_trace(
            go.Scatter(
                x=[point.latency_ms],
                y=[point.score],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [point.high - point.score],
                    "arrayminus": [point.score - point.low],
                    "thickness": 1.5,
                    "width": 4,
                },
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": method_symbol(point.method),
                    "size": 11,
                    "line": {"width": 2, "color": colour},
                },
                name=plain(point.method),
                hovertemplate=f"{plain(point.method)}, network calls: {point.calls:.3g}<br>"
                f"%{{x:.3g}} ms: score %{{y:.1f}}{between}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="milliseconds per decision (median)", type="log", dtick=1)
    figure.update_yaxes(title_text=SCORE_TITLE)
    return apply_style(figure, height=440)
