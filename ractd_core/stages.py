"""What differs between the stages, and nothing else: their data, networks and losses.

A finished stage is one file, ``model.safetensors``: the averaged weights, the normalizers, and in
its header everything needed to build the model again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
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
from ractd_core.data.normalizer import LimitsNormalizer, Normalizers
from ractd_core.data.windows import ActionWindows, PlanWindows, Windows
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.draws import Draws, generator
from ractd_core.files import STAGE_SCHEMA
from ractd_core.losses import (
    Info,
    RewardLoss,
    action_reward_loss,
    plan_reward_loss,
    regression_loss,
    student_loss,
    teacher_loss,
    value_loss,
)
from ractd_core.models.unet import TemporalUNet, load_teacher
from ractd_core.models.value import ValueMLP

KINDS = ("teacher", "reward", "student", "regression")


@dataclass(frozen=True)
class Model:
    """A stage's result: the network, its normalizer, and ``about``, what its file's header says."""

    network: nn.Module
    normalizers: Normalizers
    about: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the one file."""
        tensors = with_prefix("network", self.network.state_dict())
        tensors |= with_prefix("normalizers", self.normalizers.state_dict())
        save_checkpoint(path, tensors, self.about)


def build_network(about: dict[str, Any], dropout: float = 0.0) -> nn.Module:
    """An untrained network of the kind and shape that ``about`` describes.

    ``about`` has ``kind``, ``modelled`` (states or actions), ``observation_dims`` and
    ``action_dims``; the reward model ``widths``, the others ``context`` (how many observations
    condition a window), ``network`` (a :class:`UNetConfig`) and, but for the regression, ``noise``
    (a :class:`NoiseConfig`).
    """
    dims = window_dims(about)
    if about["kind"] == "reward":
        beside = about["observation_dims"] if about["modelled"] == "actions" else 0
        return ValueMLP(dims + beside, about["widths"])
    unet = TemporalUNet(
        dims,
        about["context"] * about["observation_dims"],
        UNetConfig.model_validate(about["network"]),
        stop_time=about["kind"] == "student",
        dropout=dropout,
    )
    if about["kind"] == "regression":
        return unet
    noise = NoiseConfig.model_validate(about["noise"])
    return (ConsistencyTrajectory if about["kind"] == "student" else Denoiser)(unet, noise)


def window_dims(about: dict[str, Any]) -> int:
    """Dimensions of what a window holds: states or actions."""
    return int(about["observation_dims" if about["modelled"] == "states" else "action_dims"])


def load_model(path: Path, *kinds: str, device: torch.device | str = "cpu") -> Model:
    """Read a finished stage, frozen and in eval mode.

    Raises :class:`CheckpointError` if the file is damaged, of another schema version, or of a kind
    not in ``kinds`` (any kind if none is given).
    """
    tensors, about = load_checkpoint(path, str(device))
    if about.get("schema") != STAGE_SCHEMA:
        raise CheckpointError(
            f"{path} is of schema version {about.get('schema')}, this release reads "
            f"{STAGE_SCHEMA}; train it anew, or use the release that wrote it"
        )
    if about.get("kind") not in (kinds or KINDS):
        raise CheckpointError(
            f"{path} holds a {about.get('kind')} model, expected {' or '.join(kinds or KINDS)}"
        )
    try:
        network = build_network(about).to(device)
        normalizers = Normalizers.empty(about["observation_dims"], about["action_dims"]).to(device)
        network.load_state_dict(under_prefix("network", tensors))
        normalizers.load_state_dict(under_prefix("normalizers", tensors))
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: its tensors do not fit the network that its header describes ({error})"
        ) from error
    return Model(network.eval().requires_grad_(False), normalizers, about)


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

    def result(self, network: nn.Module, normalizers: Normalizers) -> Model:
        """The finished stage around ``network``, usually the trainer's average."""
        return Model(network, normalizers, self.about)


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
        self.reward_loss: RewardLoss = (
            partial(plan_reward_loss, self.value, states=config.reward_states)
            if about["modelled"] == "states"
            else partial(action_reward_loss, self.value, observation_dims=about["observation_dims"])
        )

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


def make_stage(
    kind: str, recipe: Recipe, data: FlatDataset, parents: dict[str, Path], device: torch.device
) -> tuple[StageModule, Normalizers]:
    """The stage ``kind`` of ``recipe`` on ``data``, ready to train, and the data's normalizers.

    Mazes are planned in states, all other tasks in actions. ``parents`` holds the model files of
    teacher and reward when ``kind`` is ``student``. Initial weights depend on the stage's seed
    alone. Raises ValueError for an unknown kind and :class:`CheckpointError` for a parent that
    cannot be used, among them one of other data or another window.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown stage {kind!r}, expected one of {', '.join(KINDS)}")
    normalizers = Normalizers.fit(data)
    config = getattr(recipe, kind)
    torch.manual_seed(generator(config.seed, 2**40).initial_seed() % 2**31)
    about: dict[str, Any] = {
        "schema": STAGE_SCHEMA,
        "kind": kind,
        "dataset": str(data.name),
        "fingerprint": data.fingerprint,
        "modelled": "states" if data.name.task.domain == "maze2d" else "actions",
        "observation_dims": int(data.observations.shape[1]),
        "action_dims": int(data.actions.shape[1]),
    }
    if kind == "reward":
        return _reward_stage(recipe.reward, data, normalizers, about, device), normalizers

    windows: Windows
    if about["modelled"] == "states":
        windows = PlanWindows(data, recipe.window, normalizers.observations, device)
        about["context"] = 2
    else:
        windows = ActionWindows(data, recipe.window, normalizers, device)
        about["context"] = recipe.window.history
    about["horizon"] = recipe.window.horizon
    network = recipe.regression.network if kind == "regression" else recipe.teacher.network
    about["network"] = network.model_dump(mode="json")
    if kind == "regression":
        return RegressionStage(recipe.regression, windows, about), normalizers
    about["noise"] = recipe.teacher.noise.model_dump(mode="json")
    if kind == "teacher":
        return TeacherStage(recipe.teacher, windows, about), normalizers
    teacher = load_model(parents["teacher"], "teacher", device=device)
    reward = load_model(parents["reward"], "reward", device=device)
    _check_parent(parents["teacher"], teacher.about, about, "horizon", "context")
    _check_parent(parents["reward"], reward.about, about)
    # The warm start is a copy, so the student's noise levels are its teacher's own.
    about["noise"], about["network"] = teacher.about["noise"], teacher.about["network"]
    return StudentStage(recipe.student, windows, teacher, reward, about), normalizers


def _check_parent(path: Path, parent: dict[str, Any], child: dict[str, Any], *also: str) -> None:
    """A parent of other data was normalized otherwise: its numbers would mean something else."""
    same = ("fingerprint", "modelled", "observation_dims", "action_dims", *also)
    wrong = [f"{key} {parent[key]}, not {child[key]}" for key in same if parent[key] != child[key]]
    if wrong:
        raise CheckpointError(
            f"{path} is no {parent['kind']} for this student: it has {'; '.join(wrong)}; train one "
            f"on {child['dataset']} with the same window"
        )


def _reward_stage(
    config: RewardConfig,
    data: FlatDataset,
    normalizers: Normalizers,
    about: dict[str, Any],
    device: torch.device,
) -> RewardStage:
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
