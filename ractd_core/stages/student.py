"""The student: one-step distillation of a frozen teacher under a frozen reward model."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor

from ractd_core.config import StudentConfig
from ractd_core.data.windows import Windows
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.draws import Draws
from ractd_core.losses import Info, student_loss
from ractd_core.models.unet import load_teacher
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import Model, build_network
from ractd_core.stages.reward_term import make_reward_loss


class StudentStage(StageModule):
    """One-step distillation of a frozen teacher under a frozen reward model."""

    network: ConsistencyTrajectory

    def __init__(
        self,
        config: StudentConfig,
        windows: Windows,
        teacher: Model,
        reward: Model,
        about: dict[str, Any],
    ) -> None:
        super().__init__()
        self.config, self.windows, self.about = config, windows, about
        self.optim, self.seed = config.optim, config.seed
        self.network = cast(ConsistencyTrajectory, build_network(about, config.dropout))
        load_teacher(self.network, teacher.network)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        self.memory["target"] = self.target
        self.teacher, self.value = teacher.network, reward.network
        self.reward_loss = make_reward_loss(about, self.value, config.reward_states)

    def train(self, mode: bool = True) -> StudentStage:
        """Only the student trains: target, teacher and reward model stay in eval mode."""
        super().train(mode)
        for frozen in (self.target, self.teacher, self.value):
            frozen.eval()
        return self

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The student's loss on one batch."""
        x0, cond = self.windows.sample(draws)
        assert isinstance(self.teacher, Denoiser)
        return student_loss(
            self.network, self.target, self.teacher, self.reward_loss, x0, cond, draws, self.config
        )

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the target network towards the student (decay 0: copy it)."""
        torch._foreach_lerp_(
            list(self.target.parameters()),
            list(self.network.parameters()),
            1 - self.config.target_ema,
        )
