"""The report's figures: which ones a sweep has something to show in, with title and caption."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.figures.contours import contours_info, plot_contours
from analysis.figures.history import history_info, plot_history
from analysis.figures.horizons import horizons_info, plot_horizons
from analysis.figures.importance import importance_info, plot_importance
from analysis.figures.intervals import intervals_info, plot_intervals
from analysis.figures.ladder import ladder_info, plot_ladder
from analysis.figures.parallel import parallel_info, plot_parallel
from analysis.figures.pareto import pareto_info, plot_pareto
from analysis.figures.profiles import plot_profiles, profiles_info
from analysis.figures.returns import plot_returns, returns_info
from analysis.figures.reward_error import plot_reward_error, reward_error_info
from analysis.figures.slices import plot_slices, slices_info
from analysis.figures.stability import plot_stability, stability_info
from analysis.figures.timeline import plot_timeline, timeline_info
from analysis.page import Group, Panel
from analysis.records import Records


def sweep_groups(sweep: Records, benchmark: pd.DataFrame) -> list[Group]:
    """The figures of one sweep: over all datasets, then dataset by dataset."""
    several = len(sweep.datasets) > 1
    whole = Group("Figures", list(_whole(sweep, benchmark)))
    each = [
        Group(f"Figures of {dataset}", list(_of_dataset(sweep, benchmark, dataset)))
        for dataset in sweep.datasets
    ]
    if several or not each:
        return [whole, *each]
    return [Group("Figures", [*whole.panels, *each[0].panels])]


def search_panels(records: Records) -> list[Panel]:
    """The histories of several sweeps in one figure per dataset."""
    panels = []
    for dataset in records.datasets:
        info = history_info(records, dataset)
        if info.searches:
            panels.append(Panel(f"Search on {dataset}", _HISTORY, plot_history(info), wide=True))
    return panels


_HISTORY = (
    "Above, every trial by its selection score (pruned and failed ones by the last score they "
    "reached) and the best so far; below, regret: how far the best so far is from the best "
    "selection score found on this dataset in the sweeps shown."
)


def _whole(sweep: Records, benchmark: pd.DataFrame) -> Iterator[Panel]:
    intervals = intervals_info(benchmark)
    if intervals.datasets:
        yield Panel(
            "Scores and their intervals",
            "The benchmark table's scores with their 95 % intervals; hollow and grey what was "
            "published, on D4RL's own data.",
            plot_intervals(intervals),
        )
    profiles = profiles_info(sweep)
    if profiles.profiles:
        yield Panel(
            "Performance profiles",
            "Share of runs that score above τ; a run is a training seed on a dataset, all datasets "
            "count alike, in brackets the runs. Shown are the methods that played on all of them.",
            plot_profiles(profiles),
        )
    timeline = timeline_info(sweep)
    if timeline.spans or timeline.shared:
        yield Panel(
            "What ran when, and what sharing saved",
            "A bar per stage and trial, as many above each other as ran at once; dotted where the "
            "sweep was started or resumed. Below, device time of the trials and of the stages, "
            "spent once and saved each further time a trial used them; dashed the budget, if any.",
            plot_timeline(timeline),
        )


def _of_dataset(sweep: Records, benchmark: pd.DataFrame, dataset: str) -> Iterator[Panel]:
    yield from _of_methods(sweep, benchmark, dataset)
    yield from _of_training(sweep, dataset)
    yield from _of_search(sweep, dataset)


def _of_methods(sweep: Records, benchmark: pd.DataFrame, dataset: str) -> Iterator[Panel]:
    pareto = pareto_info(benchmark, dataset)
    if pareto.points:
        untimed = f" Not timed: {pareto.untimed}." if pareto.untimed else ""
        yield Panel(
            "Score against latency",
            "Up is better, left is faster; dotted, the front of what nothing else beats in both."
            + untimed,
            plot_pareto(pareto),
        )
    returns = returns_info(sweep, dataset)
    if returns.groups:
        yield Panel(
            "Returns",
            "Share of episodes (for the data, its own) by normalized return; click a row's entry "
            "to see it.",
            plot_returns(returns),
        )


def _of_training(sweep: Records, dataset: str) -> Iterator[Panel]:
    ladder = ladder_info(sweep, dataset)
    if ladder.rungs:
        yield Panel(
            "Training by reward weight",
            "Median of the runs of each range of σ, with the interquartile band from three runs "
            "on; in brackets the runs. A run counts until it ends, so where some were stopped the "
            "rest of the line is of those that went on; a red cross is where one diverged.",
            plot_ladder(ladder),
            wide=True,
            min_width=480,
        )
    stability = stability_info(sweep, dataset)
    if stability.lines:
        caption = "One line per trial and training seed, coloured by the reward weight σ."
        if stability.without_curve:
            caption += f" Not drawn, having no score: {stability.without_curve}."
        if stability.left_out:
            caption += (
                f" Of so many trials every one would be a blot: {stability.left_out} are left "
                "out, evenly by number."
            )
        width = max(300, 220 * len(stability.horizons))
        yield Panel("Training of every trial", caption, plot_stability(stability), True, width)
    errors = reward_error_info(sweep, dataset)
    if errors.trials:
        yield Panel(
            "The reward model in and out of distribution",
            "Left, its squared error over the returns' variance: 0 is perfect, 1 (dotted) no "
            "better than their mean. Right, whether it still ranks the student's own episodes: "
            "Spearman's correlation of prediction and return.",
            plot_reward_error(errors),
            min_width=360,
        )


def _of_search(sweep: Records, dataset: str) -> Iterator[Panel]:
    history = history_info(sweep, dataset)
    if history.searches:
        yield Panel("Search", _HISTORY, plot_history(history))
    importance = importance_info(sweep, dataset)
    if importance.parameters:
        yield Panel(
            "Which parameters mattered",
            f"How far the best quarter's values differ from those of all {importance.completed} "
            f"completed and {importance.stopped} stopped trials (Cramér's V); a bar that ends left "
            "of its tick may be chance. Circles: what it would be without the stopped trials.",
            plot_importance(importance),
        )
    horizons = horizons_info(sweep, dataset)
    if len(horizons.horizons) > 1 and len(horizons.rungs) > 1:
        yield Panel(
            "Reward weight by horizon",
            "Mean selection score of the completed trials in each cell.",
            plot_horizons(horizons),
            min_width=130 + 80 * len(horizons.rungs),
        )
    slices = slices_info(sweep, dataset)
    if slices.scales:
        missing = slices.without_score
        yield Panel(
            "Slices of the search space",
            "Selection scores; of pruned (crosses) and failed trials (triangles) the last score "
            "they reached." + (f" Without any score: {missing}." if missing else ""),
            plot_slices(slices),
            wide=True,
            min_width=190 * slices.columns,
        )
    contours = contours_info(sweep, dataset)
    if contours.surfaces:
        yield Panel(
            "Weights by pairs",
            "Selection scores of completed trials, smoothed between them; empty where no trial "
            "is near. Other parameters differ between the points.",
            plot_contours(contours),
            wide=True,
            min_width=280 * len(contours.surfaces),
        )
    parallel = parallel_info(sweep, dataset)
    if len(parallel.scales) > 2:
        yield Panel(
            "Every trial across its parameters",
            "A stopped trial's line ends before the score.",
            plot_parallel(parallel),
            wide=True,
            min_width=90 * len(parallel.scales),
        )
