"""Scores of all methods with their intervals, one panel per dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.style import (
    GREY,
    SCORE_TITLE,
    apply_style,
    method_colour,
    method_symbol,
    plain,
)
from analysis.published import DOUBTFUL, base_task
from analysis.tables import PUBLISHED


@dataclass(frozen=True)
class IntervalBar:
    """A line of the benchmark table; `low` and `high` are NaN where it has no interval.

    `doubt` says why a published score is doubtful, and is empty where it is not.
    """

    method: str
    score: float
    low: float
    high: float
    over: str
    doubt: str


@dataclass(frozen=True)
class IntervalsInfo:
    """The lines of each dataset, in the order of the table; published ones with their task."""

    datasets: dict[str, tuple[IntervalBar, ...]]


def intervals_info(benchmark: pd.DataFrame) -> IntervalsInfo:
    """The figure's numbers; `benchmark` is `tables.benchmark_table(sweep)`."""
    scored = benchmark.dropna(subset="score")
    published = scored["method"] == PUBLISHED
    datasets: dict[str, tuple[IntervalBar, ...]] = {}
    for dataset in dict.fromkeys(scored.loc[~published, "dataset"]):
        own = scored[(scored["dataset"] == dataset) & ~published]
        tasks = {base_task(task) for task in own["task"]}
        theirs = scored[published & scored["task"].map(base_task).isin(tasks)]
        datasets[dataset] = tuple(
            IntervalBar(
                str(row["method"]),
                float(row["score"]),
                float(row["low"]),
                float(row["high"]),
                "" if pd.isna(row["interval_over"]) else str(row["interval_over"]),
                "" if pd.isna(row["conflict"]) else str(row["conflict"]),
            )
            for row in pd.concat([own, theirs]).to_dict("records")
        )
    return IntervalsInfo(datasets)


def plot_intervals(info: IntervalsInfo) -> go.Figure:
    """A point and its interval per line of the table; published scores are hollow and grey."""
    count = max(1, len(info.datasets))
    lengths = [len(bars) for bars in info.datasets.values()] or [1]
    total = sum(lengths)
    figure = make_subplots(
        rows=count,
        cols=1,
        row_heights=[length / total for length in lengths],
        subplot_titles=[plain(dataset) for dataset in info.datasets],
        vertical_spacing=min(0.12, 0.5 / count),
    )
    for row, bars in enumerate(info.datasets.values(), start=1):
        for place, bar in enumerate(bars):
            figure.add_trace(_trace(bar, len(bars) - 1 - place), row=row, col=1)
        figure.update_yaxes(
            tickvals=list(range(len(bars))),
            ticktext=[_short(bar) for bar in reversed(bars)],
            range=[-0.6, len(bars) - 0.4],
            row=row,
        )
    figure.update_xaxes(title_text=SCORE_TITLE, row=count)
    return apply_style(figure, height=80 + 34 * total + 50 * count, legend=False, titles=True)


def _trace(bar: IntervalBar, place: int) -> go.Scatter:
    published = bar.method == PUBLISHED
    colour = GREY if published else method_colour(bar.method)
    between = "" if math.isnan(bar.low) else f" [{bar.low:.1f}, {bar.high:.1f}] over {bar.over}"
    return go.Scatter(
        x=[bar.score],
        y=[place],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [bar.high - bar.score],
            "arrayminus": [bar.score - bar.low],
            "thickness": 2.5,
            "width": 5,
        },
        mode="markers",
        marker={
            "color": colour,
            "size": 10,
            "symbol": "diamond-open" if published else method_symbol(bar.method),
        },
        showlegend=False,
        hovertemplate=f"{plain(bar.method)}<br>%{{x:.1f}}{plain(between)}"
        + (f"<br>{DOUBTFUL} {plain(bar.doubt)}" if bar.doubt else "")
        + "<extra></extra>",
    )


def _short(bar: IntervalBar) -> str:
    """The method without what is in brackets, which a phone has no room for."""
    if bar.method == PUBLISHED:
        return f"published {DOUBTFUL}" if bar.doubt else "published"
    return plain(bar.method.partition(" (")[0])
