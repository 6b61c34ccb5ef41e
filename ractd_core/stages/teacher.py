"""The teacher: an EDM diffusion model of windows."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from ractd_core.config import TeacherConfig
from ractd_core.data.windows import Windows
from ractd_core.diffusion.denoiser import Denoiser
from ractd_core.draws import Draws
from ractd_core.losses import Info, teacher_loss
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import build_network


class TeacherStage(StageModule):
    """EDM denoising of windows."""

    network: Denoiser

    def __init__(self, config: TeacherConfig, windows: Windows, about: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.windows, self.about = config, windows, about
        self.optim, self.seed = config.optim, config.seed
        self.network = cast(Denoiser, build_network(about, config.dropout))

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The teacher's loss on one batch."""
        x0, cond = self.windows.sample(draws)
        return teacher_loss(self.network, x0, cond, draws, self.config.times, self.config.distance)
