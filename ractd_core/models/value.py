"""Reward models: networks that predict normalized return-to-go at every step of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ractd_core.config import CONV_GROUPS

_KERNEL = 5


class ResidualMLPBlock(nn.Module):
    """Linear, Mish, Linear, and a skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(inputs, outputs), nn.Mish(), nn.Linear(outputs, outputs)
        )
        self.skip = nn.Linear(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        out: Tensor = self.body(h) + self.skip(h)
        return out


class ValueMLP(nn.Module):
    """R(x): (..., dims) to (...), each step by itself, two residual blocks per width (released)."""

    def __init__(self, dims: int, widths: Sequence[int]) -> None:
        super().__init__()
        inputs = [dims, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(ResidualMLPBlock(a, b), ResidualMLPBlock(b, b))
                for a, b in zip(inputs, widths, strict=True)
            )
        )
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized return-to-go of each step."""
        value: Tensor = self.out(self.blocks(x))
        return value.squeeze(-1)


class ValueConv(nn.Module):
    """R(x): (batch, length, dims) to (batch, length), each step as a part of its window.

    A block of Conv1d, GroupNorm and Mish per width, then a linear layer (as the paper describes
    it). The convolutions see neighbours, the normalization the statistics of the whole window.
    """

    def __init__(self, dims: int, widths: Sequence[int]) -> None:
        super().__init__()
        inputs = [dims, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv1d(a, b, _KERNEL, padding=_KERNEL // 2),
                    nn.GroupNorm(CONV_GROUPS, b),
                    nn.Mish(),
                )
                for a, b in zip(inputs, widths, strict=True)
            )
        )
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized return-to-go of each step."""
        h: Tensor = self.blocks(x.transpose(1, 2))
        value: Tensor = self.out(h.transpose(1, 2))
        return value.squeeze(-1)


class RewardModel(nn.Module):
    """An ensemble of value networks: (batch, length, dims) to (members, batch, length).

    Members see the same batches and differ by their initial weights (Lakshminarayanan et al. 2017).

    ``whole`` says that its members read a window as a whole, not step by step.
    """

    def __init__(self, dims: int, network: str, widths: Sequence[int], members: int) -> None:
        super().__init__()
        self.whole = network == "conv"
        kind = ValueConv if self.whole else ValueMLP
        self.members = nn.ModuleList(kind(dims, widths) for _ in range(members))

    def forward(self, x: Tensor) -> Tensor:
        """Every member's prediction."""
        return torch.stack([member(x) for member in self.members])

    def lower(self, x: Tensor, pessimism: float = 0.0) -> Tensor:
        """The members' mean less ``pessimism`` of their standard deviations, (batch, length).

        A lower confidence bound: members disagree most where no data have told them anything.
        """
        each: Tensor = self(x)
        return each.mean(0) - pessimism * each.std(0) if pessimism else each.mean(0)
