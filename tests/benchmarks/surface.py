"""A response surface between recorded points: what a trial there would score at each step.

Kernel ridge regression with a Gaussian kernel of one length per axis, over horizon and the
logarithms of the weights, each scaled to [0, 1]: the mean of a Gaussian process. Lengths and ridge
are those of the smallest leave-one-out error. Seeds scatter around it as the recorded pairs of
seeds do.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ractd_core.files import read_json

Array = NDArray[np.float64]

HORIZONS = (128, 160)
RANGES = {"sigma": (1e-5, 1e-2), "alpha": (0.3, 3.0), "beta": (0.3, 3.0)}
"""The quickstart's search."""
AXES = ("horizon", *RANGES)
LENGTHS = (0.15, 0.3, 0.6, 1.2, 5.0)
"""Candidates along an axis, in shares of its range; with the last it hardly matters."""
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Candidates for the variance of a record's noise over that of the surface."""
GRID = 25
_CHUNK = 10_000


def scaled(point: dict[str, Any]) -> Array:
    """A point's coordinates, (4,), each in [0, 1]."""
    first = HORIZONS.index(point["horizon"]) / (len(HORIZONS) - 1)
    weights = [np.log(point[n] / low) / np.log(high / low) for n, (low, high) in RANGES.items()]
    return np.array([first, *weights])


def kernel(a: Array, b: Array, lengths: Array) -> Array:
    """Gaussian kernel between points (n, d) and (m, d), (n, m)."""
    gaps = (a[:, None] - b[None]) / lengths
    return np.asarray(np.exp(-0.5 * (gaps**2).sum(-1)))


def leave_one_out(x: Array, y: Array, lengths: Array, ridge: float) -> Array:
    """What each point would be off by if the others alone predicted it, the shape of ``y`` (n, k).

    In closed form, without the n fits: Rasmussen and Williams, Gaussian Processes, equation 5.12.
    """
    inverse = np.linalg.inv(kernel(x, x, lengths) + ridge * np.eye(len(x)))
    return np.asarray((inverse @ y) / np.diag(inverse)[:, None])


class Surface:
    """The recorded surface.

    ``steps`` are those of a curve; a value is a row of the scores there and, last, of the score
    over the selection episodes at the end. ``agreement`` is each step's rank correlation with it,
    over the recorded curves.
    """

    def __init__(self, path: Path) -> None:
        rows = read_json(path)["points"]
        self.steps: list[int] = rows[0]["steps"]
        values = np.array([[*row["scores"], row["last"]] for row in rows])
        ranks = pd.DataFrame(values).corr("spearman")
        self.agreement: list[float] = ranks.iloc[:-1, -1].tolist()
        points = np.array([scaled(row) for row in rows])
        # Seeds of one point lie side by side: their mean is the point's value.
        self._x, which = np.unique(points, axis=0, return_inverse=True)
        groups = [values[which == index] for index in range(len(self._x))]
        self._y = np.array([group.mean(0) for group in groups])
        # Two seeds' difference has twice the variance of one.
        pairs = [(group[0] - group[1]) / np.sqrt(2) for group in groups if len(group) == 2]
        self._noise = np.array(pairs)
        self._mean = self._y.mean(0)
        self.lengths, self.ridge, self.explained = self._fit()
        centred = self._y - self._mean
        gram = kernel(self._x, self._x, self.lengths) + self.ridge * np.eye(len(self._x))
        self._weights = np.linalg.solve(gram, centred)
        self.low, self.best = self._extremes()

    def _fit(self) -> tuple[Array, float, float]:
        """Lengths, ridge and the share of the last score's variance explained, left out."""
        centred = self._y - self._mean
        # Every step of the curve counts the same, whatever its spread.
        unit = centred / centred.std(0)

        def error(choice: tuple[tuple[float, ...], float]) -> float:
            lengths, ridge = choice
            return float((leave_one_out(self._x, unit, np.array(lengths), ridge) ** 2).mean())

        every = itertools.product(itertools.product(LENGTHS, repeat=len(AXES)), RIDGES)
        lengths, ridge = min(every, key=error)
        left_out = leave_one_out(self._x, centred, np.array(lengths), ridge)[:, -1]
        explained = 1 - float((left_out**2).mean() / centred[:, -1].var())
        return np.array(lengths), ridge, explained

    def values(self, x: Array) -> Array:
        """The surface at points (n, 4), (n, steps + 1)."""
        return np.asarray(self._mean + kernel(x, self._x, self.lengths) @ self._weights)

    def noise(self, rng: np.random.Generator) -> Array:
        """How one seed is off along its curve, (steps + 1,): a recorded pair's, by either sign."""
        return np.asarray(rng.choice(self._noise) * rng.choice((-1.0, 1.0)))

    def noise_std(self) -> Array:
        """Standard deviation between seeds, (steps + 1,)."""
        return np.asarray(np.sqrt((self._noise**2).mean(0)))

    def _extremes(self) -> tuple[float, float]:
        """Lowest and highest last value over a grid."""
        ticks = np.linspace(0, 1, GRID)
        grid = np.array(list(itertools.product((0.0, 1.0), ticks, ticks, ticks)))
        parts = [grid[start : start + _CHUNK] for start in range(0, len(grid), _CHUNK)]
        last = np.concatenate([self.values(part)[:, -1] for part in parts])
        return float(last.min()), float(last.max())
