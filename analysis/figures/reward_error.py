"""The reward model's error where it was trained and where the student takes it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.points import TrialPoint, trial_points
from analysis.figures.scale import Scale, scale_of
from analysis.figures.style import BLUE, GREY, VERMILLION, apply_style
from analysis.records import Records

_WHERE = {
    "reward_r2_train": ("data, trained on", GREY, "circle-open"),
    "reward_r2_held_out": ("data, held out", BLUE, "circle"),
    "reward_r2_own": ("student's own episodes", VERMILLION, "diamond"),
}


@dataclass(frozen=True)
class RewardErrors:
    """One diagnosed trial's reward model.

    `errors` is the squared error over the variance of the returns (1 - R²) by place: 0 is perfect,
    1 no better than their mean. `bias` is mean prediction less mean return, `rank` Spearman's
    correlation, both on the student's own episodes. NaN where it was not measured.
    """

    point: TrialPoint
    errors: dict[str, float]
    bias: float
    rank: float


@dataclass(frozen=True)
class RewardErrorInfo:
    """The diagnosed trials of one dataset, and σ's scale; None without any."""

    dataset: str
    scale: Scale | None
    trials: tuple[RewardErrors, ...]


def reward_error_info(sweep: Records, dataset: str) -> RewardErrorInfo:
    """The figure's numbers for the trials on `dataset` that were diagnosed."""
    trials = sweep.trials[sweep.trials["dataset"] == dataset]
    measured = trials.dropna(subset=list(_WHERE), how="all").set_index(["sweep", "number"])
    lines = measured[[*_WHERE, "reward_bias_own", "reward_rank_own"]].to_dict("index")
    found = tuple(
        RewardErrors(
            point,
            {name: 1 - line[name] for name in _WHERE},
            line["reward_bias_own"],
            line["reward_rank_own"],
        )
        for point in trial_points(sweep, dataset)
        if (line := lines.get((point.sweep, point.number))) is not None
    )
    weights = [each.point.params["reward_weight"] for each in found]
    return RewardErrorInfo(dataset, scale_of("reward_weight", weights) if found else None, found)


def plot_reward_error(info: RewardErrorInfo) -> go.Figure:
    """Errors against σ on the left, Spearman's correlation on the student's episodes beside."""
    titles = ("error / variance", "rank correlation")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.13)
    if info.scale is None:
        return apply_style(figure, height=420, titles=True)
    x = [info.scale.place(each.point.params["reward_weight"]) for each in info.trials]
    names = [each.point.name for each in info.trials]
    for name, (label, colour, symbol) in _WHERE.items():
        errors = [each.errors[name] for each in info.trials]
        if all(map(math.isnan, errors)):
            continue
        figure.add_trace(
            go.Scatter(
                x=x,
                y=[error if error > 0 else None for error in errors],
                customdata=names,
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.8},
                name=label,
                hovertemplate="%{customdata}<br>error / variance %{y:.3g}<extra></extra>",
            ),
            row=1,
            col=1,
        )
    figure.add_hline(y=1, line={"color": GREY, "width": 1, "dash": "dot"}, row=1, col=1)
    figure.add_trace(
        go.Scatter(
            x=x,
            y=[each.rank for each in info.trials],
            customdata=[[name, each.bias] for name, each in zip(names, info.trials, strict=True)],
            mode="markers",
            marker={"color": VERMILLION, "symbol": "diamond", "size": 8, "opacity": 0.8},
            showlegend=False,
            hovertemplate="%{customdata[0]}<br>rank correlation %{y:.2f}<br>"
            "bias %{customdata[1]:+.3g}<extra></extra>",
        ),
        row=1,
        col=2,
    )
    figure.update_yaxes(type="log", dtick=1, row=1, col=1)
    figure.update_yaxes(range=[-1.05, 1.05], row=1, col=2)
    figure.update_xaxes(
        title_text="reward weight σ", tickvals=info.scale.ticks, ticktext=info.scale.texts
    )
    return apply_style(figure, height=420, titles=True)
