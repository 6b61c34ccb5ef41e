"""How long one plan takes: the method's selling point, measured."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from ractd_core.policy import Planner


@dataclass(frozen=True)
class Latency:
    """Milliseconds per plan at ``batch`` plans per call, over ``repetitions`` calls."""

    median: float
    p95: float
    batch: int
    repetitions: int


def plan_latency(planner: Planner, *, repetitions: int, batch: int = 1) -> Latency:
    """Time whole plans, from observations to states or actions in data units.

    Three calls warm up; on an accelerator the clock is read after it has finished.
    """
    shape = (batch, planner.draws, planner.horizon, planner.dims)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(planner.device)
    seen = torch.zeros(batch, planner.context, planner.observation_dims, device=planner.device)
    taken = []
    for index in range(-3, repetitions):
        start = time.perf_counter()
        planner.plan(seen, z)
        if planner.device.type == "cuda":
            torch.cuda.synchronize()
        if index >= 0:
            taken.append(1000 * (time.perf_counter() - start))
    return Latency(float(np.median(taken)), float(np.percentile(taken, 95)), batch, repetitions)
