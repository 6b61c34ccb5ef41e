"""A dry run's counts against counts by hand, its costs against its rates, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ractd_core.bench import untrained_data, untrained_models
from ractd_core.config import Recipe
from ractd_core.data.store import Original, put
from ractd_core.recipes import override, recipe_for
from ractd_core.stages import load_model
from ractd_core.tasks import Task, get_task, parse_dataset_name
from sweeps.cli import app
from sweeps.dry_run import DryRun, available, dry_run
from sweeps.dry_run_table import table
from sweeps.layout import SweepFolder, TaskContext
from sweeps.sample import sample
from sweeps.search_space import Choices, active, contains, misfit, parameters
from sweeps.spec import SweepSpec, load_spec
from sweeps.spec_parts import Resources
from sweeps.stage_store import MODEL
from sweeps.step_times import Rate, StepTimes, parameters_of

pytestmark = pytest.mark.usefixtures("project_home")

TASK = "local/maze2d-umaze-v1"
SIGMA = {"low": 1e-5, "high": 1e-2, "log": True}
Write = Callable[..., Path]


@pytest.fixture
def spec_of(tiny: Write) -> Callable[..., SweepSpec]:
    return lambda **changes: load_spec(str(tiny(**changes)))


RATES = {"teacher": 3.0, "reward": 2.0, "student": 5.0}
EPISODE = 7.0


class Known:
    """Costs that a test can count with."""

    def step(self, kind: str, recipe: Recipe, task: Task) -> Rate:
        return Rate(RATES[kind], "measured here")

    def episode(self, recipe: Recipe, task: Task) -> float:
        return EPISODE


def plan(spec: SweepSpec, storage: Path) -> DryRun:
    folder = SweepFolder(storage, spec.name)
    return dry_run(spec, folder, Known(), folder.check_same)


def built(spec: SweepSpec, storage: Path, kind: str, fingerprint: str, seconds: float) -> None:
    """Put the stage ``kind`` of the spec's recipe into the store, as if it took ``seconds``."""
    folder = SweepFolder(storage, spec.name)
    context = TaskContext(folder, spec, spec.datasets()[0], fingerprint)
    request = context.request(kind, context.recipe)
    steps = getattr(context.recipe, kind).optim.steps

    def build(place: Path) -> dict[str, Any]:
        (place / MODEL).write_bytes(b"weights")
        return {"steps": steps, "device_seconds": seconds, "device": "cpu"}

    folder.store.ensure(request, build)


# Counts


def test_stages_are_counted_by_the_choices_they_depend_on(
    spec_of: Callable[..., SweepSpec], tmp_path: Path
) -> None:
    search = {
        "horizon": {"choices": [16, 32, 48]},
        "reward.members": {"choices": [1, 2]},
        "teacher.dropout": {"choices": [0.0, 0.1], "only_if": {"horizon": 32}},
        "sigma": SIGMA,
    }
    found = plan(spec_of(trials=20, search=search, training_seeds=2), tmp_path)
    [task] = found.tasks
    # Teachers: horizons 16 and 48, and 32 with two dropouts. Rewards: members 1 and 2.
    assert [(stage.kind, stage.distinct) for stage in task.stages] == [
        ("teacher", 4),
        ("reward", 2),
    ]
    assert (task.trials, task.students) == (20, 40)
    assert found.problems == []


