"""Statistics of scores: interquartile mean, bootstrap interval, Student's interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# bounds the resampled block to some 32 MB whatever the number of values
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float] | NDArray[np.floating[Any]],
    confidence: float = 0.95,
    repetitions: int = 5000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean (Efron and Tibshirani 1993, section 13.3).

    `values` is one-dimensional. ValueError on empty or non-finite values, and on a confidence
    outside (0, 1). One value gives an interval of no width.
    """
    array = _checked(values)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected a number between 0 and 1")
    generator = np.random.default_rng(seed)
    means = np.empty(repetitions)
    block = max(1, _BLOCK // array.size)
    for start in range(0, repetitions, block):
        stop = min(start + block, repetitions)
        drawn = generator.integers(array.size, size=(stop - start, array.size))
        means[start:stop] = array[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(array.mean()), float(low), float(high))


def student_mean(
    values: Sequence[float] | NDArray[np.floating[Any]], confidence: float = 0.95
) -> Interval:
    """Student's interval of the mean of a few values, such as one score per training seed.

    A bootstrap of two or three values hardly leaves their range, which covers the mean far too
    seldom. ValueError as bootstrap_mean, and on fewer than two values.
    """
    array = _checked(values)
    if array.size < 2:
        raise ValueError("one value has no interval, expected two or more")
    half = _student_quantile(confidence, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size)
    mean = float(array.mean())
    return Interval(mean, mean - float(half), mean + float(half))


def _student_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| < t) = `confidence` (Abramowitz and Stegun 1964, 26.7.1).

    With t = sqrt(freedom) tan(angle) the density is a power of a cosine on a finite range.
    """
    angles = np.linspace(0, np.pi / 2, 100_001)
    density = np.cos(angles) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp(confidence, mass / mass[-1], angles)
    return float(np.sqrt(freedom) * np.tan(angle))


def iqm(values: Sequence[float] | NDArray[np.floating[Any]]) -> float:
    """Interquartile mean: the mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264).

    A quarter of the values, rounded down, is cut on each side. ValueError as bootstrap_mean.
    """
    array = np.sort(_checked(values))
    cut = array.size // 4
    return float(array[cut : array.size - cut].mean())


def _checked(values: Sequence[float] | NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"values have shape {array.shape}, expected one dimension and not empty")
    if not np.isfinite(array).all():
        raise ValueError("values hold NaN or infinity, expected finite numbers only")
    return array
