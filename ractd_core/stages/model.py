"""A finished stage: one file, ``model.safetensors``.

It holds the averaged weights, the normalizers, and in its header everything needed to build the
model again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ractd_core.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    under_prefix,
    with_prefix,
)
from ractd_core.config import NoiseConfig, UNetConfig
from ractd_core.data.normalizer import Normalizers
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.files import STAGE_SCHEMA
from ractd_core.models.unet import TemporalUNet
from ractd_core.models.value import RewardModel

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
    ``action_dims``; the reward model ``network`` (mlp or conv), ``widths`` and ``members``, the
    others ``context`` (how many observations condition a window), ``network`` (a
    :class:`UNetConfig`) and, but for the regression, ``noise`` (a :class:`NoiseConfig`).
    """
    dims = window_dims(about)
    if about["kind"] == "reward":
        beside = about["observation_dims"] if about["modelled"] == "actions" else 0
        return RewardModel(dims + beside, about["network"], about["widths"], about["members"])
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


def differences(parent: dict[str, Any], child: dict[str, Any], *also: str) -> str:
    """Why a model cannot be a part of another: what their headers say otherwise, or nothing.

    A parent of other data was normalized otherwise: its numbers would mean something else. A
    reward model of whole windows has seen those of its own horizon only.
    """
    same = ["fingerprint", "modelled", "observation_dims", "action_dims", *also]
    if parent["kind"] == "reward" and parent["network"] == "conv":
        same.append("horizon")
    return "; ".join(
        f"{key} {parent[key]}, not {child[key]}" for key in same if parent[key] != child[key]
    )


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
        # What is read draws no random numbers that a stage built after it would miss.
        with torch.random.fork_rng(devices=[]):
            network = build_network(about).to(device)
        normalizers = Normalizers.empty(about["observation_dims"], about["action_dims"]).to(device)
        network.load_state_dict(under_prefix("network", tensors))
        normalizers.load_state_dict(under_prefix("normalizers", tensors))
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: its tensors do not fit the network that its header describes ({error})"
        ) from error
    return Model(network.eval().requires_grad_(False), normalizers, about)
