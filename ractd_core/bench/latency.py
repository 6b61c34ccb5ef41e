"""Milliseconds per action of a student, eager and compiled, and of its teacher."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils.flop_counter import FlopCounterMode

from ractd_core.bench.machine import Machine
from ractd_core.bench.timing import calls_within, seconds_of
from ractd_core.config import Sampling
from ractd_core.export import Graph, load_onnx, save_onnx, trace
from ractd_core.policy import Planner
from ractd_core.stages import Model

BATCHES = (1, 64)
_STUDENT_CALLS = (1, 2, 4)
_TEACHER = (
    Sampling(),
    Sampling(calls=20),
    Sampling(method="ddim", calls=20),
    Sampling(method="ddpm", calls=20),
)
_ROUNDS = 5
"""Every variant is timed in turn, so often, so that a busy minute falls on all of them."""

Say = Callable[[str], None]
Prepare = Callable[[Tensor, Tensor], Callable[[], object]]
"""From a batch's observations and noise to a call that makes its windows."""


@dataclass(frozen=True)
class LatencyRow:
    """One way of deciding at one batch size.

    Milliseconds are of a whole call with ``batch`` rows; ``ms_per_action`` is the median over
    ``batch``. ``ratio`` is that to the eager one-call student's at the same batch size.
    ``gflop`` is the call's work (10⁹ operations). ``stream_share`` is the time in which memory
    could deliver the weights once per network call, over the median; ``rate_share`` the rate of
    work over the machine's for fp32 matrix products. Weights that stay in a cache can be read
    faster than from memory, so the former may exceed 1.
    """

    variant: str
    batch: int
    calls: int
    repetitions: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    ms_per_action: float
    ratio: float
    gflop: float
    stream_share: float
    rate_share: float


@dataclass(frozen=True)
class Latencies:
    """The rows that could be measured, and why the others could not, by name."""

    rows: list[LatencyRow]
    failed: dict[str, str]
    weights_mb: float


@dataclass(frozen=True)
class _Variant:
    name: str
    planner: Planner
    prepare: Prepare
    flop: int
    """Of one window."""


def time_plans(
    student: Model,
    teacher: Model | None,
    device: torch.device,
    machine: Machine,
    *,
    seconds: float = 5.0,
    compiled: bool = True,
    say: Say = lambda line: None,
) -> Latencies:
    """Time a student's plans, its compiled forms' and its teacher's for ``seconds`` a row.

    At least five calls are timed, however long they take. ``compiled`` adds torch.compile and
    torch's ahead-of-time compiler, a minute or more each. What does not work here becomes an entry
    of ``failed``.
    """
    failed: dict[str, str] = {}
    rows: list[LatencyRow] = []
    with tempfile.TemporaryDirectory() as scratch:
        planners = _eager(student, teacher, device)
        kind = student.about["kind"]
        one_step = planners[f"{kind}, 1 call"]
        say("counting operations")
        variants = [_Variant(name, p, _eagerly(p), work(p)) for name, p in planners.items()]
        say("tracing the graph")
        program = trace(one_step)
        variants += [
            _Variant(name, one_step, prepare, variants[0].flop)
            for name, prepare in _graphs(kind, program, device, Path(scratch), compiled).items()
        ]
        for batch in BATCHES:
            rows += _time_batch(variants, batch, machine, seconds, failed, say)
    return Latencies(rows, failed, _weights(one_step) / 1e6)


def _eager(student: Model, teacher: Model | None, device: torch.device) -> dict[str, Planner]:
    kind = student.about["kind"]
    many = _STUDENT_CALLS if kind == "student" else (1,)
    planners = {
        f"{kind}, {calls} call{'s' if calls > 1 else ''}": Planner(
            student, device, Sampling(calls=calls)
        )
        for calls in many
    }
    if teacher is not None:
        for sampling in _TEACHER:
            planner = Planner(teacher, device, sampling)
            planners[f"teacher, {sampling.method}-{planner.calls}"] = planner
    return planners


def _eagerly(planner: Planner) -> Prepare:
    return lambda observations, z: lambda: planner.plan(observations, z)


