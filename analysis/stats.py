"""Statistics of one sample of scores: mean, median, interquartile mean, and their intervals.

A sample is what varies in one number: the episodes of one student, or one score per training seed.
Statistics of several tasks at once are in stats_tasks.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.floating[Any]]

# bounds the resampled block to some 32 MB whatever the number of values
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A statistic of `count` values, in their unit, with the ends of its confidence interval.

    Both ends are None where the values say nothing on the spread, as a single one does.
    """

    value: float
    low: float | None
    high: float | None
    count: int


def bootstrap_mean(
    values: Values, confidence: float = 0.95, repetitions: int = 5000, seed: int = 0
) -> Estimate:
    """Percentile bootstrap interval of the mean (Efron and Tibshirani 1993, section 13.3).

    For some thirty values and more, as it is too narrow by a factor sqrt(1 - 1/n). `values` is
    one-dimensional. ValueError on empty or non-finite values, and on a confidence outside (0, 1).
    One value has no interval.
    """
    array = _checked(values)
    check_confidence(confidence)
    if array.size == 1:
        return Estimate(float(array[0]), None, None, 1)
    generator = np.random.default_rng(seed)
    means = np.empty(repetitions)
    block = max(1, _BLOCK // array.size)
    for start in range(0, repetitions, block):
        stop = min(start + block, repetitions)
        drawn = generator.integers(array.size, size=(stop - start, array.size))
        means[start:stop] = array[drawn].mean(axis=1)
    return Estimate(float(array.mean()), *percentiles(means, confidence), array.size)


def student_mean(values: Values, confidence: float = 0.95) -> Estimate:
    """Student's interval of the mean of a few values, such as one score per training seed.

    A bootstrap of two or three values hardly leaves their range, which covers the mean far too
    seldom. ValueError as bootstrap_mean. One value has no interval.
    """
    array = _checked(values)
    check_confidence(confidence)
    mean = float(array.mean())
    if array.size == 1:
        return Estimate(mean, None, None, 1)
    half = student_quantile(confidence, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size)
    return Estimate(mean, mean - float(half), mean + float(half), array.size)


def iqm(values: Values) -> float:
    """Interquartile mean: the mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264).

    A quarter of the values, rounded down, is cut on each side. ValueError as bootstrap_mean.
    """
    array = np.sort(_checked(values))
    cut = array.size // 4
    return float(array[cut : array.size - cut].mean())


def percentiles(resampled: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """The ends of the interval in which the share `confidence` of resampled statistics lies."""
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def check_confidence(confidence: float) -> None:
    """ValueError unless `confidence` is a share between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1")


@cache
def student_quantile(confidence: float, freedom: float) -> float:
    """The t with P(|T| < t) = `confidence` (Abramowitz and Stegun 1964, 26.7.1).

    `freedom` is 1 or more, and need not be whole. With t = sqrt(freedom) tan(angle) the density is
    a power of a cosine on a finite range.
    """
    angles = np.linspace(0, np.pi / 2, 100_001)
    density = np.cos(angles) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(confidence, mass / mass[-1], angles)
    return float(np.sqrt(freedom) * np.tan(angle))


def _checked(values: Values) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"values have shape {array.shape}, expected one dimension and not empty")
    if not np.isfinite(array).all():
        raise ValueError("values hold NaN or infinity, expected finite numbers only")
    return array
