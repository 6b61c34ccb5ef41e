"""The reward model: return-to-go of states, or of actions in their states."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ractd_core.config import RewardConfig
from ractd_core.data.flat import FlatDataset, returns_to_go
from ractd_core.data.normalizer import LimitsNormalizer, Normalizers
from ractd_core.draws import Draws
from ractd_core.losses import Info, value_loss
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import build_network


class RewardStage(StageModule):
    """Normalized return-to-go regressed on normalized states, or actions beside their states."""

    def __init__(
        self,
        config: RewardConfig,
        inputs: Tensor,
        targets: Tensor,
        about: dict[str, Any],
    ) -> None:
        super().__init__()
        self.inputs, self.targets, self.about = inputs, targets, about
        self.optim, self.seed = config.optim, config.seed
        self.network = build_network(about)

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The reward model's loss on one batch."""
        rows = draws.integers(len(self.inputs))
        return value_loss(self.network, self.inputs[rows], self.targets[rows])


def reward_stage(
    config: RewardConfig,
    data: FlatDataset,
    normalizers: Normalizers,
    about: dict[str, Any],
    device: torch.device,
) -> RewardStage:
    """The reward stage of ``config`` on ``data``."""
    rtg = returns_to_go(data, config.discount, config.truncation, config.termination_penalty)
    inputs = normalizers.observations.normalize(torch.tensor(data.observations))
    if about["modelled"] == "actions":
        # R(a, s), the action first as released; a final state has no action.
        acted = np.arange(len(rtg)) != data.last_rows
        actions = normalizers.actions.normalize(torch.tensor(data.actions))
        inputs, rtg = torch.cat([actions, inputs], dim=1)[torch.tensor(acted)], rtg[acted]
    scale = LimitsNormalizer.fit(rtg)
    targets = scale.normalize(torch.tensor(rtg)[:, None]).squeeze(1).to(device)
    about |= {"widths": list(config.widths), "return_scale": [float(rtg.min()), float(rtg.max())]}
    return RewardStage(config, inputs.to(device), targets, about)
