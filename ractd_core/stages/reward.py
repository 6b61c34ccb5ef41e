"""The reward model: what states, or actions in their states, are worth."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ractd_core.config import RewardConfig, WindowConfig
from ractd_core.data.flat import FlatDataset, returns_to_go
from ractd_core.data.normalizer import LimitsNormalizer, Normalizers
from ractd_core.data.returns import n_step_returns
from ractd_core.data.windows import make_windows
from ractd_core.draws import Draws, generator
from ractd_core.losses import Info, reward_inputs, value_loss
from ractd_core.models.value import RewardModel, ValueMLP
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import Model, build_network

_MEASURED = 4096
"""Windows that a finished model is measured on."""


class RewardStage(StageModule):
    """Regression of the normalized return-to-go, or of the advantage, on windows of the data.

    The MLP's windows are of one step. ``network`` holds the ``model`` and, for advantages, the
    ``baseline`` V(s) that they are measured from, which does not outlive training. Raises
    ValueError for advantages of states: what follows a state alone is its value.
    """

    network: nn.ModuleDict

    def __init__(
        self,
        config: RewardConfig,
        window: WindowConfig,
        data: FlatDataset,
        normalizers: Normalizers,
        about: dict[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__()
        self.optim, self.seed = config.optim, config.seed
        self.of_actions = about["modelled"] == "actions"
        horizon = window.horizon if config.network == "conv" else 1
        own = window.model_copy(update={"horizon": horizon, "history": 1})
        self.windows = make_windows(data, own, normalizers, device)
        rtg = returns_to_go(data, config.discount, config.truncation, config.termination_penalty)
        self.about = about | {
            **config.model_dump(mode="json", include={"network", "widths", "members", "target"}),
            "horizon": horizon,
            "return_scale": [float(rtg.min()), float(rtg.max())],
        }
        self.network = nn.ModuleDict({"model": build_network(self.about)})
        returns = LimitsNormalizer.fit(rtg).normalize(torch.tensor(rtg)[:, None])
        self.returns = returns.squeeze(1).to(device)
        self.advantages: _Advantages | None = None
        if config.target == "advantage":
            if not self.of_actions:
                raise ValueError(
                    f"reward.target advantage is of actions, but {data.name} is planned in states; "
                    "set it to return"
                )
            self.network["baseline"] = ValueMLP(about["observation_dims"], config.widths)
            self.advantages = _Advantages(config, data, rtg, normalizers, device)
        every = torch.arange(len(self.windows), device=device)
        held_out = _held_out(config, data).to(device)[self.windows.rows(every)[:, 0]]
        self.training_windows, self.held_out_windows = every[~held_out], every[held_out]

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The reward model's loss on one batch, and the baseline's if there is one."""
        index = self.training_windows[draws.integers(len(self.training_windows))]
        inputs, target = self._batch(index, self.network)
        loss, info = value_loss(self._model(self.network), inputs, target)
        if self.advantages is not None:
            rows = self.windows.rows(index)[:, 0]
            promised = self.advantages.value(self.network["baseline"], rows)
            baseline = (promised - self.returns[rows]).square().mean()
            return loss + baseline, info | {"baseline": baseline.detach()}
        return loss, info

    def _batch(self, index: Tensor, network: nn.ModuleDict) -> tuple[Tensor, Tensor]:
        """Inputs (batch, horizon, dims) and the target of their first steps (batch, scored)."""
        x0, cond = self.windows.at(index)
        rows = self.windows.rows(index)
        inputs = reward_inputs(x0, cond) if self.of_actions else x0
        if self.advantages is not None:
            return inputs, self.advantages.at(network["baseline"], rows[:, 0])[:, None]
        # Of a window of actions the first is executed, and scored.
        return inputs, self.returns[rows[:, :1] if self.of_actions else rows]

    @staticmethod
    def _model(network: nn.Module) -> RewardModel:
        return cast(RewardModel, cast(nn.ModuleDict, network)["model"])

    def result(self, network: nn.Module, normalizers: Normalizers) -> Model:
        """The model, with its accuracy and the scale of what it says in the header.

        ``measured`` has, on windows of the data: R² on episodes it was trained on (``r2``) and on
        those held out (``held_out_r2``, None if there are none), the ``mean`` and ``spread``
        (standard deviation) of its predictions, the mean norm of their ``gradient`` with respect to
        a step, and the members' ``disagreement`` (mean standard deviation, None for one member).
        """
        parts = cast(nn.ModuleDict, network)
        seen = self._some(self.training_windows)
        measured: dict[str, float | None] = {"r2": self._r2(parts, seen), "held_out_r2": None}
        if len(self.held_out_windows):
            measured["held_out_r2"] = self._r2(parts, self._some(self.held_out_windows))
        inputs, target = self._batch(seen, parts)
        inputs = inputs.detach().requires_grad_()
        model = self._model(network)
        with torch.enable_grad():
            each = model(inputs)[..., : target.shape[1]]
            [slope] = torch.autograd.grad(each.mean(0).sum(), inputs)
        each = each.detach()
        said = each.mean(0)
        # What an action could change: its state is given.
        of_step = slope[..., : self.windows.dims].flatten(1) if self.of_actions else slope
        measured |= {
            "mean": float(said.mean()),
            "spread": float(said.std()),
            "gradient": float(of_step.norm(dim=-1).mean()),
            "disagreement": float(each.std(0).mean()) if len(each) > 1 else None,
        }
        return Model(model, normalizers, self.about | {"measured": measured})

    def _some(self, windows: Tensor) -> Tensor:
        """The same few of ``windows`` whenever it is called."""
        chosen = torch.randint(len(windows), (_MEASURED,), generator=generator(self.seed, 2**41))
        return windows[chosen.to(windows.device)]

    @torch.no_grad()
    def _r2(self, network: nn.ModuleDict, index: Tensor) -> float:
        """The share of the target's variance that the members' mean explains, at most 1."""
        inputs, target = self._batch(index, network)
        said = self._model(network).lower(inputs)[:, : target.shape[1]]
        left = (said - target).square().mean()
        return float(1 - left / target.var(correction=0).clamp_min(1e-12))


