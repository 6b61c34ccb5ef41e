"""Changed recipes, and weights to compare."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ractd_core.config import Recipe


def changed(recipe: Recipe, **parts: dict[str, object]) -> Recipe:
    """``recipe`` with some fields of some stages replaced."""
    table = recipe.model_dump()
    return Recipe.model_validate({**table, **{k: {**table[k], **v} for k, v in parts.items()}})


def weights(module: nn.Module) -> list[Tensor]:
    """Copies of all parameters."""
    return [parameter.detach().clone() for parameter in module.parameters()]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two lists of tensors are the same to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
