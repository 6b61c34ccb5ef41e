"""Statistics of a method's scores over several tasks, each with some training seeds.

Every task counts alike, however many seeds it has. A score of NaN is a run that diverged: it
counts as :data:`DIVERGED`, a random policy's score, because leaving it out would reward a method
that only sometimes ends; `diverged` says how many there were. Infinity is an error.

Intervals are from a bootstrap stratified by task (Agarwal et al. 2021, arXiv 2108.13264), which
draws one seed less than a task has (Rao and Wu 1988, JASA 83): drawing all n makes the interval of
a mean too narrow by sqrt(1 - 1/n), a tenth for five seeds. Percentiles of so few values cannot
leave their range, so :func:`aggregate` takes the bootstrap's standard error times Student's
quantile, with Satterthwaite's degrees of freedom; profiles and probabilities, which have a range,
take percentiles. They cover the spread between training seeds on these tasks, not that between
tasks. In simulations of normal scores a 95 % interval of the mean and of the interquartile mean
covers it in 93 to 98 % of cases from two tasks of two seeds to nine of five. That of the median
over tasks, which few tasks decide, covers 89 to 92 % with three or more seeds and 83 % with nine
tasks of two: read the interquartile mean instead.
A task with a single seed says nothing on its spread, so there is no interval then: None, never one
of no width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.stats import (
    Estimate,
    check_confidence,
    percentiles,
    student_mean,
    student_quantile,
)

Runs = Mapping[str, Mapping[int, float]]
"""A method's scores: task, training seed, score; NaN where training diverged."""

DIVERGED = 0.0
OPTIMAL = 100.0

_Array = NDArray[np.float64]
_Sizes = Sequence[int]


@dataclass(frozen=True)
class TaskEstimate(Estimate):
    """An estimate over `tasks` tasks and `count` runs, `diverged` of which counted as DIVERGED."""

    tasks: int
    diverged: int


@dataclass(frozen=True)
class Profile:
    """The share of runs, each task counting alike, that score above each of `thresholds`.

    `low` and `high` bound it point by point; None where a task has a single seed.
    """

    thresholds: tuple[float, ...]
    shares: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None


