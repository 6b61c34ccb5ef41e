"""What lies between a step and a later one: the parts of an n-step advantage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ractd_core.data.flat import FlatDataset, returns_to_go


@dataclass(frozen=True)
class NStepReturns:
    """A_n(s_t, a_t) = ``rewards`` + ``discount`` V(s at row ``later``) - V(s_t), per row t.

    ``rewards`` are the discounted ones on the way, ``later`` is n steps on or the episode's final
    state, and ``discount`` is what V counts for there: 0 where the episode terminated (Schulman et
    al. 2016, equation 14). With V the return-to-go itself, A is 0.
    """

    rewards: NDArray[np.float64]
    discount: NDArray[np.float64]
    later: NDArray[np.int64]


def n_step_returns(
    data: FlatDataset, steps: int, discount: float, termination_penalty: float = 0.0
) -> NStepReturns:
    """The parts of the advantage over ``steps`` steps, all of shape (rows,)."""
    later = np.minimum(np.arange(len(data.rewards)) + steps, data.last_rows)
    decay = discount ** (later - np.arange(len(later)))
    to_go = returns_to_go(data, discount, "zero", termination_penalty).astype(np.float64)
    over = np.repeat(data.terminated, np.diff(data.bounds)) & (later == data.last_rows)
    return NStepReturns(to_go - decay * to_go[later], np.where(over, 0.0, decay), later)
