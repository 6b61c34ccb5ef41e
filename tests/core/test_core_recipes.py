"""Recipes of every task: the released configuration's facts, our rules, and networks that run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ractd_core.config import OptimConfig, Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.draws import Draws
from ractd_core.recipes import Family, override, recipe_for
from ractd_core.stages import KINDS, make_stage
from ractd_core.stages.model import build_network
from ractd_core.tasks import DatasetName, Task, all_tasks, get_task

CPU = torch.device("cpu")
FAMILIES: tuple[Family, ...] = get_args(Family)
TASKS = list(all_tasks().values())

# Facts of the released configuration: 12 tasks, three stages each. Seeds are left out, since a seed
# of another program draws other numbers here.
RELEASED = list(csv.DictReader(Path(__file__).with_name("released.csv").open(encoding="utf-8")))
RELEASED_TASKS = {row["task"] for row in RELEASED}
TABLE = {
    row["task"]: row
    for row in csv.DictReader(
        (Path(__file__).parents[2] / "ractd_core" / "hparams.csv").open(encoding="utf-8")
    )
}


def by_stage(stage: str) -> list[Any]:
    rows = [row for row in RELEASED if row["stage"] == stage]
    return [pytest.param(row, id=row["task"]) for row in rows]


def is_maze(task: Task) -> bool:
    return task.domain == "maze2d"


# The released configuration


def check_optim(row: dict[str, str], optim: OptimConfig, samples: int) -> None:
    """``samples`` of ours are one of the released configuration's batch."""
    batch, passes = int(row["batch_size"]), int(row["epochs"]) * get_task(row["task"]).hdf5_rows
    assert optim.batch_size == batch * samples
    assert optim.steps * batch <= passes < (optim.steps + 1) * batch
    assert optim.lr == float(row["lr"])
    assert optim.betas == tuple(float(beta) for beta in row["betas"].split("/"))
    assert optim.weight_decay == float(row["weight_decay"])
    assert optim.warmup_steps == int(row["warmup_steps"])
    assert row["lr_schedule"] == "cosine"
    assert optim.grad_clip is None
    assert optim.ema_decay == 0
    assert optim.precision == "fp32"


def check_network(row: dict[str, str], recipe: Recipe) -> None:
    network, noise, window = recipe.teacher.network, recipe.teacher.noise, recipe.window
    assert window.horizon == int(row["horizon"])
    # A maze's two observations are the first and the last of its window, which all plans here have.
    assert int(row["n_obs_steps"]) == (2 if is_maze(get_task(row["task"])) else window.history)
    assert window.padding == "none"
    assert network.widths == tuple(int(width) for width in row["down_dims"].split("-"))
    assert network.kernel_size == int(row["kernel_size"])
    assert network.groups == int(row["n_groups"])
    assert network.embed_dim == int(row["step_embed_dim"])
    assert network.patch == 1
    for key in ("sigma_min", "sigma_max", "rho", "bins", "sigma_data"):
        assert getattr(noise, key) == float(row[key])
    assert noise.preconditioning == "boundary"
    assert noise.init_noise == "unit"


def test_the_release_has_twelve_tasks_of_three_stages() -> None:
    assert len(RELEASED) == 36
    assert len(RELEASED_TASKS) == 12
    for row in RELEASED:
        task = get_task(row["task"])
        assert (task.obs_dim, task.act_dim) == (int(row["obs_dim"]), int(row["action_dim"]))


@pytest.mark.parametrize("row", by_stage("teacher"))
def test_the_released_teacher(row: dict[str, str]) -> None:
    recipe = recipe_for(get_task(row["task"]), "released")
    check_network(row, recipe)
    check_optim(row, recipe.teacher.optim, samples=1)
    assert recipe.teacher.dropout == float(row["dropout_cfg"])
    assert recipe.teacher.times == row["time_sampler"].replace("_", "") == "lognormal"
    assert recipe.teacher.distance == "squared_pseudo_huber"


@pytest.mark.parametrize("row", by_stage("reward"))
def test_the_released_reward_model(row: dict[str, str]) -> None:
    task = get_task(row["task"])
    reward = recipe_for(task, "released").reward
    # Its batch of 64 in mazes is 64 windows, of which every state is a sample of ours.
    check_optim(row, reward.optim, samples=int(row["horizon"]) if is_maze(task) else 1)
    assert reward.widths == tuple(int(width) for width in row["down_dims"].split("-"))
    assert reward.discount == float(row["discount"])
    assert reward.termination_penalty == float(row["termination_penalty"])
    assert reward.truncation == "zero"
    assert reward.network == "mlp"


