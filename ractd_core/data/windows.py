"""Windows of states or actions, gathered on the device without per-row Python.

::

    episode   s0 s1 s2 s3 s4 s5            (five transitions, a0 ... a4)

    states, horizon 4, padding "hold"          s5*: same position, velocity 0
      x0      [s0 s1 s2 s3] [s3 s4 s5 s5*] [s5 s5* s5* s5*]
      cond    (first, last) of the window

    actions, horizon 3, history 2, padding "hold"
      x0      [a0 a1 a2]    [a3 a4 a4]
      cond    [s0 s0]       [s2 s3]            before its start an episode repeats s0

    padding "none" has the starts s0 ... s2 (states) and a0 ... a2 (actions) only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ractd_core.config import WindowConfig
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.normalizer import LimitsNormalizer, Normalizers
from ractd_core.draws import Draws

VELOCITY = slice(2, 4)
"""Where a maze state (x, y, vx, vy) holds its velocity."""


class Windows(ABC):
    """Normalized windows ``x0`` (batch, horizon, dims) with ``cond`` (batch, context · obs_dim).

    Raises :class:`DataError` if there is none (``padding="none"`` and every episode shorter).
    """

    def __init__(
        self,
        data: FlatDataset,
        config: WindowConfig,
        last: NDArray[np.int64],
        device: torch.device,
    ) -> None:
        rows = np.arange(len(last))
        reach = config.horizon - 1 if config.padding == "none" else 0
        starts = rows[rows + reach <= last]
        if len(starts) == 0:
            longest = int((last - rows).max()) + 1
            raise DataError(
                f"{data.name}: no episode holds a window of {config.horizon} (the longest has "
                f"{longest}); lower window.horizon or set window.padding to hold"
            )
        self._last = torch.tensor(last, device=device)
        self.starts = torch.tensor(starts, device=device)
        self._offsets = torch.arange(config.horizon, device=device)

    def __len__(self) -> int:
        return len(self.starts)

    def rows(self, index: Tensor) -> Tensor:
        """The data's rows (batch, horizon) behind windows; what is held repeats the last one."""
        start = self.starts[index][:, None]
        return torch.minimum(start + self._offsets, self._last[start])

    @property
    @abstractmethod
    def dims(self) -> int:
        """Dimensions of a window's steps."""

    @abstractmethod
    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The windows numbered ``index`` (batch,) and their conditioning."""

    def sample(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """A batch of windows, uniform over all starts."""
        return self.at(draws.integers(len(self)))


class PlanWindows(Windows):
    """Windows of maze states, conditioned on their first and last one."""

    def __init__(
        self,
        data: FlatDataset,
        config: WindowConfig,
        normalizer: LimitsNormalizer,
        device: torch.device,
    ) -> None:
        super().__init__(data, config, data.last_rows, device)
        states = normalizer.normalize(torch.tensor(np.asarray(data.observations)))
        self.states = states.to(device)
        still = normalizer.normalize(torch.zeros(states.shape[1]))
        self._still = still[VELOCITY].to(device)

    @property
    def dims(self) -> int:
        """Dimensions of a state."""
        return self.states.shape[1]

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The windows numbered ``index`` (batch,) and their conditioning."""
        rows = self.rows(index)
        x0 = self.states[rows]
        beyond = (rows < self.starts[index][:, None] + self._offsets)[..., None]
        x0[..., VELOCITY] = torch.where(beyond, self._still, x0[..., VELOCITY])
        return x0, torch.cat([x0[:, 0], x0[:, -1]], dim=1)


class ActionWindows(Windows):
    """Windows of actions, conditioned on the last ``history`` observations, oldest first."""

    def __init__(
        self,
        data: FlatDataset,
        config: WindowConfig,
        normalizers: Normalizers,
        device: torch.device,
    ) -> None:
        # An episode's last row is its final state, at which no action was taken.
        super().__init__(data, config, data.last_rows - 1, device)
        observations = torch.tensor(np.asarray(data.observations))
        actions = torch.tensor(np.asarray(data.actions))
        self.observations = normalizers.observations.normalize(observations).to(device)
        self.actions = normalizers.actions.normalize(actions).to(device)
        first = np.repeat(data.bounds[:-1], np.diff(data.bounds))
        self._first = torch.tensor(first, device=device)
        self._past = torch.arange(1 - config.history, 1, device=device)

    @property
    def dims(self) -> int:
        """Dimensions of an action."""
        return self.actions.shape[1]

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The windows numbered ``index`` (batch,) and their conditioning."""
        start = self.starts[index][:, None]
        x0 = self.actions[self.rows(index)]
        cond = self.observations[torch.maximum(start + self._past, self._first[start])]
        return x0, cond.flatten(1)


def make_windows(
    data: FlatDataset, config: WindowConfig, normalizers: Normalizers, device: torch.device
) -> Windows:
    """Windows of states for mazes, of actions for all other tasks."""
    if data.name.task.domain == "maze2d":
        return PlanWindows(data, config, normalizers.observations, device)
    return ActionWindows(data, config, normalizers, device)
