"""Advantages of actions under a value function that is learned beside the reward model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ractd_core.config import RewardConfig
from ractd_core.data.flat import FlatDataset
from ractd_core.data.normalizer import LimitsNormalizer
from ractd_core.data.returns import n_step_returns

_SMALLEST = 1e-6
"""Advantages that are all equal are not blown up."""


class Advantages:
    """n-step advantages A_n(s, a) of a data set's actions under a given V(s).

    V predicts the returns as ``returns`` normalizes them, from ``observations`` (rows, O),
    normalized too. The unit of A is its standard deviation over the rows of ``training`` (rows,)
    under the best linear V, which can be told before anything is trained.
    """

    def __init__(
        self,
        config: RewardConfig,
        data: FlatDataset,
        observations: Tensor,
        returns: LimitsNormalizer,
        to_go: Tensor,
        training: Tensor,
    ) -> None:
        device = observations.device
        parts = n_step_returns(
            data, config.advantage_steps, config.discount, config.termination_penalty
        )
        self._observations, self._returns = observations, returns
        self._rewards = torch.tensor(parts.rewards, dtype=torch.float32, device=device)
        self._discount = torch.tensor(parts.discount, dtype=torch.float32, device=device)
        self._later = torch.tensor(parts.later, device=device)
        features = torch.cat([observations, torch.ones_like(to_go)[:, None]], dim=1).double().cpu()
        wanted = to_go.double().cpu()[:, None]
        seen = training.cpu()
        # On a CPU, where the solver takes features that depend on each other.
        fit = torch.linalg.lstsq(features[seen], wanted[seen], driver="gelsd").solution
        linear = (features @ fit).squeeze(1).float().to(device)
        acted = training & (self._later != torch.arange(len(to_go), device=device))
        rows = acted.nonzero().squeeze(1)
        spread = self._advantage(rows, linear[rows], linear[self._later[rows]]).std(correction=0)
        self._unit = max(float(spread), _SMALLEST)

    def value(self, baseline: nn.Module, rows: Tensor) -> Tensor:
        """V at the states of ``rows`` (...), normalized as the returns are."""
        value: Tensor = baseline(self._observations[rows])
        return value

    @torch.no_grad()
    def target(self, baseline: nn.Module, rows: Tensor) -> Tensor:
        """What the actions of ``rows`` (...) were worth beyond V(s), in units of their spread."""
        # In bfloat16 two values that are nearly equal would differ by rounding alone.
        with torch.autocast(self._observations.device.type, enabled=False):
            now, later = self.value(baseline, rows), self.value(baseline, self._later[rows])
        return self._advantage(rows, now, later) / self._unit

    def _advantage(self, rows: Tensor, now: Tensor, later: Tensor) -> Tensor:
        """A_n in units of the rewards, from normalized values of now and of n steps later."""
        promised, reached = (
            self._returns.unnormalize(value[..., None]).squeeze(-1) for value in (now, later)
        )
        return self._rewards[rows] + self._discount[rows] * reached - promised
