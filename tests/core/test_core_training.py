"""The loop: schedule, averages, resume to the last bit, and what it refuses to save."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from ractd_core.checkpoint import load_checkpoint, save_checkpoint
from ractd_core.config import OptimConfig, Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.draws import Draws
from ractd_core.stages import STAGES, StageModule, StudentStage, make_stage
from ractd_core.training import DivergedError, Metrics, Trainer, learning_rate
from tests.core.parts import equal, weights

CPU = torch.device("cpu")


class Line(nn.Module):
    """A stage that fits y = 3 x - 1 with noise, by one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network: nn.Module = nn.Linear(2, 1)
        self.memory = nn.ModuleDict()
        self.after = 0

    def forward(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        x = draws.normal(2)
        y = 3 * x[:, :1] - 1 + 0.1 * draws.normal(1)
        loss = (self.network(x) - y).square().mean()
        return loss, {"loss": loss.detach(), "spread": y.std().detach()}

    def after_step(self) -> None:
        self.after += 1

    def collapsed(self, metrics: Metrics) -> str | None:
        return None


# The schedule


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    config = OptimConfig(steps=120, lr=0.5, warmup_steps=20)
    assert learning_rate(config, 0) == pytest.approx(0.5 / 20)
    assert learning_rate(config, 9) == pytest.approx(0.25)
    assert learning_rate(config, 19) == pytest.approx(0.5)
    assert learning_rate(config, 20) == pytest.approx(0.5)
    assert learning_rate(config, 45) == pytest.approx(0.5 * (1 + math.sqrt(0.5)) / 2)
    assert learning_rate(config, 70) == pytest.approx(0.25)
    assert learning_rate(config, 120) == pytest.approx(0, abs=1e-12)


@given(st.integers(1, 200), st.integers(0, 300), st.floats(1e-5, 1))
def test_any_schedule_stays_between_zero_and_its_top(steps: int, warmup: int, lr: float) -> None:
    config = OptimConfig(steps=steps, lr=lr, warmup_steps=warmup)
    rates = [learning_rate(config, step) for step in range(steps)]
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    rising, falling = rates[: min(warmup, steps)], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


# The updates


def test_the_loop_is_adamw_on_the_drawn_batches() -> None:
    config = OptimConfig(
        steps=12, batch_size=6, lr=0.05, warmup_steps=3, weight_decay=0.1, betas=(0.8, 0.9)
    )
    stage = Line()
    trainer = Trainer(stage, config, seed=4, device=CPU)
    trainer.run(every=5)

    twin = Line()
    optimizer = torch.optim.AdamW(
        twin.parameters(), lr=1.0, betas=(0.8, 0.9), weight_decay=0.1, fused=False
    )
    for step in range(12):
        for group in optimizer.param_groups:
            group["lr"] = (
                0.05 * (step + 1) / 3
                if step < 3
                else 0.025 * (1 + math.cos(math.pi * (step - 3) / 9))
            )
        loss, _ = twin(Draws(4, step, 6, CPU))
        optimizer.zero_grad()
        loss.backward()
        # grad_clip is 1: the gradient is scaled down to that norm.
        norm = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]).norm()
        for parameter in twin.parameters():
            assert parameter.grad is not None
            parameter.grad /= norm.clamp(min=1)
        optimizer.step()
    for ours, theirs in zip(weights(stage), weights(twin), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert stage.after == 12
    assert trainer.step == 12


def test_gradients_are_clipped_and_reported_unclipped() -> None:
    stage = Line()
    seen: list[tuple[float, float]] = []

    def look(trainer: Trainer, metrics: Metrics) -> None:
        gradients = [p.grad.flatten() for p in stage.parameters() if p.grad is not None]
        seen.append((metrics["grad_norm"], float(torch.cat(gradients).norm())))

    config = OptimConfig(steps=5, batch_size=16, grad_clip=0.01)
    Trainer(stage, config, seed=0, device=CPU).run(every=1, callback=look)
    for reported, applied in seen:
        assert reported > 1
        assert applied == pytest.approx(0.01, rel=1e-3)


def test_a_null_limit_clips_nothing_and_the_norm_is_still_reported() -> None:
    applied: list[float] = []
    reported: list[float] = []

    def trained(grad_clip: float | None) -> list[Tensor]:
        stage = Line()

        def look(trainer: Trainer, metrics: Metrics) -> None:
            gradients = [p.grad.flatten() for p in stage.parameters() if p.grad is not None]
            applied.append(float(torch.cat(gradients).norm()))
            reported.append(metrics["grad_norm"])

        config = OptimConfig(steps=5, batch_size=16, grad_clip=grad_clip)
        Trainer(stage, config, seed=0, device=CPU).run(every=1, callback=look)
        return weights(stage.network)

    unlimited = trained(None)
    assert applied == pytest.approx(reported)
    assert min(applied) > 1
    assert equal(unlimited, trained(1e6)), "as a limit that is never reached"


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_follows_its_formula(decay: float) -> None:
    config = OptimConfig(steps=15, batch_size=4, lr=0.1, ema_decay=decay)
    stage = Line()
    average = weights(stage)
    trainer = Trainer(stage, config, seed=0, device=CPU)

    def check(trainer: Trainer, metrics: Metrics) -> None:
        step = trainer.step - 1
        d = min(decay, (1 + step) / (10 + step))
        for index, weight in enumerate(weights(stage.network)):
            average[index] = d * average[index] + (1 - d) * weight
        for ours, theirs in zip(weights(trainer.ema), average, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)

    trainer.run(every=1, callback=check)
    assert trainer.step == 15
    assert not trainer.ema.training
    assert not any(parameter.requires_grad for parameter in trainer.ema.parameters())


def test_metrics_are_means_since_the_last_call() -> None:
    def record(every: int) -> list[tuple[int, Metrics]]:
        calls: list[tuple[int, Metrics]] = []
        config = OptimConfig(steps=12, batch_size=4)
        trainer = Trainer(Line(), config, seed=1, device=CPU)
        trainer.run(every=every, callback=lambda t, m: calls.append((t.step, m)))
        return calls

    single, fives = record(1), record(5)
    assert [step for step, _ in single] == list(range(1, 13))
    assert [step for step, _ in fives] == [5, 10, 12]
    for first, end, metrics in ((0, 5, fives[0][1]), (5, 10, fives[1][1]), (10, 12, fives[2][1])):
        assert set(metrics) == {"loss", "spread", "grad_norm"}
        for key, mean in metrics.items():
            expected = [m[key] for _, m in single[first:end]]
            assert mean == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_the_loop_learns() -> None:
    stage = Line()
    config = OptimConfig(steps=300, batch_size=64, lr=0.1, ema_decay=0.9)
    trainer = Trainer(stage, config, seed=0, device=CPU)
    trainer.run(every=300)
    for network in (stage.network, trainer.ema):
        assert isinstance(network, nn.Linear)
        torch.testing.assert_close(
            network.weight, torch.tensor([[3.0, 0.0]]), atol=0.05, rtol=0, check_device=False
        )
        torch.testing.assert_close(network.bias, torch.tensor([-1.0]), atol=0.05, rtol=0)


# Resume


def stop_at(step: int) -> Any:
    def callback(trainer: Trainer, metrics: Metrics) -> None:
        if trainer.step == step:
            raise KeyboardInterrupt

    return callback


BF16 = {"steps": 20, "batch_size": 8, "warmup_steps": 4, "precision": "bf16"}
RESUMES: list[tuple[str, dict[str, Any]]] = [
    ("teacher", {"dropout": 0.3}),
    ("reward", {}),
    ("regression", {}),
    ("student", {"dropout": 0.3, "target_ema": 0.0}),
    ("student", {"dropout": 0.3, "target_ema": 0.9}),
    ("student", {"reward_at": "noise", "solver_steps": 2}),
    *((kind, {"optim": BF16}) for kind in ("teacher", "reward", "regression", "student")),
]


@pytest.mark.parametrize(("kind", "options"), RESUMES, ids=lambda value: str(value))
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    kind: str,
    options: dict[str, Any],
    tiny: Recipe,
    umaze_data: FlatDataset,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    recipe = Recipe.model_validate(
        {**tiny.model_dump(), kind: {**getattr(tiny, kind).model_dump(), **options}}
    )

    def trainer(name: str) -> Trainer:
        stage, _ = make_stage(kind, recipe, umaze_data, models, CPU)
        return Trainer(
            stage,
            stage.optim,
            seed=stage.seed,
            device=CPU,
            checkpoint=tmp_path / name,
            identity="run",
        )

    whole = trainer("whole")
    whole.run(every=5)

    first = trainer("parts")
    with pytest.raises(KeyboardInterrupt):
        # Killed at step 15, before its checkpoint: the one of step 10 is what is left.
        first.run(every=5, callback=stop_at(15))
    torch.manual_seed(999)
    second = trainer("parts")
    assert second.step == 10
    second.run(every=5)

    assert equal(weights(second.network), weights(whole.network))
    assert equal(weights(second.ema), weights(whole.ema))
    left, right = load_file(tmp_path / "whole"), load_file(tmp_path / "parts")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    if isinstance(whole.stage, StudentStage):
        assert isinstance(second.stage, StudentStage)
        assert equal(weights(second.stage.target), weights(whole.stage.target))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = OptimConfig(steps=6, batch_size=4)
    path = tmp_path / "checkpoint"
    Trainer(Line(), config, seed=0, device=CPU, checkpoint=path, identity="a").run(every=2)
    before = path.read_bytes()
    again = Trainer(Line(), config, seed=0, device=CPU, checkpoint=path, identity="a")
    assert again.step == 6
    again.run(every=2, callback=stop_at(6))
    assert path.read_bytes() == before


def run_line(path: Path, identity: str = "run", steps: int = 8) -> tuple[int, Trainer]:
    """Train to ``steps``; the step it started from and the trainer."""
    config = OptimConfig(steps=steps, batch_size=4)
    trainer = Trainer(Line(), config, seed=0, device=CPU, checkpoint=path, identity=identity)
    start = trainer.step
    trainer.run(every=4)
    return start, trainer


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 0.5, 0.999])
def test_a_damaged_checkpoint_is_reported_and_training_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: float
) -> None:
    path = tmp_path / "checkpoint"
    expected = weights(run_line(path)[1].network)
    size = path.stat().st_size
    os.truncate(path, int(kept if kept >= 1 or kept == 0 else kept * size))
    with caplog.at_level(logging.WARNING):
        start, again = run_line(path)
    assert start == 0
    assert str(path) in caplog.text
    assert "training starts anew" in caplog.text
    assert equal(weights(again.network), expected)


