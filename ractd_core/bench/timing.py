"""Wall-clock times of calls, the work of an accelerator included."""

from __future__ import annotations

import time
from collections.abc import Callable
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


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, until ``device`` has finished."""
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def calls_within(
    seconds: float, call: Callable[[], object], device: torch.device, *, least: int = 1
) -> list[float]:
    """Seconds of each of the calls that begin within ``seconds``, and of ``least`` at least."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < least or time.perf_counter() < end:
        taken.append(seconds_of(call, device))
    return taken


def plan_latency(planner: Planner, *, repetitions: int, batch: int = 1) -> Latency:
    """Time whole plans, from observations to states or actions in data units.

    Three calls warm up; on an accelerator the clock is read after it has finished.
    """
    shape = (batch, planner.draws, planner.horizon, planner.dims)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(planner.device)
    seen = torch.zeros(batch, planner.context, planner.observation_dims, device=planner.device)
    calls = range(3 + repetitions)
    taken = [1000 * seconds_of(lambda: planner.plan(seen, z), planner.device) for _ in calls][3:]
    return Latency(float(np.median(taken)), float(np.percentile(taken, 95)), batch, repetitions)
