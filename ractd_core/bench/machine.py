"""What this machine can do at most: matrix products and reading memory, measured now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ractd_core.bench.timing import calls_within

_SIDE = {"cpu": 512, "cuda": 8192}
"""Large enough for the full rate, and done in milliseconds: others at work interrupt few."""
_BYTES = {"cpu": 2**28, "cuda": 2**32}
"""Far more than any cache holds."""
_SECONDS = 2.0


@dataclass(frozen=True)
class Machine:
    """Highest rates seen on ``device`` with ``threads`` CPU threads.

    ``fp32_gflops`` and ``bf16_gflops``: products of square matrices, 10⁹ operations a second;
    ``bandwidth_gbs``: reading a matrix once for its product with a vector, 10⁹ bytes a second.
    """

    device: str
    threads: int
    fp32_gflops: float
    bf16_gflops: float
    bandwidth_gbs: float


def measure_machine(device: torch.device) -> Machine:
    """Measure ``device`` with the threads that torch may use, in some seconds."""
    kind, columns = device.type, 8192
    fp32, bf16 = (_products(dtype, device) for dtype in (torch.float32, torch.bfloat16))
    matrix = torch.ones(_BYTES[kind] // (4 * columns), columns, device=device)
    vector, result = torch.ones(columns, device=device), torch.empty(len(matrix), device=device)
    reading = _best(lambda: torch.mv(matrix, vector, out=result), device)
    return Machine(
        device=torch.cuda.get_device_name(device) if kind == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        fp32_gflops=fp32 / 1e9,
        bf16_gflops=bf16 / 1e9,
        bandwidth_gbs=4 * matrix.numel() / reading / 1e9,
    )


def _products(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of products of square matrices."""
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / _best(lambda: torch.mm(a, b, out=out), device)


def _best(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of the calls that fit into two seconds, three at least."""
    return min(calls_within(_SECONDS, call, device, least=3))