def test_a_checkpoint_of_another_run_is_not_continued(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint"
    run_line(path, "one", steps=4)
    with caplog.at_level(logging.WARNING):
        assert run_line(path, "two")[0] == 0
    assert "belongs to another run" in caplog.text
    about = load_checkpoint(path)[1]
    assert (about["step"], about["identity"]) == (8, "two")
    assert run_line(path, "two", steps=9)[0] == 8


def test_a_file_that_is_no_training_checkpoint_is_not_continued(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint"
    save_checkpoint(path, {"x": torch.zeros(1)}, {"kind": "teacher"})
    with caplog.at_level(logging.WARNING):
        assert run_line(path)[0] == 0
    assert "training starts anew" in caplog.text


def test_a_callback_can_end_the_run_which_can_be_continued_later(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    config = OptimConfig(steps=8, batch_size=4)
    seen: list[int] = []

    def end_at_4(trainer: Trainer, metrics: Metrics) -> bool:
        seen.append(trainer.step)
        return trainer.step == 4

    first = Trainer(Line(), config, seed=0, device=CPU, checkpoint=path, identity="run")
    first.run(every=2, callback=end_at_4)
    assert seen == [2, 4]
    assert load_checkpoint(path)[1]["step"] == 4
    start, second = run_line(path)
    assert start == 4
    whole = run_line(tmp_path / "whole")[1]
    assert equal(weights(second.network), weights(whole.network))


def test_no_checkpoint_path_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Trainer(Line(), OptimConfig(steps=2, batch_size=2), seed=0, device=CPU).run(every=1)
    assert list(tmp_path.iterdir()) == []


# Micro-batches, compiled networks, determinism

STUDENT: dict[str, Any] = {
    "reward_weight": 0.5,
    "reward_states": 3,
    "solver_steps": 2,
    "distance": "squared_pseudo_huber",
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("teacher", {}),
    ("reward", {}),
    ("regression", {}),
    ("student", STUDENT),
    ("student", {**STUDENT, "reward_at": "noise", "target_ema": 0.9}),
]


def staged(
    kind: str,
    options: dict[str, Any],
    tiny: Recipe,
    data: FlatDataset,
    models: dict[str, Path],
    optim: dict[str, Any] | None = None,
    **arguments: Any,
) -> Trainer:
    """A trainer of the tiny recipe's stage with ``options``, and ``optim`` in its optimizer's."""
    table = tiny.model_dump()
    table[kind] = {**table[kind], **options}
    table[kind]["optim"] = {**table[kind]["optim"], "batch_size": 24, **(optim or {})}
    stage, _ = make_stage(kind, Recipe.model_validate(table), data, models, CPU)
    return Trainer(stage, stage.optim, seed=3, device=CPU, **arguments)


def first_gradients(trainer: Trainer) -> tuple[list[Tensor], Metrics]:
    """What the first update sees, before its gradients are changed: they are not clipped here."""
    seen: list[Metrics] = []
    trainer.run(every=1, callback=lambda _, metrics: seen.append(metrics))
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    return gradients, seen[0]


@pytest.mark.parametrize("micro_batch", [24, 100, 8, 7, 1])
@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=lambda value: str(value))
def test_micro_batches_give_the_undivided_batchs_gradient(
    kind: str,
    options: dict[str, Any],
    micro_batch: int,
    tiny: Recipe,
    umaze_data: FlatDataset,
    models: dict[str, Path],
) -> None:
    once = {"steps": 1, "grad_clip": 1e9}
    setting = (kind, options, tiny, umaze_data, models, once)
    whole, whole_metrics = first_gradients(staged(*setting))
    parts, metrics = first_gradients(staged(*setting, micro_batch=micro_batch))
    assert whole
    scale = max(float(gradient.abs().max()) for gradient in whole)
    for ours, theirs in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale)
        assert micro_batch < 24 or torch.equal(ours, theirs)
    # "unexplained" divides by the variance of the rows at hand: no mean over rows.
    for key in metrics.keys() - {"unexplained"}:
        assert metrics[key] == pytest.approx(whole_metrics[key], rel=1e-4, abs=1e-6)


def test_a_micro_batch_is_all_that_a_network_sees() -> None:
    class Counting(Line):
        def forward(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
            seen.append(draws.rows)
            return super().forward(draws)

    seen: list[int] = []
    config = OptimConfig(steps=2, batch_size=10)
    Trainer(Counting(), config, seed=0, device=CPU, micro_batch=4).run(every=2)
    assert seen == [4, 4, 2, 4, 4, 2]


@pytest.mark.parametrize("micro_batch", [0, -3])
def test_a_micro_batch_without_rows_is_refused(micro_batch: int) -> None:
    config = OptimConfig(steps=2, batch_size=10)
    with pytest.raises(ValueError, match=f"micro_batch {micro_batch} must be at least 1"):
        Trainer(Line(), config, seed=0, device=CPU, micro_batch=micro_batch)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "options"), VARIANTS, ids=lambda value: str(value))