def test_a_stage_that_depends_on_real_numbers_is_one_per_trial(
    spec_of: Callable[..., SweepSpec], tmp_path: Path
) -> None:
    search = {"teacher.optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "sigma": SIGMA}
    found = plan(spec_of(trials=7, search=search), tmp_path)
    [task] = found.tasks
    teacher, reward = task.stages
    assert (teacher.distinct, teacher.at_most) == (None, 7)
    assert teacher.unlisted == ["teacher.optim.lr"]
    assert reward.distinct == 1
    assert "up to 7 of them" in table(found)


def test_more_choices_than_trials_are_one_stage_per_trial_at_most(
    spec_of: Callable[..., SweepSpec], tmp_path: Path
) -> None:
    search = {"horizon": {"low": 16, "high": 128, "step": 8}, "sigma": SIGMA}
    some, all_of_them = (
        plan(spec_of(trials=trials, search=search), tmp_path).tasks[0] for trials in (4, 15)
    )
    assert [(s.distinct, s.at_most) for s in some.stages] == [(None, 4), (1, 1)]
    assert [(s.distinct, s.at_most) for s in all_of_them.stages] == [(15, 15), (1, 1)]
    assert some.hours is not None
    assert all_of_them.hours is not None
    teacher = 30 * RATES["teacher"] / 3600
    assert some.hours < all_of_them.hours - 11 * teacher + 1e-9
    assert "more teachers to choose from than trials" in table(DryRun("x", [some]))


def test_what_is_in_the_store_for_these_data_is_not_built_again(
    spec_of: Callable[..., SweepSpec], tmp_path: Path
) -> None:
    name, storage = parse_dataset_name(TASK), tmp_path / "storage"
    made = replace(untrained_data(name.task), name=name)
    put(name, lambda: Original(made, {"kind": "test"}, "none", "none"))
    spec = spec_of(search={"sigma": SIGMA}, data={}, recipe=_tiny_recipe(window={"horizon": 16}))
    before = plan(spec, storage)
    built(spec, storage, "teacher", "of other data", 60.0)
    assert [s.in_store for s in plan(spec, storage).tasks[0].stages] == [0, 0]
    built(spec, storage, "teacher", made.fingerprint, 60.0)
    [after] = plan(spec, storage).tasks
    assert [(s.kind, s.distinct, s.in_store) for s in after.stages] == [
        ("teacher", 1, 1),
        ("reward", 1, 0),
    ]
    assert after.disk_gb < before.tasks[0].disk_gb
    assert "1 (1 in store)" in table(DryRun("x", [after]))


def _tiny_recipe(**changes: Any) -> dict[str, Any]:
    network = {"widths": [8, 8], "patch": 4, "groups": 4, "embed_dim": 8}
    return {
        "teacher": {"optim": {"steps": 30, "batch_size": 16}, "network": network},
        "regression": {"network": network},
        "reward": {"optim": {"steps": 30, "batch_size": 16}, "widths": [8]},
        "student": {"optim": {"steps": 30, "batch_size": 16}, "reward_states": 4},
        **changes,
    }


# Costs


def test_forty_trials_on_three_horizons_share_three_teachers_and_one_reward_model(
    spec_of: Callable[..., SweepSpec], tmp_path: Path
) -> None:
    evaluation = {"every": 20, "episodes": 3, "selection_episodes": 4, "final_episodes": 5}
    spec = spec_of(
        trials=40,
        search={"horizon": {"choices": [16, 32, 48]}, "sigma": SIGMA},
        evaluation=evaluation,
        training_seeds=2,
        selection={"top": 3, "retrain": 1, "confirmation_episodes": 10},
        rows=["regression", "teacher:ddim-20"],
    )
    [task] = plan(spec, tmp_path).tasks
    # All stages train for 30 steps; a curve has two points, after 20 and 30.
    teacher, reward = 30 * RATES["teacher"], 30 * RATES["reward"]
    student, episodes = 30 * RATES["student"], 2 * 3 + 4
    trials = 40 * 2 * (student + episodes * EPISODE) + 3 * (student + 10 * EPISODE)
    # The winner's retrained student plays, a regression after 20 steps, and the teacher 20 times
    # as long.
    rows = (1 + 1 + 20) * 5 * EPISODE + 20 * RATES["teacher"]
    assert task.hours == pytest.approx((trials + rows + 3 * teacher + reward) / 3600)
    assert task.hours_alone == pytest.approx((trials + rows + 40 * (teacher + reward)) / 3600)
    assert task.students == 40 * 2 + 3
    alone, shared = task.hours_alone or 0, task.hours or 1
    assert f"a factor of {alone / shared:.1f}" in table(DryRun("x", [task]))


def test_disk_is_that_of_the_models_that_stay(
    spec_of: Callable[..., SweepSpec], tmp_path: Path
) -> None:
    spec = spec_of(
        trials=5,
        search={"horizon": {"choices": [16, 32]}, "sigma": SIGMA},
        budget={"keep": "top"},
        selection={"top": 2, "rule": "best"},
    )
    recipe, known = spec.recipe_of(parse_dataset_name(TASK)), get_task("maze2d-umaze-v1")
    teacher, reward, student = (
        parameters_of(kind, recipe, known) for kind in ("teacher", "reward", "student")
    )
    [task] = plan(spec, tmp_path).tasks
    students = 2 * 2 * student  # the two best trials', their last and their best weights
    assert task.disk_gb == pytest.approx(4e-9 * (students + 2 * teacher + reward))
    assert task.disk_gb_alone == pytest.approx(4e-9 * (students + 5 * (teacher + reward)))


@pytest.mark.parametrize("task", ["maze2d-umaze-v1", "hopper-medium-v2"])
def test_weights_are_counted_as_the_stages_have_them(task: str, tmp_path: Path) -> None:
    known = get_task(task)
    files = untrained_models(recipe_for(known), untrained_data(known), tmp_path)
    for kind, path in files.items():
        network = load_model(path).network
        counted = sum(parameter.numel() for parameter in network.parameters())
        assert parameters_of(kind, recipe_for(known), known) == counted


# Rates


def test_a_rate_is_that_of_the_stores_stages_of_the_same_shape(
    spec_of: Callable[..., SweepSpec], tmp_path: Path
) -> None:
    spec, known = spec_of(recipe=_tiny_recipe(window={"horizon": 16})), get_task("maze2d-umaze-v1")
    for seed, seconds in enumerate((30.0, 60.0, 600.0)):
        other = _tiny_recipe(window={"horizon": 16})
        other["teacher"] = {**other["teacher"], "seed": seed}
        built(spec_of(recipe=other), tmp_path, "teacher", "other data", seconds)
    said: list[str] = []
    times = StepTimes(SweepFolder(tmp_path, "x").store, Resources(), said.append)
    recipe = spec.recipe_of(parse_dataset_name(TASK))
    rate = times.step("teacher", recipe, known)
    assert rate == Rate(60.0 / 30, "stages in the store"), "the median of 1, 2 and 20 s a step"
    assert said == []
    wider = override(recipe, {"window": {"horizon": 32}})
    measured = times.step("teacher", wider, known)
    assert measured is not None
    assert measured.source == "measured here"
    assert len(said) == 1
    assert times.step("teacher", wider, known) == measured
    assert len(said) == 1, "asked for again, it is not measured again"


def test_a_long_step_is_measured_on_less_and_scaled_by_its_operations(tmp_path: Path) -> None:
    """A step of the released Hopper: 4,800 windows through 250 million weights."""
    known = get_task("hopper-medium-v2")
    times = StepTimes(SweepFolder(tmp_path, "x").store, Resources(), lambda line: None)
    rate = times.step("teacher", recipe_for(known, "released"), known)
    assert rate is not None
    assert rate.source == "measured here on less, scaled"
    small = times.step("teacher", recipe_for(known), known)
    assert small is not None
    assert rate.seconds > 10 * small.seconds


def test_an_episode_plans_as_often_as_its_actions_last(tmp_path: Path) -> None:
    known = get_task("hopper-medium-v2")
    recipe = override(recipe_for(known), {"student": {"optim": {"batch_size": 16}}})
    times = StepTimes(SweepFolder(tmp_path, "x").store, Resources(), lambda line: None)
    one, eight = (
        times.episode(override(recipe, {"policy": {"executed_actions": count}}), known)
        for count in (1, 8)
    )
    assert one is not None
    assert eight is not None
    environment = (8 * eight - one) / 7  # what is left without any planning
    assert 0 < environment < eight < one


def test_hours_of_a_gpu_that_is_not_here_are_not_made_up(
    spec_of: Callable[..., SweepSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    spec = spec_of(resources={"student": {"gpus": 1}})
    folder = SweepFolder(tmp_path, "x")
    times = StepTimes(folder.store, spec.resources, lambda line: None)
    found = dry_run(spec, folder, times, folder.check_same)
    assert found.tasks[0].hours is None
    [problem] = found.problems
    assert problem.startswith("resources.student: 1 workers with 1 CPUs and 1 GPUs")


# Problems


def test_every_problem_is_named_and_nothing_is_written(
    tiny: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    resources = {kind: {"cpus": 4096, "gpus": 1} for kind in ("teacher", "reward", "student")}
    spec = tiny(tasks=["mine/maze2d-umaze-v1"], resources=resources, budget={"free_gb": 1e9})
    before = sorted(tmp_path.rglob("*"))
    run = CliRunner().invoke(
        app, ["sweep", "run", str(spec), "--dry-run", "--storage", str(tmp_path / "deep" / "st")]
    )
    assert run.exit_code == 2
    for text in (
        "error: tasks: dataset mine/maze2d-umaze-v1 is not under",
        "error: resources.teacher: 1 workers with 4096 CPUs",
        "error: resources.student:",
        "budget.free_gb is 1e+09; free some",
    ):
        assert text in run.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_mistaken_spec_is_told_as_ever(tiny: Write) -> None:
    run = CliRunner().invoke(app, ["sweep", "run", str(tiny(trials=0)), "--dry-run"])
    assert run.exit_code == 2
    assert "trials: Input should be greater than 0" in run.stderr


def test_a_good_spec_is_planned_as_json_and_nothing_is_written(tiny: Write, tmp_path: Path) -> None:
    spec = tiny(first_trials=[{"horizon": 32, "sigma": 1e-3}])
    before = sorted(tmp_path.rglob("*"))
    run = CliRunner().invoke(app, ["sweep", "run", str(spec), "--dry-run", "--json"])
    assert run.exit_code == 0, run.stderr
    found = json.loads(run.stdout)
    [task] = found["tasks"]
    assert found["problems"] == []
    assert task["first_trials"] == [{"horizon": 32, "reward_weight": 1e-3}]
    assert task["data"].startswith("to be generated")
    assert 0 < task["hours"] <= task["hours_alone"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_of_that_name_with_another_spec_is_a_problem(
    spec_of: Callable[..., SweepSpec], tmp_path: Path
) -> None:
    folder = SweepFolder(tmp_path, "tiny")
    folder.freeze(spec_of())
    assert plan(spec_of(), tmp_path).problems == []
    [problem] = plan(spec_of(trials=5), tmp_path).problems
    assert "sweep 'tiny' exists" in problem
    assert dry_run(spec_of(trials=5), folder, Known(), folder.check_extension).problems == []
    found = dry_run(spec_of(trials=3, seed=1), folder, Known(), folder.check_extension)
    assert [each.strip().partition(":")[0] for each in found.problems] == [
        "sweep 'tiny'",
        "seed",
        "trials",
    ]


def test_an_extension_is_planned_and_changes_nothing(tiny: Write, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "storage", "tiny")
    folder.freeze(load_spec(str(tiny())))
    more = str(tiny(trials=6))
    command = ["sweep", "resume", "tiny", "--storage", str(folder.storage), "--dry-run", "--json"]
    for extra, trials in ((["--spec", more], 6), ([], 4)):
        run = CliRunner().invoke(app, [*command, *extra])
        assert run.exit_code == 0, run.stderr
        assert json.loads(run.stdout)["tasks"][0]["trials"] == trials
    assert folder.spec().trials == 4
    assert not (folder.path / "job").exists()


def test_a_ray_that_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="RAY_ADDRESS not an address: no Ray answers"):
        available("not an address", tmp_path)


def test_this_machine_has_the_cpus_of_this_process(tmp_path: Path) -> None:
    assert available(None, tmp_path)["CPU"] >= 1


# The sample that stands for a search


@pytest.mark.parametrize("count", [1, 4, 30])
def test_a_sample_begins_as_given_and_keeps_to_the_space(
    count: int, spec_of: Callable[..., SweepSpec]
) -> None:
    search = {
        "horizon": {"low": 16, "high": 64, "step": 16},
        "sigma": SIGMA,
        "student.optim.lr": {"low": 1e-4, "high": 1e-3, "only_if": {"horizon": [32, 64]}},
    }
    spec = spec_of(search=search)
    recipe, known = spec.recipe_of(parse_dataset_name(TASK)), parameters(spec.search)
    points = sample(recipe, spec.search, [{"window.horizon": 48}], count, 0)
    assert len(points) == count
    assert points[0]["window.horizon"] == 48
    for point in points:
        assert active(spec.search, point) == point.keys()
        assert all(contains(known[path], value) for path, value in point.items())
        assert misfit(recipe, point) is None


def test_a_small_space_is_sampled_whole() -> None:
    search = {
        "student.reward_at": Choices(choices=("dsm", "noise")),
        "student.seed": Choices(choices=(1, 2)),
    }
    points = sample(Recipe(), search, [], 9, 0)
    assert len(points) == 4
