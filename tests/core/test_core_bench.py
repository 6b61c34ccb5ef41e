"""Benchmarks count their work right and have the rows that they promise."""

from __future__ import annotations

import importlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ractd_core.bench import (
    latency,
    measure_machine,
    time_evaluation,
    time_plans,
    time_training,
    untrained_data,
    untrained_models,
)
from ractd_core.bench import machine as machine_module
from ractd_core.bench.machine import Machine
from ractd_core.config import NoiseConfig, Recipe, Sampling
from ractd_core.data.normalizer import Normalizers
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.policy import Planner
from ractd_core.stages import Model, load_model
from ractd_core.tasks import DatasetName, get_task

CPU = torch.device("cpu")
MACHINE = Machine("cpu", 1, fp32_gflops=50.0, bf16_gflops=100.0, bandwidth_gbs=10.0)


def finite(row: Any) -> bool:
    """Whether every number of a row is one, and above 0."""
    numbers = [v for v in asdict(row).values() if isinstance(v, int | float)]
    return all(math.isfinite(v) and v > 0 for v in numbers)


class OneConv(nn.Module):
    """F(x) as one convolution over time, and one product with the conditioning."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 5, padding=2, bias=False)
        self.linear = nn.Linear(11, 3, bias=False)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, stop: torch.Tensor | None, cond: torch.Tensor
    ) -> torch.Tensor:
        out: torch.Tensor = (
            self.conv(x.transpose(1, 2)).transpose(1, 2) + self.linear(cond)[:, None]
        )
        return out


def test_work_is_that_of_the_closed_form() -> None:
    about = {
        "modelled": "actions",
        "horizon": 16,
        "context": 1,
        "observation_dims": 11,
        "action_dims": 3,
    }
    # A product of sums takes two operations per term: 3 · 3 · 5 taps at 16 steps, and 11 · 3.
    one_call = 2 * (16 * 3 * 3 * 5 + 11 * 3)
    normalizers = Normalizers.empty(11, 3)
    for network, sampling, calls in (
        (ConsistencyTrajectory(OneConv(), NoiseConfig()), Sampling(calls=3), 3),
        (Denoiser(OneConv(), NoiseConfig()), Sampling(method="heun", calls=6), 6),
        (Denoiser(OneConv(), NoiseConfig()), Sampling(method="ddpm", calls=5), 5),
    ):
        planner = Planner(Model(network, normalizers, about), CPU, sampling)
        assert latency.work(planner) == calls * one_call


def test_the_machines_rates_are_numbers_in_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_SECONDS", 0.0)
    machine = measure_machine(CPU)
    assert finite(machine)
    assert (machine.device, machine.threads) == ("cpu", torch.get_num_threads())
    # Between an abacus and what one socket will do in this decade.
    assert 0.01 < machine.fp32_gflops < 1e5
    assert 0.01 < machine.bandwidth_gbs < 1e4


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches and few rounds: what is timed does not matter here."""
    monkeypatch.setattr(latency, "BATCHES", (1, 2))
    monkeypatch.setattr(latency, "_ROUNDS", 2)


@pytest.mark.slow
def test_every_promised_row_is_there_and_adds_up(
    quick: None, action_models: dict[str, Path]
) -> None:
    student, teacher = (load_model(action_models[kind]) for kind in ("student", "teacher"))
    said: list[str] = []
    found = time_plans(
        student, teacher, CPU, MACHINE, seconds=0.01, compiled=False, say=said.append
    )
    expected = {
        "student, 1 call": 1,
        "student, 2 calls": 2,
        "student, 4 calls": 4,
        "teacher, heun-158": 158,
        "teacher, heun-20": 20,
        "teacher, ddim-20": 20,
        "teacher, ddpm-20": 20,
        "student, onnxruntime": 1,
    }
    assert found.failed == {}
    assert [(row.variant, row.batch) for row in found.rows] == [
        (name, batch) for batch in (1, 2) for name in expected
    ]
    weights = sum(4 * p.numel() for p in student.network.parameters())
    assert found.weights_mb == weights / 1e6
    for row in found.rows:
        assert finite(row)
        assert row.calls == expected[row.variant]
        assert row.repetitions >= 2
        assert row.p50_ms <= row.p95_ms <= row.p99_ms
        assert row.ms_per_action == pytest.approx(row.p50_ms / row.batch)
        first = next(r for r in found.rows if r.batch == row.batch)
        assert row.ratio == pytest.approx(row.p50_ms / first.p50_ms)
        rate = row.gflop / (row.p50_ms / 1000)
        assert row.rate_share == pytest.approx(rate / MACHINE.fp32_gflops)
    one = found.rows[0]
    assert one.stream_share == pytest.approx(weights / 10e9 / (one.p50_ms / 1000))
    assert any("round 2 of 2" in line for line in said)


