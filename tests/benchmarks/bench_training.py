"""The student's training step on one core: ``python tests/benchmarks/bench_training.py [wide]``.

Measures loss and backward pass on shapes like Hopper's against the released formulation, which is
written out here, with the same networks, batch and widths. ``wide`` takes the released widths,
512-1024-2048, at batch 64 (12 GB of memory, minutes); without it they are 64-128-256 at batch 512.

Variants take turns, and times are medians of the processor time of this process, which on a shared
machine varies less than the clock. Every rate stands beside that of a matrix product of the same
run.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ractd_core.config import NoiseConfig, StudentConfig, UNetConfig
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.draws import Draws
from ractd_core.losses import action_reward_loss, student_loss
from ractd_core.models.conv import Conv1d, ConvTranspose1d, GroupNorm
from ractd_core.models.mish import Mish
from ractd_core.models.unet import TemporalUNet, load_teacher
from ractd_core.models.value import ValueMLP

HORIZON, ACTIONS, OBSERVATIONS = 16, 3, 11
DATA, LOW, HIGH, RHO, BINS = 0.5, 0.02, 80.0, 7, 80
HUBER = 0.00054 * (HORIZON * ACTIONS) ** 0.5


class Setting:
    """Networks and a batch."""

    def __init__(self, widths: tuple[int, ...], batch: int) -> None:
        torch.manual_seed(0)
        config, noise = UNetConfig(widths=widths, patch=1, embed_dim=128), NoiseConfig()
        self.teacher = Denoiser(TemporalUNet(ACTIONS, OBSERVATIONS, config), noise)
        self.teacher.eval().requires_grad_(False)
        self.student = ConsistencyTrajectory(
            TemporalUNet(ACTIONS, OBSERVATIONS, config, stop_time=True), noise
        )
        load_teacher(self.student, self.teacher)
        self.target = copy.deepcopy(self.student).eval().requires_grad_(False)
        self.value = ValueMLP(ACTIONS + OBSERVATIONS, [64, 128, 256]).requires_grad_(False)
        self.released = [plain(net.network) for net in (self.student, self.target, self.teacher)]
        self.x0 = torch.rand(batch, HORIZON, ACTIONS) * 2 - 1
        self.cond = torch.rand(batch, OBSERVATIONS) * 2 - 1


def plain(network: nn.Module) -> nn.Module:
    """A copy with torch's own layers, for the released formulation."""
    network = copy.deepcopy(network)
    own: dict[type[nn.Module], type[nn.Module]] = {
        Conv1d: nn.Conv1d,
        ConvTranspose1d: nn.ConvTranspose1d,
        GroupNorm: nn.GroupNorm,
        Mish: nn.Mish,
    }
    for module in network.modules():
        module.__class__ = own.get(type(module), type(module))
    return network


# The released formulation: the work of 12 forward passes, whatever a row's times are.


def scaled(network: nn.Module, x: Tensor, t: Tensor, s: Tensor | None, cond: Tensor) -> Tensor:
    """The network between the boundary scalings."""
    t3 = t[:, None, None]
    skip = DATA**2 / ((t3 - LOW) ** 2 + DATA**2)
    norm = (t3**2 + DATA**2).sqrt()
    stop = None if s is None else 250 * s.log()
    out: Tensor = network(x / norm, 250 * t.log(), stop, cond)
    return skip * x + (t3 - LOW) * DATA / norm * out


