"""What all stages share."""

from __future__ import annotations

from typing import Any

from torch import nn

from ractd_core.config import OptimConfig
from ractd_core.data.normalizer import Normalizers
from ractd_core.stages.model import Model


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

    def collapsed(self, metrics: dict[str, float]) -> str | None:
        """Nothing but a loss that is not finite ends training."""
        return None

    def result(self, network: nn.Module, normalizers: Normalizers) -> Model:
        """The finished stage around ``network``, usually the trainer's average."""
        return Model(network, normalizers, self.about)