@pytest.mark.parametrize("row", by_stage("student"))
def test_the_released_student(row: dict[str, str]) -> None:
    recipe = recipe_for(get_task(row["task"]), "released")
    student = recipe.student
    check_network(row, recipe)
    check_optim(row, student.optim, samples=1)
    assert student.ctm_weight == float(row["alpha_ctm"])
    assert student.dsm_weight == float(row["beta_dsm"])
    assert student.reward_weight == float(row["sigma_reward"])
    assert student.dropout == float(row["dropout_cfg"])
    assert student.target_ema == float(row["target_ema_decay"])
    assert student.solver_steps == int(row["ode_steps_max"])
    assert student.times == "mixed"
    assert student.distance == "squared_pseudo_huber"
    assert student.reward_at == "dsm"
    assert student.reward_states is None


def parameters(task: Task, kind: str, recipe: Recipe) -> float:
    """Millions of weights, counted without memory for them."""
    about: dict[str, Any] = {
        "kind": kind,
        "modelled": "states" if is_maze(task) else "actions",
        "observation_dims": task.obs_dim,
        "action_dims": task.act_dim,
        "context": 2 if is_maze(task) else recipe.window.history,
        "network": recipe.teacher.network.model_dump(mode="json"),
        "noise": recipe.teacher.noise.model_dump(mode="json"),
    }
    if kind == "reward":
        about |= recipe.reward.model_dump(mode="json", include={"network", "widths", "members"})
    with torch.device("meta"):
        network = build_network(about)
    return sum(p.numel() for p in network.parameters()) / 1e6


@pytest.mark.parametrize(
    ("task", "teacher", "student"),
    [
        ("hopper-medium-v2", 248, 252),
        ("maze2d-umaze-v1", 65, 69),
        ("maze2d-medium-v1", 252, 259),
        ("maze2d-large-v1", 256, 264),
    ],
)
def test_released_networks_have_the_released_size(task: str, teacher: int, student: int) -> None:
    """Within 5 %: our decoder narrows before it joins the skip connection."""
    recipe = recipe_for(get_task(task), "released")
    for kind, millions in (("teacher", teacher), ("student", student)):
        assert parameters(get_task(task), kind, recipe) == pytest.approx(millions, rel=0.05)


def test_the_released_reward_model_has_the_released_size() -> None:
    task = get_task("halfcheetah-medium-v2")
    assert parameters(task, "reward", recipe_for(task, "released")) == pytest.approx(
        0.344, rel=0.01
    )


# Tasks that were not released


def test_there_is_a_row_for_every_task_and_what_was_not_released_says_so() -> None:
    assert list(TABLE) == list(all_tasks())
    assert {name for name, row in TABLE.items() if not row["ours_like"]} == RELEASED_TASKS
    for row in TABLE.values():
        assert not row["ours_like"] or row["ours_like"] in RELEASED_TASKS


OURS = [task for task in TASKS if TABLE[task.name]["ours_like"]]


@pytest.mark.parametrize("task", OURS, ids=lambda task: task.name)
def test_a_row_of_ours_follows_the_task_it_names_but_for_the_stated_rules(task: Task) -> None:
    row = TABLE[task.name]
    other = TABLE[row["ours_like"]]
    differ = {key for key in row if row[key] != other[key]} - {"task", "ours_like"}
    few = {"student_batch", "teacher_warmup"} if task.hdf5_rows < 20_000 else set()
    assert differ - {"reward_weight"} == few
    if task.domain in ("mujoco", "maze2d"):
        assert row["ours_like"].partition("-")[0] == task.name.partition("-")[0]
        assert (task.domain == "maze2d") == (row["ours_like"] == task.name.replace("-dense", ""))


@pytest.mark.parametrize("robot", ["halfcheetah", "hopper", "walker2d"])
@pytest.mark.parametrize("family", FAMILIES)
def test_better_data_are_guided_less(robot: str, family: Family) -> None:
    weight = {
        quality: recipe_for(get_task(f"{robot}-{quality}-v2"), family).student.reward_weight
        for quality in ("random", "medium-replay", "medium-expert", "expert")
    }
    assert weight["random"] == weight["medium-replay"] > weight["medium-expert"]
    assert weight["medium-expert"] >= weight["expert"]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_task_has_a_recipe_whose_stages_warm_up_before_they_end(
    task: Task, family: Family
) -> None:
    recipe = recipe_for(task, family)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    for stage in KINDS:
        optim = getattr(recipe, stage).optim
        assert optim.warmup_steps < 0.2 * optim.steps, stage
    # A window must fit into an evaluation episode.
    assert recipe.window.horizon <= task.max_episode_steps


