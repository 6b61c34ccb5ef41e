"""Performance profiles: the share of a method's runs that score above each threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from analysis.figures.style import SCORE_TITLE, apply_style, faded, method_colour, plain
from analysis.methods import METHODS, method_of
from analysis.records import Records
from analysis.runs import rows_that_count, runs_of
from analysis.stats_tasks import Profile, Runs, counted_score, performance_profile

_THRESHOLDS = 81


@dataclass(frozen=True)
class ProfilesInfo:
    """A profile for each method that was run on every dataset, and how many runs it is of."""

    datasets: tuple[str, ...]
    profiles: dict[str, Profile]
    runs: dict[str, int]


def profiles_info(sweep: Records) -> ProfilesInfo:
    """The figure's numbers: a run is a training seed on a dataset, every dataset counts alike.

    A run that diverged counts as DIVERGED. No profile where a method has one run only, whose score
    says all. ValueError as of :func:`analysis.runs.runs_of` on several sweeps that share a dataset.
    """
    runs = _runs(sweep)
    datasets = tuple(sorted({dataset for of_method in runs.values() for dataset in of_method}))
    counts = {
        method: sum(map(len, of_method.values()))
        for method, of_method in runs.items()
        if len(of_method) == len(datasets)
    }
    shown = {method: count for method, count in counts.items() if count > 1}
    if not shown:
        return ProfilesInfo(datasets, {}, {})
    seeds = [seeds for method in shown for seeds in runs[method].values()]
    scores = [counted_score(score) for each in seeds for score in each.values()]
    low, high = min(scores), max(scores)
    margin = 0.05 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high + margin, _THRESHOLDS).tolist()
    profiles = {method: performance_profile(runs[method], thresholds) for method in shown}
    return ProfilesInfo(datasets, profiles, shown)


def plot_profiles(info: ProfilesInfo) -> go.Figure:
    """A falling line per method, with its pointwise 95 % band where there are several seeds."""
    figure = go.Figure()
    for method, profile in info.profiles.items():
        colour = method_colour(method)
        x = list(profile.thresholds)
        if profile.low is not None and profile.high is not None:
            figure.add_trace(
                go.Scatter(
                    x=[*x, *reversed(x)],
                    y=[*profile.high, *reversed(profile.low)],
                    mode="lines",
                    fill="toself",
                    fillcolor=faded(colour, 0.18),
                    line={"width": 0},
                    hoverinfo="skip",
                    legendgroup=method,
                    showlegend=False,
                )
            )
        figure.add_trace(
            go.Scatter(
                x=x,
                y=list(profile.shares),
                mode="lines",
                line={
                    "color": colour,
                    "width": 2,
                    "shape": "hv",
                    "dash": "solid" if method == method_of(method) else "dot",
                },
                name=plain(f"{method} ({info.runs[method]})"),
                legendgroup=method,
                hovertemplate=f"{plain(method)}: %{{y:.0%}} of runs above %{{x:.1f}}"
                "<extra></extra>",
            )
        )
    figure.update_xaxes(title_text=f"{SCORE_TITLE} τ")
    figure.update_yaxes(title_text="share of runs above τ", range=[-0.02, 1.02], tickformat=".0%")
    return apply_style(figure, height=440)


def _runs(sweep: Records) -> dict[str, Runs]:
    """The scores of each method by dataset and training seed, in the order of the table."""
    order = list(METHODS)
    methods = sorted(
        rows_that_count(sweep)["method"].unique(),
        key=lambda row: (order.index(method_of(row)) if method_of(row) in order else 99, row),
    )
    return {method: runs_of(sweep, method) for method in methods}
