"""What differs between the stages, and nothing else: their data, networks and losses.

A finished stage is one file, ``model.safetensors``: the averaged weights, the normalizer, and in
its header everything needed to build the model again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ractd_core.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    under_prefix,
    with_prefix,
)
from ractd_core.config import (
    NoiseConfig,
    OptimConfig,
    Recipe,
    RegressionConfig,
    RewardConfig,
    StudentConfig,
    TeacherConfig,
    UNetConfig,
)
from ractd_core.data.flat import FlatDataset, returns_to_go
from ractd_core.data.normalizer import LimitsNormalizer
from ractd_core.data.windows import PlanWindows
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.draws import Draws, generator
from ractd_core.losses import Info, regression_loss, student_loss, teacher_loss, value_loss
from ractd_core.models.unet import TemporalUNet, load_teacher
from ractd_core.models.value import ValueMLP

KINDS = ("teacher", "reward", "student", "regression")
_PLANS = ("teacher", "student", "regression")


@dataclass(frozen=True)
class Model:
    """A stage's result: the network, its normalizer, and ``about``, what its file's header says."""

    network: nn.Module
    normalizer: LimitsNormalizer
    about: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the one file."""
        tensors = with_prefix("network", self.network.state_dict())
        tensors |= with_prefix("normalizer", self.normalizer.state_dict())
        save_checkpoint(path, tensors, self.about)


def build_network(about: dict[str, Any], dropout: float = 0.0) -> nn.Module:
    """An untrained network of the kind and shape that ``about`` describes.

    ``about`` has ``kind``, ``dims`` and, but for the reward model, ``network`` (a
    :class:`UNetConfig`) and ``noise`` (a :class:`NoiseConfig`, teacher and student only).
    """
    dims = about["dims"]
    if about["kind"] == "reward":
        return ValueMLP(dims, about["widths"])
    unet = TemporalUNet(
        dims,
        2 * dims,
        UNetConfig.model_validate(about["network"]),
        stop_time=about["kind"] == "student",
        dropout=dropout,
    )
    if about["kind"] == "regression":
        return unet
    noise = NoiseConfig.model_validate(about["noise"])
    return (ConsistencyTrajectory if about["kind"] == "student" else Denoiser)(unet, noise)


def load_model(path: Path, *kinds: str, device: torch.device | str = "cpu") -> Model:
    """Read a finished stage, frozen and in eval mode.

    Raises :class:`CheckpointError` if the file is damaged or of a kind not in ``kinds`` (any kind
    if none is given).
    """
    tensors, about = load_checkpoint(path, str(device))
    if about.get("kind") not in (kinds or KINDS):
        raise CheckpointError(
            f"{path} holds a {about.get('kind')} model, expected {' or '.join(kinds or KINDS)}"
        )
    network = build_network(about).to(device)
    normalizer = LimitsNormalizer.empty(about["dims"]).to(device)
    network.load_state_dict(under_prefix("network", tensors))
    normalizer.load_state_dict(under_prefix("normalizer", tensors))
    return Model(network.eval().requires_grad_(False), normalizer, about)


class StageModule(nn.Module):
    """A stage with nothing to do after a step; ``network`` is the only part that trains."""

    network: nn.Module
    about: dict[str, Any]
    optim: OptimConfig
    seed: int

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.ModuleDict()

    def after_step(self) -> None:
        """Nothing follows an update."""

    def result(self, network: nn.Module, normalizer: LimitsNormalizer) -> Model:
        """The finished stage around ``network``, usually the trainer's average."""
        return Model(network, normalizer, self.about)


