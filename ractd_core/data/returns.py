"""What lies between a step and a later one: the parts of an n-step advantage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ractd_core.data.flat import FlatDataset, returns_to_go


@dataclass(frozen=True)
class NStepReturns:
    """A_n(s_t, a_t) = ``rewards`` + ``discount`` V(s at row ``later``) - V(s_t), per row t.

    ``rewards`` are the discounted ones on the way, ``later`` is the row n steps on or of the
    episode's final state, and ``discount`` is what V counts for there: 0 where the episode
    terminated (Schulman et al. 2016, equation 14). All are of shape (rows,). With V the
    return-to-go itself, A is 0.
    """

    rewards: NDArray[np.float64]
    discount: NDArray[np.float64]
    later: NDArray[np.int64]


def n_step_returns(
    data: FlatDataset, steps: int, discount: float, termination_penalty: float = 0.0
) -> NStepReturns:
    """The parts of the advantage over ``steps`` steps.

    ``termination_penalty`` is taken off the last reward of an episode that terminated.
    """
    rows = np.arange(len(data.rewards))
    later = np.minimum(rows + steps, data.last_rows)
    decay = discount ** (later - rows)
    to_go = returns_to_go(data, discount, "zero", termination_penalty).astype(np.float64)
    over = np.repeat(data.terminated, np.diff(data.bounds)) & (later == data.last_rows)
    return NStepReturns(to_go - decay * to_go[later], np.where(over, 0.0, decay), later)
