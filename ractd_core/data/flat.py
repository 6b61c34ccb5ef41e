"""The one internal form of a dataset: flat arrays plus episode bounds.

::

    row            0   1   2  ...  T0 | T0+1 ...            (T_i + 1 rows per episode)
    observations   s0  s1  s2 ...  sT | s0   ...
    actions        a0  a1  a2 ...  0  | a0   ...            last row of an episode: no action
    rewards        r0  r1  r2 ...  0  | r0   ...
    bounds         0                    T0+1 ...            (episodes + 1,)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ractd_core.tasks import DatasetName

Floats = NDArray[np.float32]
ACTION_TOLERANCE = 1e-3
"""How far beyond [-1, 1] an action may lie and still be a rounding error."""


class DataError(ValueError):
    """A dataset that is absent, malformed, or not the one that was asked for."""


@dataclass(frozen=True)
class FlatDataset:
    """Episodes laid end to end, float32; see the module's drawing for the layout.

    Raises :class:`DataError` if lengths disagree, values are not finite or nothing is there.
    """

    name: DatasetName
    observations: Floats
    actions: Floats
    rewards: Floats
    bounds: NDArray[np.int64]
    terminated: NDArray[np.bool_]

    def __post_init__(self) -> None:
        rows = len(self.observations)
        if len(self.bounds) < 2 or rows < 2:
            raise DataError(f"{self.name}: the dataset has no episodes")
        if self.bounds[0] != 0 or self.bounds[-1] != rows or np.any(np.diff(self.bounds) < 2):
            raise DataError(
                f"{self.name}: episode bounds must rise from 0 to {rows} by 2 or more (one step "
                f"and its final state), found {self.bounds[:4]}...{self.bounds[-1]}"
            )
        if len(self.terminated) != self.episodes:
            raise DataError(
                f"{self.name}: {len(self.terminated)} termination flags for {self.episodes} "
                "episodes"
            )
        for key in ("observations", "actions", "rewards"):
            values = getattr(self, key)
            if len(values) != rows:
                raise DataError(f"{self.name}: {key} has {len(values)} rows, expected {rows}")
            if not np.isfinite(values).all():
                raise DataError(f"{self.name}: {key} holds values that are not finite")

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.bounds) - 1

    @property
    def transitions(self) -> int:
        """Number of transitions: rows less one final state per episode."""
        return len(self.observations) - self.episodes

    @cached_property
    def last_rows(self) -> NDArray[np.int64]:
        """For every row, the row of its episode's final state."""
        return np.repeat(self.bounds[1:] - 1, np.diff(self.bounds))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over shapes, types and bytes of all arrays: the same content, the same value."""
        digest = hashlib.sha256()
        for key in ("observations", "actions", "rewards", "bounds", "terminated"):
            values = np.ascontiguousarray(getattr(self, key))
            digest.update(f"{key}{values.shape}{values.dtype.str}".encode())
            digest.update(values.data)
        return digest.hexdigest()

    def stretch_returns(self, steps: int) -> NDArray[np.float64]:
        """Sums of rewards over successive stretches of ``steps`` transitions, shape (n,).

        What the data's behaviour earns in the time of one evaluation episode, for data whose
        episodes have another length.
        """
        is_transition = np.arange(len(self.rewards)) != self.last_rows
        rewards = self.rewards[is_transition].astype(np.float64)
        count = len(rewards) // steps
        return rewards[: count * steps].reshape(count, steps).sum(axis=1)


def returns_to_go(
    data: FlatDataset,
    discount: float,
    truncation: str = "zero",
    termination_penalty: float = 0.0,
) -> NDArray[np.float32]:
    """Discounted return from every row to its episode's end, shape (rows,).

    ``Q_t = Σ_k discount^k r_{t+k}``. With ``truncation="hold"`` an episode that was cut, not
    terminated, is credited ``r_last / (1 - discount)`` beyond its end; ``termination_penalty`` is
    taken off the last reward of one that terminated.
    """
    lengths = np.diff(data.bounds) - 1
    last = data.bounds[1:] - 2
    rewards = data.rewards.astype(np.float64)
    rewards[last[data.terminated]] -= termination_penalty
    tail = np.zeros(data.episodes)
    if truncation == "hold":
        tail = np.where(data.terminated, 0.0, rewards[last] / (1.0 - discount))
    result = np.zeros(len(rewards))
    result[last + 1] = tail
    # All episodes step back together, so the Python loop is as long as the longest one only.
    for back in range(1, int(lengths.max()) + 1):
        alive = lengths >= back
        rows = data.bounds[1:][alive] - 1 - back
        result[rows] = rewards[rows] + discount * result[rows + 1]
    return result.astype(np.float32)