def test_equal_seeds_give_equal_weights_to_the_last_bit(
    kind: str,
    options: dict[str, Any],
    precision: str,
    tiny: Recipe,
    umaze_data: FlatDataset,
    models: dict[str, Path],
) -> None:
    dropout = {"dropout": 0.3} if kind in ("teacher", "student") else {}
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)
        optim = {"steps": 5, "precision": precision}
        trainer = staged(kind, options | dropout, tiny, umaze_data, models, optim)
        trainer.run(every=2)
        runs.append([*weights(trainer.network), *weights(trainer.ema)])
    assert equal(*runs)


# A compiler is looked for where torch looks.
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler"
)


@pytest.mark.slow
@needs_compiler
def test_compiled_networks_train_to_the_same_weights_and_share_checkpoints(
    tiny: Recipe, umaze_data: FlatDataset, tmp_path: Path
) -> None:
    def trainer(name: str, *, compile: bool) -> Trainer:
        return staged(
            "teacher", {}, tiny, umaze_data, {}, {"steps": 6},
            checkpoint=tmp_path / name, identity="run", compile=compile,
        )  # fmt: skip

    def stop(trainer: Trainer, metrics: Metrics) -> bool:
        return trainer.step == 3

    trainer("eager", compile=False).run(every=3)
    trainer("compiled", compile=True).run(every=3, callback=stop)
    shutil.copy(tmp_path / "compiled", tmp_path / "mixed")
    trainer("compiled", compile=True).run(every=3)
    mixed = trainer("mixed", compile=False)
    assert mixed.step == 3
    mixed.run(every=3)
    eager = load_file(tmp_path / "eager")
    for name in ("compiled", "mixed"):
        other = load_file(tmp_path / name)
        assert other.keys() == eager.keys()
        for key in eager:
            if not key.startswith("optimizer"):
                torch.testing.assert_close(other[key], eager[key], rtol=1e-3, atol=2e-4)


