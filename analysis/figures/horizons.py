"""Reward weight by horizon: the mean score of the trials in each cell, as a heat map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go

from analysis.figures.ladder import rung_label, rungs_of
from analysis.figures.style import FILLED, apply_style
from analysis.records import Records


@dataclass(frozen=True)
class Cell:
    """The trials of one range of σ and one horizon; `score` is NaN where none completed."""

    horizon: int
    rung: str
    score: float
    completed: int
    pruned: int
    failed: int


@dataclass(frozen=True)
class HorizonsInfo:
    """A cell per horizon and range of σ, of one dataset; both growing."""

    dataset: str
    horizons: tuple[int, ...]
    rungs: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]


def horizons_info(sweep: Records, dataset: str) -> HorizonsInfo:
    """The heat map's numbers; `cells[i][j]` is of the horizon i and the range j."""
    trials = sweep.trials[sweep.trials["dataset"] == dataset]
    horizons = tuple(sorted({int(horizon) for horizon in trials["horizon"].dropna()}))
    rungs = rungs_of(trials["reward_weight"])
    cells = []
    for horizon in horizons:
        row = []
        for low, high in rungs:
            inside = trials[
                (trials["horizon"] == horizon) & trials["reward_weight"].between(low, high)
            ]
            counts = inside["status"].value_counts()
            row.append(
                Cell(
                    horizon,
                    rung_label(low, high),
                    float(inside["selection_score"].mean()),
                    *(int(counts.get(status, 0)) for status in ("completed", "pruned", "failed")),
                )
            )
        cells.append(tuple(row))
    labels = tuple(rung_label(low, high) for low, high in rungs)
    return HorizonsInfo(dataset, horizons, labels, tuple(cells))


def plot_horizons(info: HorizonsInfo) -> go.Figure:
    """The mean score in each cell, and under it how many trials it is of and how many ended early.

    A cell without a completed trial stays empty.
    """
    figure = go.Figure(
        go.Heatmap(
            x=[_tick(rung) for rung in info.rungs],
            y=[f"{horizon}" for horizon in info.horizons],
            z=[[cell.score for cell in row] for row in info.cells],
            text=[[_text(cell) for cell in row] for row in info.cells],
            texttemplate="%{text}",
            textfont={"size": 12},
            customdata=[[_counts(cell) for cell in row] for row in info.cells],
            colorscale=FILLED,
            colorbar={"title": {"text": "score"}, "thickness": 12, "outlinewidth": 0},
            xgap=2,
            ygap=2,
            hovertemplate="horizon %{y}, σ %{x}<br>mean score %{z:.1f}<br>%{customdata}"
            "<extra></extra>",
            hoverongaps=True,
        )
    )
    figure.update_xaxes(title_text="reward weight σ", type="category", tickangle=0)
    figure.update_yaxes(title_text="horizon", type="category")
    apply_style(figure, height=110 + 64 * max(1, len(info.horizons)), legend=False)
    return figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False)


def _tick(rung: str) -> str:
    return rung.removeprefix("σ ").removeprefix("= ").replace(" to ", "<br>to ")


def _text(cell: Cell) -> str:
    return "" if math.isnan(cell.score) else f"{cell.score:.0f}<br>n = {cell.completed}"


def _counts(cell: Cell) -> str:
    return f"{cell.completed} completed, {cell.pruned} pruned, {cell.failed} failed"
