"""The student: one-step distillation of a frozen teacher under a frozen reward model."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from ractd_core.config import StudentConfig
from ractd_core.data.windows import Windows
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.draws import Draws
from ractd_core.losses import Info, student_loss
from ractd_core.models.unet import load_teacher
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import Model, build_network
from ractd_core.stages.reward_term import make_reward_loss

_SMALLEST = 1e-6
"""Divisors are no smaller."""


class _FirstLoss(nn.Module):
    """The first loss that is reported to it, which a checkpoint remembers; NaN before that."""

    loss: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("loss", torch.tensor(math.nan))

    def note(self, loss: float) -> float:
        """``loss`` if it is the first one, else that one."""
        if self.loss.isnan():
            self.loss.fill_(loss)
        return float(self.loss)


class StudentStage(StageModule):
    """One-step distillation of a frozen teacher under a frozen reward model.

    Raises ValueError for a reward model that cannot be read as ``config`` says: one that has not
    been measured, or pessimism about a single member.
    """

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
        if config.pessimism and reward.about["members"] == 1:
            raise ValueError(
                f"student.pessimism {config.pessimism:g} is about the disagreement of an ensemble, "
                "and the reward model has 1 member: train one with reward.members 2 or more, or "
                "set pessimism to 0"
            )
        # A reward model that trains beside the student has not been measured; the standard
        # deviation of what it says then counts as 1, half the range of normalized returns.
        measured = reward.about.get("measured", {})
        unit = 1.0
        if config.reward_scale == "gradient":
            if not measured:
                raise ValueError(
                    "student.reward_scale gradient needs a reward model that is trained before the "
                    "student; set it to none for joint training"
                )
            unit = max(measured["gradient"], _SMALLEST)
        self.reward_loss = make_reward_loss(
            about, self.value, config.reward_states, pessimism=config.pessimism, unit=unit
        )
        # What one standard deviation of R makes in the reward loss.
        summed = about["horizon"] if about["modelled"] == "states" else 1
        self._spread = summed * max(measured.get("spread", 1.0), _SMALLEST) / unit
        # Of a window of actions, which the reward pulls; a plan's states are all tracked.
        self._executed = 1 if about["modelled"] == "actions" else None
        self.memory["first"] = _FirstLoss()

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
        loss, info = student_loss(
            self.network,
            self.target,
            self.teacher,
            self.reward_loss,
            x0,
            cond,
            draws,
            self.config,
            executed=self._executed,
        )
        if "gain" in info:
            info["gain"] = info["gain"] / self._spread
        return loss, info

    def collapsed(self, metrics: dict[str, float]) -> str | None:
        """Why this is the end of training, judged by the means since the last report."""
        limits = self.config.collapse
        first = cast(_FirstLoss, self.memory["first"]).note(metrics["dsm"])
        reasons = []
        if limits.saturation is not None and metrics.get("saturated", 0.0) > limits.saturation:
            reasons.append(
                f"{metrics['saturated']:.0%} more of what it predicts than of the data lies at or "
                f"beyond the ends of the data's range (limit {limits.saturation:.0%})"
            )
        if limits.gain is not None and metrics.get("gain", 0.0) > limits.gain:
            reasons.append(
                f"the reward model prefers its windows to the data's by {metrics['gain']:.1f} "
                f"standard deviations (limit {limits.gain:g})"
            )
        if limits.loss is not None and metrics["dsm"] > limits.loss * first > 0:
            reasons.append(
                f"the DSM loss is {metrics['dsm']:.3g}, at first {first:.3g} (limit "
                f"{limits.loss:g} times)"
            )
        return "; ".join(reasons) or None

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the target network towards the student (decay 0: copy it)."""
        torch._foreach_lerp_(
            list(self.target.parameters()),
            list(self.network.parameters()),
            1 - self.config.target_ema,
        )
