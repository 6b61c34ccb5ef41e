"""The reward model: what states, or actions in their states, are worth."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ractd_core.config import RewardConfig, WindowConfig
from ractd_core.data.flat import FlatDataset, returns_to_go
from ractd_core.data.normalizer import LimitsNormalizer, Normalizers
from ractd_core.data.windows import make_windows
from ractd_core.draws import Draws, generator
from ractd_core.losses import Info, reward_inputs, value_loss
from ractd_core.models.value import ValueMLP
from ractd_core.stages.advantage import Advantages
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import Model, build_network

_MEASURED = 4096
"""Windows that a finished model is measured on."""
_AT_ONCE = 256
"""Of which so many in one pass: a model of whole windows needs memory for all their steps."""


class RewardStage(StageModule):
    """Regression of the normalized return-to-go, or of the advantage, on windows of the data.

    The MLP's windows are of one step. ``network`` holds the ``model`` and, for advantages, the
    ``baseline`` V(s) that they are measured from, which does not outlive training. Nothing of a
    held-out episode but its observations' and actions' range enters the model. Raises ValueError
    for advantages of states: what follows a state alone is its value.
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
        if config.target == "advantage" and not self.of_actions:
            raise ValueError(
                f"reward.target advantage is of actions, but {data.name} is planned in states; "
                "set it to return"
            )
        horizon = window.horizon if config.network == "conv" else 1
        own = window.model_copy(update={"horizon": horizon, "history": 1})
        self.windows = make_windows(data, own, normalizers, device)
        trains = ~self._held_out(config, data)
        training_rows = torch.tensor(trains, device=device)
        every = torch.arange(len(self.windows), device=device)
        apart = ~training_rows[self.windows.starts]
        self.training_windows, self.held_out_windows = every[~apart], every[apart]

        rtg = returns_to_go(data, config.discount, config.truncation, config.termination_penalty)
        limits = LimitsNormalizer.fit(rtg[trains]).to(device)
        to_go = torch.tensor(rtg, device=device)[:, None]
        self.returns = limits.normalize(to_go).squeeze(1)
        self.about = about | {
            **config.model_dump(mode="json", include={"network", "widths", "members", "target"}),
            "horizon": horizon,
            "return_scale": limits.unnormalize(torch.tensor([-1.0, 1.0], device=device)).tolist(),
        }
        self.network = nn.ModuleDict({"model": build_network(self.about)})
        self.advantages: Advantages | None = None
        if config.target == "advantage":
            self.network["baseline"] = ValueMLP(about["observation_dims"], config.widths)
            seen = normalizers.observations.normalize(torch.tensor(data.observations)).to(device)
            self.advantages = Advantages(config, data, seen, limits, self.returns, training_rows)

    def _held_out(self, config: RewardConfig, data: FlatDataset) -> NDArray[np.bool_]:
        """For every row, whether its episode is held out (rows,).

        Only episodes that have windows are, and of these one always trains.
        """
        episode = np.repeat(np.arange(data.episodes), np.diff(data.bounds))
        usable = np.unique(episode[self.windows.starts.cpu().numpy()])
        count = min(int(config.held_out * len(usable)), len(usable) - 1)
        order = torch.randperm(len(usable), generator=generator(config.seed, 2**42))
        return np.isin(episode, usable[order[:count].numpy()])

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The reward model's loss on one batch, and the baseline's if there is one."""
        index = self.training_windows[draws.integers(len(self.training_windows))]
        inputs, scored = self._batch(index)
        loss, info = value_loss(self.network["model"], inputs, self._target(self.network, scored))
        if self.advantages is None:
            return loss, info
        promised = self.advantages.value(self.network["baseline"], scored)
        baseline = (promised - self.returns[scored]).square().mean()
        return loss + baseline, info | {"baseline": baseline.detach()}

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (batch, horizon, dims) and the rows of their first steps, which are scored.

        Of a window of actions it is the first one, which is executed, of states all.
        """
        x0, cond = self.windows.at(index)
        rows = self.windows.rows(index)
        if self.of_actions:
            return reward_inputs(x0, cond), rows[:, :1]
        return x0, rows

    def _target(self, network: nn.ModuleDict, rows: Tensor) -> Tensor:
        """What the model is to say of ``rows`` (...)."""
        if self.advantages is None:
            return self.returns[rows]
        return self.advantages.target(network["baseline"], rows)

    def result(self, network: nn.Module, normalizers: Normalizers) -> Model:
        """The model, with its accuracy and the scale of what it says in the header.

        ``measured`` has, on windows of the data: R² on episodes it was trained on (``r2``) and on
        those held out (``held_out_r2``), None where there are none or their targets are all equal;
        the ``mean`` of its predictions; their ``spread`` over what a student generates, the
        standard deviation over states, or over actions in the same state; the mean norm of their
        ``gradient`` with respect to a state, or to the window of actions; and the members'
        ``disagreement`` (mean standard deviation, None for one member).
        """
        parts = cast(nn.ModuleDict, network)
        seen = self._ask(parts, self.training_windows)
        held_out = self._ask(parts, self.held_out_windows) if len(self.held_out_windows) else None
        members = len(seen.each)
        measured = {
            "r2": seen.r2(),
            "held_out_r2": held_out.r2() if held_out else None,
            "mean": float(seen.each.mean()),
            "spread": seen.spread(),
            "gradient": float(seen.gradient.mean()),
            "disagreement": float(seen.each.std(0).mean()) if members > 1 else None,
        }
        return Model(parts["model"], normalizers, self.about | {"measured": measured})

    def _ask(self, network: nn.ModuleDict, windows: Tensor) -> _Answers:
        """What the model says of some of ``windows``, the same ones whenever it is asked."""
        chosen = torch.randint(len(windows), (_MEASURED,), generator=generator(self.seed, 2**41))
        answers = [
            self._ask_batch(network, index)
            for index in windows[chosen.to(windows.device)].view(-1, _AT_ONCE)
        ]
        each, swapped, target, gradient = zip(*answers, strict=True)
        return _Answers(
            torch.cat(each, dim=1),
            torch.cat(swapped, dim=1),
            torch.cat(target),
            torch.cat(gradient),
        )

    def _ask_batch(self, network: nn.ModuleDict, index: Tensor) -> _Answers:
        inputs, scored = self._batch(index)
        inputs.requires_grad_()
        with torch.enable_grad():
            each = network["model"](inputs)[..., : scored.shape[1]]
            [slope] = torch.autograd.grad(each.mean(0).sum(), inputs)
        # What an action could change: its state, which comes after it, is given.
        dims = self.windows.dims
        own = slope[..., :dims].flatten(1) if self.of_actions else slope
        with torch.no_grad():
            other = torch.cat([inputs[..., :dims].roll(1, 0), inputs[..., dims:]], dim=2)
            swapped = network["model"](other)[..., : scored.shape[1]]
        target = self._target(network, scored)
        return _Answers(each.detach(), swapped, target, own.norm(dim=-1))


class _Answers(NamedTuple):
    """What members say of windows (members, batch, scored), and what they were to say.

    ``swapped`` is what they say where another window's states, or actions in the same state, are;
    ``target`` (batch, scored); ``gradient`` is the norm of their mean's, (batch,) of windows of
    actions, (batch, horizon) of states.
    """

    each: Tensor
    swapped: Tensor
    target: Tensor
    gradient: Tensor

    def spread(self) -> float:
        """The standard deviation of the members' mean over what can be swapped."""
        # Of two independent draws, the difference has twice the variance of one.
        return float((self.swapped - self.each).mean(0).square().mean().div(2).sqrt())

    def r2(self) -> float | None:
        """The share of the target's variance that the members' mean explains, at most 1."""
        target = self.target.detach().double()
        if target.max() == target.min():
            return None
        left = (self.each.mean(0).double() - target).square().mean()
        return float(1 - left / target.var(correction=0))