class _Advantages:
    """n-step advantages under a learned V, in units of their spread under a linear one."""

    def __init__(
        self,
        config: RewardConfig,
        data: FlatDataset,
        rtg: NDArray[np.float32],
        normalizers: Normalizers,
        device: torch.device,
    ) -> None:
        parts = n_step_returns(
            data, config.advantage_steps, config.discount, config.termination_penalty
        )
        observations = normalizers.observations.normalize(torch.tensor(data.observations))
        self._observations = observations.to(device)
        # V is learned as the returns are normalized: (V - centre) / half.
        low, high = float(rtg.min()), float(rtg.max())
        self._half, self._centre = max((high - low) / 2, 1e-6), (high + low) / 2
        self._rewards = torch.tensor(parts.rewards, dtype=torch.float32, device=device)
        self._discount = torch.tensor(parts.discount, dtype=torch.float32, device=device)
        self._later = torch.tensor(parts.later, device=device)
        features = torch.cat([observations, torch.ones(len(rtg), 1)], dim=1).double()
        wanted = torch.tensor((rtg - self._centre) / self._half).double()[:, None]
        weights = torch.linalg.lstsq(features, wanted, driver="gelsd").solution
        linear = (features @ weights).squeeze(1).float().to(device)
        acted = torch.tensor(np.arange(len(rtg)) != data.last_rows, device=device)
        self._unit = 1.0
        self._unit = float(self._of(linear, linear[self._later], slice(None))[acted].std())

    def value(self, baseline: nn.Module, rows: Tensor) -> Tensor:
        """V at the states of ``rows`` (batch,), normalized as the returns are."""
        value: Tensor = baseline(self._observations[rows])
        return value

    @torch.no_grad()
    def at(self, baseline: nn.Module, rows: Tensor) -> Tensor:
        """The advantages (batch,) of the actions of ``rows``, without a gradient."""
        later = self._later[rows]
        return self._of(self.value(baseline, rows), self.value(baseline, later), rows)

    def _of(self, now: Tensor, later: Tensor, rows: Tensor | slice) -> Tensor:
        promised = self._half * now + self._centre
        reached = self._half * later + self._centre
        advantage = self._rewards[rows] + self._discount[rows] * reached - promised
        return advantage / max(self._unit, 1e-6)


def _held_out(config: RewardConfig, data: FlatDataset) -> Tensor:
    """For every row, whether its episode is held out (rows,); some episode always trains."""
    count = min(int(config.held_out * data.episodes), data.episodes - 1)
    order = torch.randperm(data.episodes, generator=generator(config.seed, 2**42))
    chosen = torch.zeros(data.episodes, dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen[torch.tensor(np.repeat(np.arange(data.episodes), np.diff(data.bounds)))]