@needs_compiler
@pytest.mark.parametrize("kind", STAGES)
def test_networks_and_neither_their_tables_nor_stages_are_compiled(
    kind: str,
    tiny: Recipe,
    umaze_data: FlatDataset,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: asked.append(module))
    stage, _ = make_stage(kind, tiny, umaze_data, models, CPU)
    Trainer(stage, stage.optim, seed=0, device=CPU, compile=True)
    assert asked
    for module in asked:
        assert type(module) is not nn.ModuleDict
        assert not isinstance(module, StageModule)
    trained = {id(p) for p in stage.network.parameters()}
    assert trained <= {id(p) for module in asked for p in module.parameters()}


def test_without_a_compiler_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"no-such-compiler cannot be found; install it, name"):
        Trainer(Line(), OptimConfig(steps=1), seed=0, device=CPU, compile=True)


# Divergence


@pytest.mark.parametrize(("lr", "every"), [(1e30, 1), (1e30, 7), (1e39, 1)])
def test_a_diverged_run_says_so_and_saves_nothing_that_is_not_finite(
    tmp_path: Path, lr: float, every: int
) -> None:
    path = tmp_path / "checkpoint"
    config = OptimConfig(steps=60, batch_size=4, lr=lr, warmup_steps=0)
    trainer = Trainer(Line(), config, seed=0, device=CPU, checkpoint=path)
    with pytest.raises(DivergedError, match=r"not finite at step \d+"):
        trainer.run(every=every)
    assert trainer.step <= 20
    if path.exists():
        tensors, _ = load_checkpoint(path)
        saved = {key: value for key, value in tensors.items() if not key.startswith("optimizer")}
        assert saved
        assert all(bool(torch.isfinite(value).all()) for value in saved.values())