def jump(network: nn.Module, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
    """G(x, t, s)."""
    ratio = (s / t)[:, None, None]
    return ratio * x + (1 - ratio) * scaled(network, x, t, s, cond)


def huber(a: Tensor, b: Tensor) -> Tensor:
    """Pseudo-Huber of the squared error, (batch,)."""
    result: Tensor = (((a - b) ** 4 + HUBER**2).sqrt() - HUBER).mean((1, 2))
    return result


def levels(fraction: Tensor) -> Tensor:
    """The warped grid of noise levels."""
    ends = HIGH ** (1 / RHO), LOW ** (1 / RHO)
    result: Tensor = ((ends[0] + fraction * (ends[1] - ends[0])) ** RHO).clamp(LOW, HIGH)
    return result


def released_loss(setting: Setting) -> Tensor:
    """CTM + DSM + reward as released, dead rows (s = t, u = t) included.

    Its loop over the rows for s and u is one expression here, and dropout is left out.
    """
    x0, cond, batch = setting.x0, setting.cond, len(setting.x0)
    student, target, teacher = setting.released
    low = torch.full((batch,), LOW)
    b = torch.randint(BINS, (batch,))
    s_bin = b + (torch.rand(batch) * (BINS + 1 - b)).long()
    u_bin = torch.minimum(b + (torch.rand(batch) * (s_bin - b + 1)).long(), b + 1)
    t, s, u = (levels(bins.clamp(max=BINS - 1) / (BINS - 1)) for bins in (b, s_bin, u_bin))

    x_t = x0 + t[:, None, None] * torch.randn_like(x0)
    with torch.no_grad():
        step = (u - t)[:, None, None]
        slope = (x_t - scaled(teacher, x_t, t, None, cond)) / t[:, None, None]
        euler = x_t + step * slope
        there = (euler - scaled(teacher, euler, u, None, cond)) / u[:, None, None]
        x_u = x_t + step * (slope + there) / 2
        expected = jump(target, jump(target, x_u, u, s, cond), s, low, cond)
    reached = jump(target, jump(student, x_t, t, s, cond), s, low, cond)
    ctm = huber(reached, expected).mean()

    half = batch // 2
    lognormal = (-1.2 + 1.2 * torch.randn(batch - half)).exp().clamp(LOW, HIGH)
    times = torch.cat([levels(0.7 * torch.rand(half)), lognormal])
    clean = jump(student, x0 + times[:, None, None] * torch.randn_like(x0), times, low, cond)
    weight = (times**2 + DATA**2) / (times * DATA) ** 2
    reward = setting.value(torch.cat([clean[:, 0], cond], dim=1)).mean()
    loss: Tensor = ctm + (weight * huber(clean, x0)).mean() - reward
    return loss


# Ours


def our_loss(setting: Setting, *, bf16: bool) -> Tensor:
    """What the student's stage computes, with autocast as the trainer uses it."""
    config = StudentConfig(distance="squared_pseudo_huber", reward_weight=1.0)
    reward = partial(action_reward_loss, setting.value, observation_dims=OBSERVATIONS)
    draws = Draws(0, 0, len(setting.x0), torch.device("cpu"))
    nets = setting.student, setting.target, setting.teacher
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss, _ = student_loss(*nets, reward, setting.x0, setting.cond, draws, config)
    return loss


def seconds(call: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def matmul_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a matrix product that fits the cache, the median of many."""
    a, b = (torch.randn(512, 512).to(dtype) for _ in range(2))
    return 2 * 512**3 / statistics.median(seconds(lambda: a @ b) for _ in range(50)) / 1e9


def main() -> None:
    """Measure all variants in turn and print work, rates and ratios."""
    torch.set_num_threads(1)
    wide = sys.argv[1:] == ["wide"]
    widths, batch, rounds = ((512, 1024, 2048), 64, 1) if wide else ((64, 128, 256), 512, 3)
    setting = Setting(widths, batch)
    variants: dict[str, Callable[[], Tensor]] = {
        "released, fp32": lambda: released_loss(setting),
        "ours, fp32": lambda: our_loss(setting, bf16=False),
        "ours, bf16": lambda: our_loss(setting, bf16=True),
    }

    def step(name: str) -> None:
        for network in (setting.student, *setting.released):
            network.zero_grad(set_to_none=True)
        torch.autograd.backward(variants[name]())

    work = {}
    for name in variants:
        with FlopCounterMode(display=False) as counter:
            step(name)
        work[name] = counter.get_total_flops() / 1e9
    taken: dict[str, list[float]] = {name: [] for name in variants}
    rates: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(rounds):
        rates["fp32"].append(matmul_rate(torch.float32))
        rates["bf16"].append(matmul_rate(torch.bfloat16))
        for name in variants:
            taken[name].append(seconds(partial(step, name)))

    peak = {name: statistics.median(values) for name, values in rates.items()}
    print(f"widths {'-'.join(map(str, widths))}, batch {batch}, one thread, {rounds} rounds")
    print(f"matrix product: {peak['fp32']:.0f} GFLOP/s fp32, {peak['bf16']:.0f} bf16")
    first = statistics.median(taken["released, fp32"])
    for name in variants:
        median = statistics.median(taken[name])
        rate = work[name] / median
        print(
            f"{name:15} {1000 * median:8.0f} ms  {work[name]:6.0f} GFLOP  {rate:4.0f} GFLOP/s  "
            f"{rate / peak['fp32']:4.0%} of fp32's, {rate / peak['bf16']:4.0%} of bf16's  "
            f"{first / median:.2f} x released"
        )


if __name__ == "__main__":
    main()