class TeacherStage(StageModule):
    """EDM denoising of windows."""

    network: Denoiser

    def __init__(self, config: TeacherConfig, windows: PlanWindows, about: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.windows, self.about = config, windows, about
        self.optim, self.seed = config.optim, config.seed
        self.network = cast(Denoiser, build_network(about, config.dropout))

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The teacher's loss on one batch."""
        x0, cond = self.windows.sample(draws)
        return teacher_loss(self.network, x0, cond, draws, self.config.times, self.config.distance)


class RegressionStage(StageModule):
    """The plan regressed on its ends."""

    def __init__(
        self, config: RegressionConfig, windows: PlanWindows, about: dict[str, Any]
    ) -> None:
        super().__init__()
        self.windows, self.about = windows, about
        self.optim, self.seed = config.optim, config.seed
        self.network = build_network(about)

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The regression's loss on one batch."""
        x0, cond = self.windows.sample(draws)
        return regression_loss(self.network, x0, cond)


class RewardStage(StageModule):
    """Normalized return-to-go regressed on normalized states."""

    def __init__(
        self,
        config: RewardConfig,
        states: Tensor,
        targets: Tensor,
        about: dict[str, Any],
    ) -> None:
        super().__init__()
        self.states, self.targets, self.about = states, targets, about
        self.optim, self.seed = config.optim, config.seed
        self.network = build_network(about)

    def forward(self, draws: Draws) -> tuple[Tensor, Info]:
        """The reward model's loss on one batch."""
        rows = draws.integers(len(self.states))
        return value_loss(self.network, self.states[rows], self.targets[rows])


class StudentStage(StageModule):
    """One-step distillation of a frozen teacher under a frozen reward model."""

    network: ConsistencyTrajectory

    def __init__(
        self,
        config: StudentConfig,
        windows: PlanWindows,
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
            self.network, self.target, self.teacher, self.value, x0, cond, draws, self.config
        )

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the target network towards the student (decay 0: copy it)."""
        torch._foreach_lerp_(
            list(self.target.parameters()),
            list(self.network.parameters()),
            1 - self.config.target_ema,
        )


def make_stage(
    kind: str, recipe: Recipe, data: FlatDataset, parents: dict[str, Path], device: torch.device
) -> tuple[StageModule, LimitsNormalizer]:
    """The stage ``kind`` of ``recipe`` on ``data``, ready to train, and the data's normalizer.

    ``parents`` holds the model files of teacher and reward when ``kind`` is ``student``. Initial
    weights depend on the stage's seed alone. Raises ValueError for an unknown kind and
    :class:`CheckpointError` for a parent that cannot be used.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown stage {kind!r}, expected one of {', '.join(KINDS)}")
    normalizer = LimitsNormalizer.fit(data.observations)
    config = getattr(recipe, kind)
    torch.manual_seed(generator(config.seed, 2**40).initial_seed() % 2**31)
    about: dict[str, Any] = {"kind": kind, "dims": int(data.observations.shape[1])}
    if kind == "reward":
        return _reward_stage(recipe.reward, data, normalizer, about, device), normalizer

    windows = PlanWindows(data, recipe.window, normalizer, device)
    about["horizon"] = recipe.window.horizon
    network = recipe.regression.network if kind == "regression" else recipe.teacher.network
    about["network"] = network.model_dump(mode="json")
    if kind == "regression":
        return RegressionStage(recipe.regression, windows, about), normalizer
    about["noise"] = recipe.teacher.noise.model_dump(mode="json")
    if kind == "teacher":
        return TeacherStage(recipe.teacher, windows, about), normalizer
    teacher = load_model(parents["teacher"], "teacher", device=device)
    reward = load_model(parents["reward"], "reward", device=device)
    # The warm start is a copy, so the student's noise levels are its teacher's own.
    about["noise"], about["network"] = teacher.about["noise"], teacher.about["network"]
    return StudentStage(recipe.student, windows, teacher, reward, about), normalizer


def _reward_stage(
    config: RewardConfig,
    data: FlatDataset,
    normalizer: LimitsNormalizer,
    about: dict[str, Any],
    device: torch.device,
) -> RewardStage:
    rtg = returns_to_go(data, config.discount, config.truncation)
    scale = LimitsNormalizer.fit(rtg)
    states = normalizer.normalize(torch.tensor(data.observations)).to(device)
    targets = scale.normalize(torch.tensor(rtg)[:, None]).squeeze(1).to(device)
    about |= {"widths": list(config.widths), "return_scale": [float(rtg.min()), float(rtg.max())]}
    return RewardStage(config, states, targets, about)