class Turning(Line):
    """Its loss is NaN from the sixth step on."""

    def forward(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        loss, info = super().forward(draws)
        if self.after >= 5:
            loss = loss * math.nan
        return loss, {**info, "loss": loss.detach()}


def test_a_loss_that_turns_nan_stops_the_run_before_it_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    config = OptimConfig(steps=60, batch_size=4)
    trainer = Trainer(Turning(), config, seed=0, device=CPU, checkpoint=path)
    with pytest.raises(DivergedError, match="loss, grad_norm not finite at step 6"):
        trainer.run(every=2)
    tensors, about = load_checkpoint(path)
    assert about["step"] == 4
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())


def test_a_loss_that_turns_nan_between_calls_is_noticed_within_ten_steps() -> None:
    trainer = Trainer(Turning(), OptimConfig(steps=60, batch_size=4), seed=0, device=CPU)
    with pytest.raises(DivergedError, match="not finite at step 10"):
        trainer.run(every=1000)


def test_a_reward_stage_whose_returns_are_all_equal_trains(
    flat: Callable[..., FlatDataset], tiny: Recipe
) -> None:
    # A short local data set need not touch the goal at all: every reward and return is 0.
    data = flat([20, 20], rewards=[0.0] * 40)
    stage, _ = make_stage("reward", tiny, data, {}, CPU)
    trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
    trainer.run(every=5)
    assert trainer.step == 20


# Precision


def test_bf16_trains_and_keeps_its_weights_in_full(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path]
) -> None:
    def run(kind: str, precision: str) -> tuple[list[Tensor], Metrics]:
        table = tiny.model_dump()
        table[kind]["optim"] = {"steps": 6, "batch_size": 64, "precision": precision}
        stage, _ = make_stage(kind, Recipe.model_validate(table), umaze_data, models, CPU)
        seen: list[Metrics] = []
        trainer = Trainer(stage, stage.optim, seed=0, device=CPU)
        trainer.run(every=6, callback=lambda _, metrics: seen.append(metrics))
        return weights(stage.network), seen[0]

    for kind in ("teacher", "reward", "student", "regression"):
        half, half_metrics = run(kind, "bf16")
        full, full_metrics = run(kind, "fp32")
        assert {weight.dtype for weight in half} == {torch.float32}
        assert not equal(half, full)
        assert half_metrics["loss"] == pytest.approx(full_metrics["loss"], rel=0.1)
        for ours, theirs in zip(half, full, strict=True):
            assert bool(torch.isfinite(ours).all())
            # Six steps of Adam with rate 1e-3 or less, whatever the rounding.
            torch.testing.assert_close(ours, theirs, atol=0.013, rtol=0)


def test_the_checkpoint_is_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    _, trainer = run_line(path)
    tensors = load_file(path)
    parts = {key.split(".")[0] for key in tensors}
    assert parts == {"network", "ema", "optimizer"}
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(tensors[f"network.{key}"], value)
    for key, value in trainer.ema.state_dict().items():
        assert torch.equal(tensors[f"ema.{key}"], value)
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    meta = json.loads(header[8 : 8 + length])["__metadata__"]
    about = json.loads(next(iter(meta.values())))
    # Right after a report nothing is left of the steps before it.
    assert (about["step"], about["identity"], about["count"]) == (8, "run", 0)