# The paper


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_papers_recipe_differs_from_its_code_where_paper_and_code_do(task: Task) -> None:
    paper, released = (flat(recipe_for(task, family)) for family in ("paper", "released"))
    differ = {path: paper[path] for path in paper if paper[path] != released[path]}
    # The same windows: the released model scores each state by itself, the paper's whole windows.
    states = released["window.horizon"] if is_maze(task) else 1
    windows = {"reward.optim.batch_size": released["reward.optim.batch_size"] // states}
    assert differ == (windows if is_maze(task) else {}) | {
        "teacher.distance": "pseudo_huber",
        "teacher.noise.init_noise": "sigma_max",
        "teacher.noise.preconditioning": "edm",
        "reward.network": "conv",
        "reward.widths": [32, 64, 128, 256],
        "student.distance": "pseudo_huber",
        "student.reward_at": "noise",
        "student.solver_steps": released["teacher.noise.bins"] - 1,
    }


def flat(recipe: Recipe) -> dict[str, Any]:
    def leaves(table: dict[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in table.items():
            inner = isinstance(value, dict)
            found |= leaves(value, f"{prefix}{key}.") if inner else {prefix + key: value}
        return found

    return leaves(recipe.model_dump(mode="json"), "")


# Small recipes run


def test_the_small_umaze_is_the_defaults() -> None:
    assert recipe_for(get_task("maze2d-umaze-v1")) == Recipe()


def synthetic(task: Task) -> FlatDataset:
    """Four episodes of 20 random steps with the task's dimensions."""
    rng = np.random.default_rng(0)
    bounds = np.arange(5) * 21
    rows = int(bounds[-1])
    return FlatDataset(
        name=DatasetName("made", task),
        observations=rng.normal(size=(rows, task.obs_dim)).astype(np.float32),
        actions=rng.uniform(-1, 1, (rows, task.act_dim)).astype(np.float32),
        rewards=rng.normal(size=rows).astype(np.float32),
        bounds=bounds,
        terminated=np.array([True, False, True, False]),
    )


def shapes(task: Task) -> tuple[Any, ...]:
    """What decides the sizes of all networks and windows."""
    recipe = recipe_for(task)
    networks = (recipe.teacher.network, recipe.regression.network, recipe.reward.widths)
    return (is_maze(task), task.obs_dim, task.act_dim, recipe.window, *networks)


DISTINCT = list({shapes(task): task for task in TASKS}.values())


@pytest.mark.parametrize("task", DISTINCT, ids=lambda task: task.name)
def test_every_small_stage_runs_and_reaches_all_of_its_weights(task: Task, tmp_path: Path) -> None:
    data, recipe = synthetic(task), recipe_for(task)
    files: dict[str, Path] = {}
    for kind in KINDS:
        stage, normalizers = make_stage(kind, recipe, data, files, CPU)
        loss, _ = stage(Draws(0, 0, 4, CPU))
        assert torch.isfinite(loss)
        loss.backward()
        assert all(p.grad is not None for p in stage.network.parameters() if p.requires_grad)
        files[kind] = tmp_path / f"{kind}.safetensors"
        stage.result(stage.network, normalizers).save(files[kind])


@pytest.mark.parametrize("task", DISTINCT, ids=lambda task: task.name)
def test_small_networks_are_small(task: Task) -> None:
    assert parameters(task, "student", recipe_for(task)) < 1.5


# Overrides


def test_an_override_changes_its_own_values_and_keeps_the_tasks_others() -> None:
    base = recipe_for(get_task("hopper-medium-v2"), "released")
    changed = override(base, {"student": {"optim": {"steps": 9}, "reward_states": 3}})
    before, after = flat(base), flat(changed)
    assert {path for path in before if before[path] != after[path]} == {
        "student.optim.steps",
        "student.reward_states",
    }
    assert override(base, {}) == base


def test_every_wrong_override_is_named_with_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        override(Recipe(), {"student": {"optm": {}}, "reward": {"discount": 2}, "window": 3})
    assert {item["loc"] for item in caught.value.errors()} == {
        ("student", "optm"),
        ("reward", "discount"),
        ("window",),
    }
