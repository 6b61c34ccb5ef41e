"""Limits normalization: every dimension of the data to [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ractd_core.data.flat import FlatDataset

_SMALLEST_RANGE = 1e-7


class LimitsNormalizer(nn.Module):
    """Maps the data's range of each dimension to [-1, 1]; a constant dimension maps to 0.

    Holds ``low`` and ``scale``, shape (dims,), as buffers, so it travels with a model's weights.
    """

    low: Tensor
    scale: Tensor

    def __init__(self, low: NDArray[np.floating], high: NDArray[np.floating]) -> None:
        super().__init__()
        span = np.asarray(high, dtype=np.float64) - np.asarray(low, dtype=np.float64)
        constant = span < _SMALLEST_RANGE
        # A constant dimension is centred: low + scale maps to 0.
        bottom = np.where(constant, np.asarray(low) - 1.0, low)
        scale = np.where(constant, 1.0, span / 2.0)
        self.register_buffer("low", torch.tensor(bottom, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    @classmethod
    def fit(cls, values: NDArray[np.floating]) -> LimitsNormalizer:
        """From data (rows, dims) or (rows,)."""
        table = values.reshape(len(values), -1)
        return cls(table.min(axis=0), table.max(axis=0))

    @classmethod
    def empty(cls, dims: int) -> LimitsNormalizer:
        """One to load a state into."""
        return cls(np.zeros(dims), np.ones(dims))

    def normalize(self, values: Tensor) -> Tensor:
        """(..., dims) in data units to [-1, 1] on the data's range (beyond it outside)."""
        return (values - self.low) / self.scale - 1.0

    def unnormalize(self, values: Tensor) -> Tensor:
        """The inverse of :meth:`normalize`."""
        return (values + 1.0) * self.scale + self.low


class Normalizers(nn.Module):
    """The data's observations and actions, each to [-1, 1]; travels with a model's weights."""

    def __init__(self, observations: LimitsNormalizer, actions: LimitsNormalizer) -> None:
        super().__init__()
        self.observations, self.actions = observations, actions

    @classmethod
    def fit(cls, data: FlatDataset) -> Normalizers:
        """From a dataset; an episode's final state has no action, so its row does not count."""
        acted = np.arange(len(data.actions)) != data.last_rows
        return cls(
            LimitsNormalizer.fit(data.observations), LimitsNormalizer.fit(data.actions[acted])
        )

    @classmethod
    def empty(cls, observation_dims: int, action_dims: int) -> Normalizers:
        """One to load a state into."""
        return cls(LimitsNormalizer.empty(observation_dims), LimitsNormalizer.empty(action_dims))
