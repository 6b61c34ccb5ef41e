"""The random numbers of one training step.

They depend on (seed, step) alone. So a resumed run draws what the uninterrupted one would have
drawn without any random state being saved, and each of several workers draws the whole batch's
numbers and keeps its share, so that any number of workers trains on the same batches, undivided or
in micro-batches.
"""

from __future__ import annotations

import copy
import hashlib
from typing import Self

import torch
from torch import Tensor


def generator(seed: int, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose numbers depend on (seed, stream) alone."""
    # Hashed, because torch's CPU generator keeps only the lower 32 bits of its seed.
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:4], "big"))


class Draws:
    """Random tensors for one worker's rows of a batch: every ``workers``-th, from ``rank`` on.

    Shares differ by a row where ``workers`` do not divide ``batch``; ValueError if there are fewer
    rows than workers.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        batch: int,
        device: torch.device,
        *,
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        if batch < workers:
            raise ValueError(f"batch_size {batch} is less than a row for each of {workers} workers")
        self._seed, self._step, self._batch, self._device = seed, step, batch, device
        self._generator = generator(seed, step, device)
        self._mine = range(batch)[rank::workers]

    @property
    def rows(self) -> int:
        """Rows of the batch that are kept here."""
        return len(self._mine)

    def parts(self, size: int) -> list[Self]:
        """The same rows in turn, ``size`` at a time and what is left: micro-batches.

        Each part draws from the start, whatever has been drawn here already.
        """
        parts = []
        for start in range(0, self.rows, size):
            part = copy.copy(self)
            part._generator = generator(self._seed, self._step, self._device)
            part._mine = self._mine[start : start + size]
            parts.append(part)
        return parts

    def _share(self, values: Tensor) -> Tensor:
        return values[self._mine.start : self._mine.stop : self._mine.step]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (rows, *shape)."""
        size = (self._batch, *shape)
        return self._share(torch.randn(size, generator=self._generator, device=self._device))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (rows, *shape)."""
        size = (self._batch, *shape)
        return self._share(torch.rand(size, generator=self._generator, device=self._device))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers in [0, high), (rows, *shape)."""
        size = (self._batch, *shape)
        return self._share(
            torch.randint(high, size, generator=self._generator, device=self._device)
        )