def _graphs(
    kind: str, program: ExportedProgram, device: torch.device, scratch: Path, compiled: bool
) -> dict[str, Prepare]:
    """Ways to run a traced one-call planner."""
    found: dict[str, Prepare] = {}
    if device.type == "cpu":
        found[f"{kind}, onnxruntime"] = _once(lambda: _in_onnxruntime(program, scratch))
    else:
        found[f"{kind}, CUDA graph"] = lambda *inputs: _captured(program.module(), inputs)
    if compiled:
        found[f"{kind}, torch.compile"] = _once(lambda: torch.compile(program.module()))
        found[f"{kind}, ahead of time"] = _once(lambda: _ahead_of_time(program, scratch))
    return found


def _once(make: Callable[[], Graph]) -> Prepare:
    """Prepares by running one graph, made when it is first needed."""
    made: list[Graph] = []

    def prepare(observations: Tensor, z: Tensor) -> Callable[[], object]:
        if not made:
            made.append(make())
        graph = made[0]
        return lambda: graph(observations, z)

    return prepare


def _in_onnxruntime(program: ExportedProgram, scratch: Path) -> Graph:
    save_onnx(program, scratch / "policy.onnx")
    return load_onnx(scratch / "policy.onnx", torch.get_num_threads())


def _ahead_of_time(program: ExportedProgram, scratch: Path) -> Graph:
    package = str(scratch / "policy-aot.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=package)
    graph: Graph = torch._inductor.aoti_load_package(package)
    return graph


def _captured(graph: torch.nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """Replays of one captured call, which is always on the same memory."""
    for _ in range(3):
        graph(*inputs)
    torch.cuda.synchronize()
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording):
        graph(*inputs)
    return recording.replay


def _weights(planner: Planner) -> int:
    """Bytes of a planner's weights."""
    return sum(p.numel() * p.element_size() for p in planner.network.parameters())


def _inputs(planner: Planner, batch: int) -> tuple[Tensor, Tensor]:
    seen = torch.zeros(batch, planner.context, planner.observation_dims, device=planner.device)
    size = (batch, planner.draws, planner.horizon, planner.dims)
    return seen, torch.randn(size, device=planner.device)


def work(planner: Planner) -> int:
    """Floating-point operations of one window: its products and convolutions, all calls."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        planner.windows(*_inputs(planner, 1))
    return counter.get_total_flops()


def _time_batch(
    variants: list[_Variant],
    batch: int,
    machine: Machine,
    seconds: float,
    failed: dict[str, str],
    say: Say,
) -> list[LatencyRow]:
    ready: list[tuple[_Variant, Callable[[], object]]] = []
    for variant in variants:
        if variant.name in failed:
            continue
        say(f"batch {batch}: preparing {variant.name}")
        try:
            with warnings.catch_warnings():
                # Compilers talk to their developers.
                warnings.simplefilter("ignore")
                call = variant.prepare(*_inputs(variant.planner, batch))
                with torch.inference_mode():
                    for _ in range(2):
                        seconds_of(call, variant.planner.device)
        except Exception as error:
            # Compilers fail in ways of their own; the others are still worth measuring.
            reason = str(error).partition("\n")[0][:200]
            failed[variant.name] = f"{type(error).__name__}: {reason}"
            say(f"{variant.name} does not work here: {failed[variant.name]}")
        else:
            ready.append((variant, call))
    taken: dict[str, list[float]] = {variant.name: [] for variant, _ in ready}
    for turn in range(_ROUNDS):
        say(f"batch {batch}: timing, round {turn + 1} of {_ROUNDS}")
        for variant, call in ready:
            with torch.inference_mode():
                taken[variant.name] += calls_within(seconds / _ROUNDS, call, variant.planner.device)
    reference = float(np.median(taken[variants[0].name]))
    return [_row(variant, batch, taken[variant.name], reference, machine) for variant, _ in ready]


def _row(
    variant: _Variant, batch: int, taken: list[float], reference: float, machine: Machine
) -> LatencyRow:
    planner = variant.planner
    p50, p95, p99 = (float(p) for p in np.percentile(taken, [50, 95, 99]))
    flop = batch * variant.flop
    streaming = _weights(planner) * planner.calls / (1e9 * machine.bandwidth_gbs)
    return LatencyRow(
        variant=variant.name,
        batch=batch,
        calls=planner.calls,
        repetitions=len(taken),
        p50_ms=1000 * p50,
        p95_ms=1000 * p95,
        p99_ms=1000 * p99,
        ms_per_action=1000 * p50 / batch,
        ratio=p50 / reference,
        gflop=flop / 1e9,
        stream_share=streaming / p50,
        rate_share=flop / p50 / (1e9 * machine.fp32_gflops),
    )
