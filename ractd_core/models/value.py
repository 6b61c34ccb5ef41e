"""The reward model: a residual MLP that predicts normalized return-to-go from single states."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


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
    """R(x): (..., dims) to (...), two residual blocks per width (released code)."""

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
        """Normalized return-to-go of each state."""
        value: Tensor = self.out(self.blocks(x))
        return value.squeeze(-1)
