"""The baseline without diffusion."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ractd_core.config import RegressionConfig
from ractd_core.data.windows import Windows
from ractd_core.draws import Draws
from ractd_core.losses import Info, regression_loss
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import build_network


class RegressionStage(StageModule):
    """The window regressed on its conditioning: for actions, behaviour cloning."""

    def __init__(self, config: RegressionConfig, windows: Windows, about: dict[str, Any]) -> None:
        super().__init__()
        self.windows, self.about = windows, about
        self.optim, self.seed = config.optim, config.seed
        self.network = build_network(about)

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The regression's loss on one batch."""
        x0, cond = self.windows.sample(draws)
        return regression_loss(self.network, x0, cond)