def test_the_exported_variant_is_run_by_onnxruntime(
    quick: None, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = importlib.import_module("onnxruntime").InferenceSession
    really, ran = session.run, []

    def watched(self: Any, names: list[str], inputs: dict[str, Any]) -> Any:
        ran.append(inputs["noise"].shape)
        return really(self, names, inputs)

    monkeypatch.setattr(session, "run", watched)
    found = time_plans(
        load_model(models["regression"]), None, CPU, MACHINE, seconds=0.0, compiled=False
    )
    names = ["regression, 1 call", "regression, onnxruntime"]
    assert [row.variant for row in found.rows] == names * 2
    assert set(ran) == {(1, 1, 16, 4), (2, 1, 16, 4)}


def test_what_does_not_work_here_is_reported_and_the_rest_measured(
    quick: None, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler\nand many more lines")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(latency, "_ahead_of_time", broken)
    found = time_plans(load_model(models["regression"]), None, CPU, MACHINE, seconds=0.0)
    assert found.failed == {
        "regression, torch.compile": "RuntimeError: no compiler",
        "regression, ahead of time": "RuntimeError: no compiler",
    }
    assert len(found.rows) == 4


def test_training_steps_are_counted_whole(tiny_actions: Recipe, tmp_path: Path) -> None:
    data = untrained_data(get_task("hopper-medium-v2"))
    parents = untrained_models(tiny_actions, data, tmp_path)
    rows = [
        time_training(tiny_actions, data, parents, CPU, MACHINE, precision, seconds=0.0)
        for precision in ("fp32", "bf16")
    ]
    for row in rows:
        assert finite(row)
        assert row.steps >= 15
        assert row.gflops == pytest.approx(row.gflop / (row.ms_per_step / 1000))
        assert row.fp32_share == pytest.approx(row.gflops / 50)
        assert row.bf16_share == pytest.approx(row.gflops / 100)
    # The precision changes how fast it is done, not how much there is to do.
    assert rows[0].gflop == rows[1].gflop
    # At least the student's own pass forward and, twice its work, back.
    planner = Planner.load(parents["student"], CPU)
    batch = tiny_actions.student.optim.batch_size
    assert rows[0].gflop * 1e9 > 3 * batch * latency.work(planner)


@pytest.mark.parametrize("task", ["hopper-medium-v2", "maze2d-umaze-v1"])
def test_untrained_data_have_the_tasks_shape(task: str) -> None:
    data = untrained_data(get_task(task))
    assert data.observations.shape == (20 * 201, data.name.task.obs_dim)
    assert data.actions.shape == (20 * 201, data.name.task.act_dim)
    assert np.ptp(data.observations) > 1


def test_evaluations_are_the_same_episodes_in_three_ways(
    models: dict[str, Path], umaze: DatasetName
) -> None:
    times = time_evaluation(Planner.load(models["student"], CPU), umaze, 3)
    assert times.same_returns
    assert (times.episodes, times.steps, times.lanes) == (3, 3 * 300, 32)
    assert times.apart_ratio == pytest.approx(times.apart_s / times.batched_s)
    assert times.single_ratio == pytest.approx(times.single_s / times.batched_s)
    assert min(times.batched_s, times.apart_s, times.single_s) > 0
