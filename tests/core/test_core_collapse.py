"""A student that collapses ends its run, with the reason; one that does not, does not."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ractd_core.checkpoint import load_checkpoint
from ractd_core.config import NoiseConfig, Recipe, StudentConfig
from ractd_core.data.flat import FlatDataset
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser
from ractd_core.draws import Draws
from ractd_core.losses import Value, plan_reward_loss, student_loss
from ractd_core.stages import StageModule, StudentStage, make_stage
from ractd_core.training import DivergedError, Metrics, Trainer

CPU = torch.device("cpu")
NEVER = {"saturation": None, "gain": None, "loss": None}


def student(
    recipe: Recipe, data: FlatDataset, models: dict[str, Path], **fields: Any
) -> StageModule:
    table = recipe.model_dump()
    table["student"] = {**table["student"], **fields}
    stage, _ = make_stage("student", Recipe.model_validate(table), data, models, CPU)
    return stage


HEALTHY = {"dsm": 1.0, "saturated": 0.0, "gain": 0.0}


@pytest.mark.parametrize(
    ("limits", "metrics", "reason"),
    [
        ({"saturation": 0.25}, {"saturated": 0.26}, "26% more of what it predicts"),
        ({"gain": 1.5}, {"gain": 1.6}, "by 1.6 standard deviations (limit 1.5)"),
        ({"loss": 4.0}, {"dsm": 4.1}, "the DSM loss is 4.1, at first 1 (limit 4 times)"),
    ],
)
def test_each_limit_is_one_of_its_own_and_gives_its_number(
    limits: dict[str, float],
    metrics: dict[str, float],
    reason: str,
    tiny: Recipe,
    umaze_data: FlatDataset,
    models: dict[str, Path],
) -> None:
    watched = student(tiny, umaze_data, models, collapse={**NEVER, **limits})
    assert watched.collapsed(HEALTHY) is None
    found = watched.collapsed({**HEALTHY, **metrics})
    assert found is not None
    assert reason in found
    assert ";" not in found
    # At the limit it is not beyond it.
    [(name, limit)] = limits.items()
    at = {"saturation": "saturated", "gain": "gain", "loss": "dsm"}[name]
    assert watched.collapsed({**HEALTHY, at: limit}) is None
    careless = student(tiny, umaze_data, models, collapse=NEVER)
    assert careless.collapsed(HEALTHY) is None
    assert careless.collapsed({"dsm": 1e9, "saturated": 1.0, "gain": 1e9}) is None


def test_several_reasons_are_all_given(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path]
) -> None:
    stage = student(tiny, umaze_data, models)
    assert stage.collapsed(HEALTHY) is None
    reason = stage.collapsed({"dsm": 99.0, "saturated": 0.9, "gain": 9.0})
    assert reason is not None
    assert len(reason.split("; ")) == 3


def test_terms_that_are_left_out_are_not_watched(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path]
) -> None:
    stage = student(tiny, umaze_data, models, dsm_weight=0, reward_weight=0)
    assert stage.collapsed({"dsm": 0.0}) is None
    assert stage.collapsed({"dsm": 0.0}) is None


def test_an_absurd_reward_ends_the_run_and_is_not_saved(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path], tmp_path: Path
) -> None:
    optim = {"steps": 200, "batch_size": 16, "lr": 0.01, "warmup_steps": 0}
    stage = student(tiny, umaze_data, models, reward_weight=1e3, optim=optim)
    trainer = Trainer(stage, stage.optim, seed=0, device=CPU, checkpoint=tmp_path / "checkpoint")
    seen: list[Metrics] = []
    with pytest.raises(DivergedError, match=r"^collapsed by step \d+: .*\(limit ") as caught:
        trainer.run(every=5, callback=lambda _, metrics: seen.append(metrics))
    assert f"step {trainer.step}:" in str(caught.value)
    assert len(seen) == trainer.step // 5 - 1
    _, about = load_checkpoint(tmp_path / "checkpoint")
    assert about["step"] == trainer.step - 5
    # What it was told of before was healthy.
    assert all(metrics["saturated"] <= 0.3 for metrics in seen)
    careless = student(
        tiny, umaze_data, models, reward_weight=1e3, optim={**optim, "steps": 40}, collapse=NEVER
    )
    Trainer(careless, careless.optim, seed=0, device=CPU).run(every=5)


def test_the_first_loss_is_remembered_by_the_checkpoint(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path], tmp_path: Path
) -> None:
    def run(name: str, until: int) -> StageModule:
        stage = student(tiny, umaze_data, models)
        trainer = Trainer(stage, stage.optim, seed=0, device=CPU, checkpoint=tmp_path / name)
        trainer.run(every=5, callback=lambda trainer, _: trainer.step >= until)
        return stage

    whole = run("whole", 20)
    run("parts", 10)
    resumed = run("parts", 20)
    first = whole.memory["first"].loss
    assert isinstance(first, Tensor)
    assert first.item() > 0
    assert resumed.memory["first"].loss == first
    left, right = load_file(tmp_path / "whole"), load_file(tmp_path / "parts")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    # So a resumed run is held to the first loss of all, not to its own first.
    high = {**HEALTHY, "dsm": 10.1 * first.item()}
    assert resumed.collapsed(high) is not None
    assert student(tiny, umaze_data, models).collapsed(high) is None


# What is watched


class Shift(ConsistencyTrajectory):
    """Predicts its input plus a constant, wherever it is asked to jump to."""

    def __init__(self, by: float, noise: NoiseConfig) -> None:
        super().__init__(nn.Identity(), noise)
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Tensor) -> Tensor:
        return x + self.by


class Same(Denoiser):
    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return x


def square(x: Tensor) -> Tensor:
    return x.square().sum(-1)


@pytest.mark.parametrize("executed", [1, 4, None])
@pytest.mark.parametrize("by", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("value", [square, lambda x: 2 * x[..., 0]])
def test_saturation_and_gain_are_what_counting_finds(
    by: float, value: Value, executed: int | None
) -> None:
    noise = NoiseConfig(sigma_min=1e-9, sigma_max=2e-9)
    x0 = torch.linspace(-1.0, 1.0, 96).reshape(8, 6, 2)
    config = StudentConfig(ctm_weight=0, reward_weight=1e-6, reward_states=None)
    _, info = student_loss(
        Shift(by, noise),
        Shift(by, noise),
        Same(nn.Identity(), noise),
        partial(plan_reward_loss, value, states=None),
        x0,
        torch.zeros(8, 0),
        Draws(0, 0, 8, CPU),
        config,
        executed=executed,
    )
    at_limits, beyond = Counter[int](), Counter[int]()
    gain = 0.0
    for window in x0.tolist():
        for step, state in enumerate(window):
            moved = [entry + by for entry in state]
            at_limits[step] += sum(abs(entry) > 0.999 for entry in state)
            beyond[step] += sum(abs(entry) > 0.999 for entry in moved)
            inside = [max(-1.0, min(1.0, entry)) for entry in moved]
            gain += float(value(torch.tensor(inside)) - value(torch.tensor(state))) / 8
    assert at_limits == {0: 1, 1: 0, 2: 0, 3: 0, 4: 0, 5: 1}
    steps = range(executed or 6)
    share = sum(beyond[step] - at_limits[step] for step in steps) / (16 * len(steps))
    assert info["saturated"].item() == pytest.approx(share, abs=1e-6)
    assert info["gain"].item() == pytest.approx(gain, rel=1e-4, abs=1e-4)
    assert (by == 0) == (beyond == at_limits)


def test_the_gain_is_told_in_deviations_of_what_the_reward_model_says_of_the_data(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path]
) -> None:
    plain = student(tiny, umaze_data, models, reward_weight=0.1, reward_states=None)
    assert isinstance(plain, StudentStage)
    _, info = plain(Draws(0, 0, 32, CPU))
    x0, cond = plain.windows.sample(Draws(0, 0, 32, CPU))
    of_data = -plain.reward_loss(x0, cond, Draws(0, 0, 32, CPU))
    spread = load_checkpoint(models["reward"])[1]["measured"]["spread"]
    expected = (-info["reward"] - of_data) / (16 * spread)
    torch.testing.assert_close(info["gain"], expected, rtol=1e-3, atol=1e-5)
    # A scaled reward is one of other size, and as far beyond the data as before.
    scaled = student(
        tiny, umaze_data, models, reward_weight=0.1, reward_states=None, reward_scale="gradient"
    )
    _, other = scaled(Draws(0, 0, 32, CPU))
    assert not math.isclose(float(other["reward"]), float(info["reward"]), rel_tol=0.1)
    torch.testing.assert_close(other["gain"], info["gain"], rtol=1e-3, atol=1e-5)
