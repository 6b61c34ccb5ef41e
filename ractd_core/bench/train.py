"""A student's training step, against the machine's rate of matrix products."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ractd_core.bench.machine import Machine
from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.stages import make_stage
from ractd_core.training import Metrics, Trainer

_CHUNK, _LEAST = 5, 3
"""Steps between two readings of the clock, and readings at least."""


@dataclass(frozen=True)
class TrainRow:
    """Student training steps of one precision.

    ``ms_per_step`` is the median of readings over five steps; ``gflop`` is a step's work (10⁹
    operations: student, target, teacher and reward model, forward and backward), ``gflops`` its
    rate, and the shares are of the machine's matrix products in fp32 and bf16.
    """

    precision: str
    batch: int
    steps: int
    ms_per_step: float
    gflop: float
    gflops: float
    fp32_share: float
    bf16_share: float


def time_training(
    recipe: Recipe,
    data: FlatDataset,
    parents: dict[str, Path],
    device: torch.device,
    machine: Machine,
    precision: Literal["fp32", "bf16"],
    *,
    seconds: float = 10.0,
) -> TrainRow:
    """Train ``recipe``'s student of ``parents`` for ``seconds`` (fifteen steps at least)."""
    optim = recipe.student.optim.model_copy(update={"precision": precision, "steps": 10**9})
    stage, _ = make_stage("student", recipe, data, parents, device)
    trainer = Trainer(stage, optim, seed=0, device=device)
    with FlopCounterMode(display=False) as counter:
        trainer.run(every=1, callback=lambda trainer, metrics: True)
    readings = [0.0]
    start = 0.0

    def read(trainer: Trainer, metrics: Metrics) -> bool:
        """The metrics are numbers by now, so an accelerator has finished."""
        nonlocal start
        now = time.perf_counter()
        if start == 0.0:
            start = now
        readings.append(now)
        return now - start > seconds and len(readings) > _LEAST + 2

    trainer.run(every=_CHUNK, callback=read)
    # The first reading ends the warm-up.
    step = float(np.median(np.diff(readings[1:]))) / _CHUNK
    flop = counter.get_total_flops()
    return TrainRow(
        precision=precision,
        batch=optim.batch_size,
        steps=_CHUNK * (len(readings) - 2),
        ms_per_step=1000 * step,
        gflop=flop / 1e9,
        gflops=flop / step / 1e9,
        fp32_share=flop / step / (1e9 * machine.fp32_gflops),
        bf16_share=flop / step / (1e9 * machine.bf16_gflops),
    )
