"""Windows of states, gathered on the device without per-row Python.

::

    episode   s0 s1 s2 s3 s4 s5            horizon 4, padding "rest"
    windows   [s0 s1 s2 s3] [s3 s4 s5 s5*] [s5 s5* s5* s5*]     s5*: same position, velocity 0
    cond      (first, last) of the window
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ractd_core.config import WindowConfig
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.normalizer import LimitsNormalizer
from ractd_core.draws import Draws

VELOCITY = slice(2, 4)
"""Where a maze state (x, y, vx, vy) holds its velocity."""


class PlanWindows:
    """Normalized windows ``x0`` (batch, horizon, dims) with ``cond`` (batch, 2·dims).

    Raises :class:`DataError` if no window fits (``padding="none"`` and every episode shorter).
    """

    def __init__(
        self,
        data: FlatDataset,
        config: WindowConfig,
        normalizer: LimitsNormalizer,
        device: torch.device,
    ) -> None:
        states = normalizer.normalize(torch.tensor(np.asarray(data.observations)))
        self.states = states.to(device)
        still = normalizer.normalize(torch.zeros(states.shape[1]))
        self._still = still[VELOCITY].to(device)
        self._last = torch.tensor(data.last_rows, device=device)
        starts = np.arange(len(data.observations))
        if config.padding == "none":
            starts = starts[starts + config.horizon - 1 <= data.last_rows]
            if len(starts) == 0:
                longest = int(np.diff(data.bounds).max())
                raise DataError(
                    f"{data.name}: no episode holds a window of {config.horizon} states (the "
                    f"longest has {longest}); lower window.horizon or set window.padding to rest"
                )
        self._starts = torch.tensor(starts, device=device)
        self._offsets = torch.arange(config.horizon, device=device)

    def __len__(self) -> int:
        return len(self._starts)

    def at(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The windows numbered ``index`` (batch,) and their conditioning."""
        start = self._starts[index]
        rows = start[:, None] + self._offsets
        last = self._last[start][:, None]
        x0 = self.states[torch.minimum(rows, last)]
        beyond = (rows > last)[..., None]
        x0[..., VELOCITY] = torch.where(beyond, self._still, x0[..., VELOCITY])
        return x0, torch.cat([x0[:, 0], x0[:, -1]], dim=1)

    def sample(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """A batch of windows, uniform over all starts."""
        return self.at(draws.integers(len(self)))