def aggregate(
    runs: Runs,
    statistic: str = "iqm",
    confidence: float = 0.95,
    repetitions: int = 5000,
    seed: int = 0,
) -> TaskEstimate:
    """One number for a method on all tasks of `runs`.

    `statistic` is "mean", "median" (over tasks, of their means), "iqm" (mean of the middle half of
    all runs, so a task may be in it with some of its runs only) or "optimality_gap" (mean of what
    runs lack to a score of 100; lower is better). ValueError on another one, on no task, a task
    without runs, an infinite score, and a confidence outside (0, 1).
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic is {statistic!r}, expected one of {', '.join(STATISTICS)}")
    check_confidence(confidence)
    compute = STATISTICS[statistic]
    scores, sizes, diverged = _pool(runs)
    value = float(compute(scores, sizes))
    low = high = None
    if min(sizes) > 1:
        drawn, left = _resampled(scores, sizes, repetitions, np.random.default_rng(seed))
        error = float(compute(drawn, left).std())
        half = student_quantile(confidence, _freedom(scores, sizes)) * error
        low, high = value - half, value + half
    return TaskEstimate(value, low, high, len(scores), len(sizes), diverged)


def performance_profile(
    runs: Runs,
    thresholds: Sequence[float],
    confidence: float = 0.95,
    repetitions: int = 2000,
    seed: int = 0,
) -> Profile:
    """How often a method scores above each threshold; errors as of :func:`aggregate`."""
    check_confidence(confidence)
    scores, sizes, _ = _pool(runs)
    shares = [float(_mean(scores > threshold, sizes)) for threshold in thresholds]
    low = high = None
    if min(sizes) > 1:
        drawn, left = _resampled(scores, sizes, repetitions, np.random.default_rng(seed))
        ends = [percentiles(_mean(drawn > each, left), confidence) for each in thresholds]
        low, high = tuple(end[0] for end in ends), tuple(end[1] for end in ends)
    return Profile(tuple(thresholds), tuple(shares), low, high)


def probability_of_improvement(
    ours: Runs,
    theirs: Runs,
    confidence: float = 0.95,
    repetitions: int = 5000,
    seed: int = 0,
) -> TaskEstimate:
    """How likely a run of `ours` scores above one of `theirs` on a task drawn at random.

    That is the Mann-Whitney statistic over the number of pairs, half for equals, mean over tasks.
    ValueError where the tasks are not the same, else as of :func:`aggregate`.
    """
    check_confidence(confidence)
    _check_same_tasks(ours, theirs)
    generator = np.random.default_rng(seed)
    values, resampled, sizes, diverged = [], [], [], 0
    for task in ours:
        mine, (many,), lost = _pool({task: ours[task]})
        other, (few,), gone = _pool({task: theirs[task]})
        wins = (mine[:, None] > other) + 0.5 * (mine[:, None] == other)
        values.append(wins.mean())
        sizes += [many, few]
        diverged += lost + gone
        if many > 1 and few > 1:
            left = generator.multinomial(many - 1, np.full(many, 1 / many), repetitions)
            right = generator.multinomial(few - 1, np.full(few, 1 / few), repetitions)
            pairs = (many - 1) * (few - 1)
            resampled.append(((left @ wins) * right).sum(axis=1) / pairs)
    low = high = None
    if min(sizes) > 1:
        low, high = percentiles(np.mean(resampled, axis=0), confidence)
    return TaskEstimate(float(np.mean(values)), low, high, sum(sizes), len(values), diverged)


def paired(ours: Runs, theirs: Runs) -> dict[str, dict[int, float]]:
    """The differences of equal tasks and equal training seeds, as runs of their own.

    Their :func:`aggregate` by "mean" is the mean difference over tasks. ValueError where the tasks
    are not the same, or have no seed in common.
    """
    _check_same_tasks(ours, theirs)
    differences = {
        task: {
            seed: counted_score(ours[task][seed]) - counted_score(theirs[task][seed])
            for seed in ours[task]
            if seed in theirs[task]
        }
        for task in ours
    }
    apart = [task for task, found in differences.items() if not found]
    if apart:
        raise ValueError(f"no training seed in common on {', '.join(apart)}; pairs need equal ones")
    return differences


def paired_differences(ours: Runs, theirs: Runs, confidence: float = 0.95) -> dict[str, Estimate]:
    """The mean difference on each task, with Student's interval over its pairs of equal seeds.

    Errors as of :func:`paired`.
    """
    return {
        task: student_mean(list(differences.values()), confidence)
        for task, differences in paired(ours, theirs).items()
    }


def _pool(runs: Runs) -> tuple[_Array, tuple[int, ...], int]:
    """The scores of all tasks side by side, how many each has, and how many had diverged."""
    empty = [task for task, scores in runs.items() if not scores]
    if not runs or empty:
        where = f"for {', '.join(empty)}" if empty else "for any task"
        raise ValueError(f"no score {where}, expected one or more of each task")
    raw = [score for scores in runs.values() for score in scores.values()]
    scores = np.array([counted_score(score) for score in raw])
    return scores, tuple(map(len, runs.values())), int(np.isnan(raw).sum())


def counted_score(score: float) -> float:
    """What a run counts as: its score, or DIVERGED for NaN. ValueError where it is infinite."""
    if np.isinf(score):
        raise ValueError("a score is infinite, expected a number, or NaN for a run that diverged")
    return DIVERGED if np.isnan(score) else float(score)


def _check_same_tasks(ours: Runs, theirs: Runs) -> None:
    apart = sorted(set(ours) ^ set(theirs))
    if apart:
        raise ValueError(f"only one of the two methods has scores on {', '.join(apart)}")


def _resampled(
    scores: _Array, sizes: _Sizes, repetitions: int, generator: np.random.Generator
) -> tuple[_Array, list[int]]:
    """Scores (repetitions, runs drawn), and how many were drawn for each task."""
    drawn = [
        own[generator.integers(own.size, size=(repetitions, own.size - 1))]
        for own in np.split(scores, np.cumsum(sizes)[:-1])
    ]
    return np.concatenate(drawn, axis=1), [size - 1 for size in sizes]


def _freedom(scores: _Array, sizes: _Sizes) -> float:
    """Degrees of freedom of the mean over tasks (Satterthwaite 1946, Biometrics 2)."""
    parts = np.split(scores, np.cumsum(sizes)[:-1])
    errors = np.array([own.var(ddof=1) / own.size for own in parts])
    if not errors.any():
        return 1.0
    # as shares of the largest, whose squares cannot vanish
    shares = errors / errors.max()
    return float(shares.sum() ** 2 / (shares**2 / (np.asarray(sizes) - 1)).sum())


def _weights(sizes: _Sizes) -> _Array:
    """The weight of each run, so that every task has the same and all of them sum to 1."""
    return np.repeat([1 / (len(sizes) * size) for size in sizes], sizes)


def _mean(scores: NDArray[np.float64 | np.bool_], sizes: _Sizes) -> _Array:
    mean: _Array = np.asarray(scores @ _weights(sizes))
    return mean


def _median(scores: _Array, sizes: _Sizes) -> _Array:
    starts = np.cumsum([0, *sizes[:-1]])
    means = np.add.reduceat(scores, starts, axis=-1) / np.asarray(sizes)
    return np.asarray(np.median(means, axis=-1))


def _iqm(scores: _Array, sizes: _Sizes) -> _Array:
    """A quarter of the number of runs, rounded down, is cut on each side, by weight."""
    count = scores.shape[-1]
    cut = count // 4 / count
    order = np.argsort(scores, axis=-1)
    weights = _weights(sizes)[order]
    ends = np.cumsum(weights, axis=-1)
    # What lies between the cuts of each run's stretch, when all stand in a row by score.
    kept = np.maximum(np.minimum(ends, 1 - cut) - np.maximum(ends - weights, cut), 0)
    total = (kept * np.take_along_axis(scores, order, axis=-1)).sum(axis=-1)
    return np.asarray(total / kept.sum(axis=-1))


def _optimality_gap(scores: _Array, sizes: _Sizes) -> _Array:
    return _mean(np.maximum(OPTIMAL - scores, 0), sizes)


STATISTICS: Mapping[str, Callable[[_Array, _Sizes], _Array]] = {
    "mean": _mean,
    "median": _median,
    "iqm": _iqm,
    "optimality_gap": _optimality_gap,
}
