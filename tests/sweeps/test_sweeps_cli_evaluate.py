"""``ractd evaluate`` plays a model file by itself, as often and as precisely as one asks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from ractd_core.config import Recipe, Sampling
from ractd_core.data.collect_maze2d import collect_maze2d
from ractd_core.data.flat import FlatDataset
from ractd_core.evaluate import evaluate
from ractd_core.policy import Planner, make_policy
from ractd_core.stages import make_stage
from ractd_core.tasks import parse_dataset_name
from sweeps.cli import app

NAME = parse_dataset_name("local/maze2d-umaze-v1")
NETWORK = {"widths": [8], "patch": 4, "groups": 4, "embed_dim": 8}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained models: enough to be played."""
    folder = tmp_path_factory.mktemp("models")
    recipe = Recipe.model_validate(
        {
            "window": {"horizon": 16},
            "teacher": {"network": NETWORK},
            "reward": {"widths": [8]},
            "regression": {"network": NETWORK},
        }
    )
    data = collect_maze2d(NAME, 2000)
    files: dict[str, Path] = {}
    for kind in ("teacher", "reward", "student", "regression"):
        stage, normalizers = make_stage(kind, recipe, data, files, torch.device("cpu"))
        files[kind] = folder / f"{kind}.safetensors"
        stage.result(stage.network, normalizers).save(files[kind])
    return files


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_the_score_is_that_of_the_seeds_asked_for(models: dict[str, Path], tmp_path: Path) -> None:
    csv = tmp_path / "episodes.csv"
    arguments = ("--episodes", "6", "--first-seed", "40", "--csv", str(csv))
    about = json.loads(run(str(models["student"]), *arguments, "--json"))
    planner = Planner.load(models["student"], torch.device("cpu"))
    expected = evaluate(make_policy(planner), NAME, range(40, 46))
    assert about["score"] == expected.score
    assert about["interval"][0] <= about["score"] <= about["interval"][1]
    assert (about["kind"], about["dataset"]) == ("student", str(NAME))
    assert about["network_calls"] == 1
    lines = pd.read_csv(csv)
    assert lines["seed"].tolist() == list(range(40, 46))
    np.testing.assert_allclose(lines["return"], expected.returns, rtol=1e-5)
    text = run(str(models["student"]), *arguments)
    assert f"normalized score {expected.score:.1f} [" in text
    assert "6 episodes (seeds from 40)" in text


def test_a_teacher_by_any_sampler(models: dict[str, Path]) -> None:
    options = ("--episodes", "1", "--sampler", "ddim", "--calls", "3", "--json")
    assert json.loads(run(str(models["teacher"]), *options))["network_calls"] == 3
    assert "takes 2 calls per step" in run(str(models["teacher"]), "--calls", "3", code=2)
    assert "takes one call" in run(str(models["regression"]), "--calls", "3", code=2)


def test_a_teacher_under_guidance(models: dict[str, Path]) -> None:
    teacher, reward = str(models["teacher"]), str(models["reward"])
    options = ("--episodes", "2", "--sampler", "ddim", "--calls", "3")
    guided = ("--reward", reward, "--guidance", "30")
    about = json.loads(run(teacher, *options, *guided, "--json"))
    assert (about["network_calls"], about["reward_gradients"]) == (3, 3)
    sampling = Sampling(method="ddim", calls=3, guidance=30)
    planner = Planner.load(models["teacher"], torch.device("cpu"), sampling, models["reward"])
    seeds = range(about["first_seed"], about["first_seed"] + 2)
    expected = evaluate(make_policy(planner), NAME, seeds)
    assert about["return_mean"] == float(expected.returns.mean())
    assert "in 3 network calls and 3 reward gradients: " in run(teacher, *options, *guided)
    assert json.loads(run(teacher, *options, "--json"))["reward_gradients"] == 0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("teacher", ("--guidance", "2"), "guidance 2 without a reward model"),
        ("teacher", ("--reward", "reward"), "guidance 0 with a reward model"),
        ("teacher", ("--reward", "student", "--guidance", "2"), "holds a student model, expected"),
        ("student", ("--reward", "reward", "--guidance", "2"), "a student is not guided"),
        ("student", ("--executed", "4"), "executed whole, found executed_actions 4"),
    ],
)
def test_ways_to_act_that_a_model_does_not_have_are_refused(
    kind: str, options: tuple[str, ...], message: str, models: dict[str, Path]
) -> None:
    files = {name: str(path) for name, path in models.items()}
    given = [files.get(option, option) for option in options]
    assert message in " ".join(run(files[kind], *given, code=2).split())


def test_several_actions_of_a_window_are_executed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hopper = parse_dataset_name("local/hopper-medium-v2")
    data = FlatDataset(
        name=hopper,
        observations=rng.uniform(-1, 1, (82, 11)).astype(np.float32),
        actions=rng.uniform(-1, 1, (82, 3)).astype(np.float32),
        rewards=rng.uniform(0, 3, 82).astype(np.float32),
        bounds=np.array([0, 41, 82]),
        terminated=np.array([True, False]),
    )
    recipe = Recipe.model_validate({"window": {"horizon": 16}, "regression": {"network": NETWORK}})
    stage, normalizers = make_stage("regression", recipe, data, {}, torch.device("cpu"))
    path = tmp_path / "bc.safetensors"
    stage.result(stage.network, normalizers).save(path)
    about = json.loads(run(str(path), "--episodes", "2", "--executed", "3", "--json"))
    assert (about["network_calls"], about["executed_actions"]) == (1, 3)
    planner = Planner.load(path, torch.device("cpu"))
    seeds = range(about["first_seed"], about["first_seed"] + 2)
    expected = evaluate(make_policy(planner, executed_actions=3), hopper, seeds)
    assert about["return_mean"] == float(expected.returns.mean())
    text = run(str(path), "--episodes", "1", "--executed", "3")
    assert "regression in 1 network call per 3 actions: " in text
    message = run(str(path), "--executed", "17", code=2)
    assert "1 to 16 actions of a window can be executed, found 17" in message


def test_what_cannot_be_played_is_named(models: dict[str, Path], tmp_path: Path) -> None:
    assert "holds a reward model, expected" in run(str(models["reward"]), code=2)
    absent = tmp_path / "none.safetensors"
    assert f"{absent}: no such checkpoint" in run(str(absent), code=2)
    absent.write_bytes(models["student"].read_bytes()[:-5])
    assert "truncated or damaged" in run(str(absent), code=2)
