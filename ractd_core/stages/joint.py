"""Teacher, reward model and student trained at once, to compare with one after the other."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.data.normalizer import Normalizers
from ractd_core.data.windows import Windows
from ractd_core.draws import Draws
from ractd_core.losses import Info
from ractd_core.stages.base import StageModule
from ractd_core.stages.model import Model
from ractd_core.stages.reward import RewardStage
from ractd_core.stages.student import StudentStage
from ractd_core.stages.teacher import TeacherStage


class JointStage(StageModule):
    """The sum of the three stages' losses, each on a batch of its own; a student comes out.

    Every part has its own stage's networks and losses. The student learns from copies of the
    current teacher and reward model, so its loss moves neither. One optimizer, the student's,
    trains all three for as many steps as its teacher and it would take one after the other; its
    gradient clipping is of the three gradients together.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: FlatDataset,
        windows: Windows,
        normalizers: Normalizers,
        about: dict[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__()
        if recipe.reward.target == "advantage":
            raise ValueError(
                "reward.target advantage needs a value function that is learned before the "
                "student; set it to return for joint training"
            )
        self.about = about | {"trained": "jointly"}
        steps = recipe.teacher.optim.steps + recipe.student.optim.steps
        self.optim = recipe.student.optim.model_copy(update={"steps": steps})
        self.seed = recipe.student.seed

        as_reward = about | {"kind": "reward"}
        self.reward = RewardStage(
            recipe.reward, recipe.window, data, normalizers, as_reward, device
        )
        reward = _frozen(self.reward.network["model"], normalizers, self.reward.about)
        value = reward.network if recipe.teacher.reward_weight else None
        as_teacher = about | {"kind": "teacher"}
        self.teacher = TeacherStage(recipe.teacher, windows, as_teacher, value)
        teacher = _frozen(self.teacher.network, normalizers, self.teacher.about)
        self.student = StudentStage(recipe.student, windows, teacher, reward, about)

        self._followed = (
            (teacher.network, self.teacher.network),
            (reward.network, self.reward.network["model"]),
        )
        parts = {"teacher": self.teacher, "reward": self.reward, "student": self.student}
        self.network = nn.ModuleDict({name: part.network for name, part in parts.items()})
        self.memory = nn.ModuleDict(
            {
                "teacher": teacher.network,
                "reward": reward.network,
                "student": self.student.memory,
            }
        )

    def train(self, mode: bool = True) -> JointStage:
        """As the student says, whose frozen parts are reached by other names too."""
        super().train(mode)
        self.student.train(mode)
        return self

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The three losses' sum, and the student's metrics beside it."""
        teacher, _ = self.teacher(draws)
        value, _ = self.reward(draws)
        student, info = self.student(draws)
        loss = teacher + value + student
        parts = {"teacher": teacher, "value": value, "student": student}
        return loss, info | {
            "loss": loss.detach(),
            **{f"{name}_loss": part.detach() for name, part in parts.items()},
        }

    def collapsed(self, metrics: dict[str, float]) -> str | None:
        """Why the student's training has failed."""
        return self.student.collapsed(metrics)

    @torch.no_grad()
    def after_step(self) -> None:
        """The student's next targets are the teacher's and the reward model's of now."""
        self.student.after_step()
        for copied, trained in self._followed:
            copied.load_state_dict(trained.state_dict())

    def result(self, network: nn.Module, normalizers: Normalizers) -> Model:
        """The student among the three."""
        assert isinstance(network, nn.ModuleDict)
        return Model(network["student"], normalizers, self.about)


def _frozen(network: nn.Module, normalizers: Normalizers, about: dict[str, Any]) -> Model:
    """A copy of ``network`` that no loss moves."""
    return Model(copy.deepcopy(network).eval().requires_grad_(False), normalizers, about)
