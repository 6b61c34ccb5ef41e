"""The teacher: an EDM diffusion model of windows."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from ractd_core.config import TeacherConfig
from ractd_core.data.windows import Windows
from ractd_core.diffusion.denoiser import Denoiser
from ractd_core.draws import Draws
from ractd_core.losses import Info, RewardLoss, teacher_loss
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import build_network
from ractd_core.stages.reward_term import make_reward_loss


class TeacherStage(StageModule):
    """EDM denoising of windows, under the frozen reward model ``value`` if there is one."""

    network: Denoiser

    def __init__(
        self,
        config: TeacherConfig,
        windows: Windows,
        about: dict[str, Any],
        value: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config, self.windows, self.about = config, windows, about
        self.optim, self.seed = config.optim, config.seed
        self.network = cast(Denoiser, build_network(about, config.dropout))
        self.reward_loss: RewardLoss | None = None
        if value is not None:
            self.reward_loss = make_reward_loss(about, value, reward_states=None)

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The teacher's loss on one batch."""
        x0, cond = self.windows.sample(draws)
        config = self.config
        return teacher_loss(
            self.network,
            x0,
            cond,
            draws,
            config.times,
            config.distance,
            self.reward_loss,
            config.reward_weight,
        )
