"""The tasks of a spec: datasets, groups and globs of them, and those that no sweep can score."""

from __future__ import annotations

import pytest

from ractd_core.data.generate import LocalRecipe
from ractd_core.tasks import all_tasks, find_tasks, parse_dataset_name
from sweeps.spec import dump_spec, parse_spec
from tests.sweeps.specs import parse, problems

pytestmark = pytest.mark.usefixtures("project_home")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("local/maze2d", 6),
        ("d4rl/gym-mujoco-9", 9),
        ("d4rl/gym-mujoco", 15),
        ("minari/kitchen-*", 3),
        ("mine/*-expert-v2", 6),
        ("d4rl/pen-*-v1", 3),
        ("local/maze2d-umaze*", 2),
    ],
)
def test_a_group_stands_for_its_tasks_in_the_tables_order(text: str, count: int) -> None:
    source, _, pattern = text.partition("/")
    spec = parse(text)
    assert spec.tasks == tuple(f"{source}/{task.name}" for task in find_tasks(pattern))
    assert len(spec.tasks) == count
    assert [str(name) for name in spec.datasets()] == list(spec.tasks)
    assert [name.task for name in spec.datasets()] == [
        task for task in all_tasks().values() if f"{source}/{task.name}" in spec.tasks
    ]


def test_the_nine_of_the_papers_tables() -> None:
    expected = {
        f"d4rl/{body}-{quality}-v2"
        for body in ("halfcheetah", "hopper", "walker2d")
        for quality in ("medium", "medium-replay", "medium-expert")
    }
    assert set(parse("d4rl/gym-mujoco-9").tasks) == expected


def test_groups_and_datasets_may_be_mixed_and_keep_their_order() -> None:
    spec = parse("mine/hopper-medium-v2", "minari/kitchen", "local/maze2d-large-v1")
    assert spec.tasks == (
        "mine/hopper-medium-v2",
        "minari/kitchen-complete-v0",
        "minari/kitchen-partial-v0",
        "minari/kitchen-mixed-v0",
        "local/maze2d-large-v1",
    )


def test_a_frozen_spec_names_the_tasks_themselves() -> None:
    spec = parse("local/maze2d", "d4rl/kitchen-*")
    again = parse_spec(dump_spec(spec), "spec.yaml")
    assert again == spec
    assert "local/maze2d-umaze-v1" in dump_spec(spec)
    assert "kitchen-*" not in dump_spec(spec)


@pytest.mark.parametrize(
    "text", ["d4rl/antmaze-umaze-v2", "d4rl/antmaze", "d4rl/antmaze-*", "d4rl/all"]
)
def test_data_whose_policies_cannot_be_scored_are_refused_at_their_place(text: str) -> None:
    [problem] = problems("local/maze2d-umaze-v1", text)
    assert problem.startswith("tasks.1: d4rl/antmaze-umaze-v2: D4RL's ant has other actuators")
    assert "use minari/antmaze-umaze-v2" in problem


def test_the_same_tasks_data_from_elsewhere_are_accepted() -> None:
    assert parse("minari/antmaze-umaze-v2", "mine/antmaze-large-play-v2").tasks == (
        "minari/antmaze-umaze-v2",
        "mine/antmaze-large-play-v2",
    )


@pytest.mark.parametrize(
    ("tasks", "twice"),
    [
        (("local/maze2d-umaze-v1", "local/maze2d-umaze-v1"), "maze2d-umaze-v1"),
        # A sweep's results are kept by task, whatever the data's source.
        (("local/maze2d-umaze-v1", "d4rl/maze2d-umaze-v1"), "maze2d-umaze-v1"),
        (("local/maze2d", "d4rl/maze2d-large-v1"), "maze2d-large-v1"),
        (
            ("local/hopper-medium*", "d4rl/hopper-*-expert-v2", "mine/hopper-medium-v2"),
            "hopper-medium-v2, hopper-medium-expert-v2",
        ),
    ],
)
def test_a_task_has_one_dataset(tasks: tuple[str, ...], twice: str) -> None:
    [problem] = problems(*tasks)
    assert problem == f"tasks: {twice} named more than once; a sweep has one dataset per task"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d4rl/walker-*", "no task or group matches 'walker-*'; did you mean walker2d-"),
        ("d4rl/gym-mujoco-8", "unknown task or group 'gym-mujoco-8'; did you mean gym-mujoco-9"),
        ("d4rl/zzz[", "no task or group matches 'zzz['; groups: "),
        ("local", "unknown task 'local'"),
        ("X/maze2d", "'X' cannot name a data source"),
        ("minari/gym-mujoco", "Minari has no dataset for halfcheetah-random-v2"),
    ],
)
def test_a_group_that_is_none_is_named_with_its_path(text: str, message: str) -> None:
    [problem] = problems("local/maze2d-umaze-v1", text)
    assert problem.startswith(f"tasks.1: {message}")


def test_mistakes_elsewhere_are_named_beside_those_of_the_tasks() -> None:
    found = problems("d4rl/antmaze-umaze-v2", "d4rl/walker-*", "local/maze2d", trials=0)
    assert [line.partition(":")[0] for line in found] == ["tasks.0", "tasks.1", "trials"]


def test_a_first_trial_is_checked_for_every_task_of_a_group() -> None:
    # The paper's weights differ by task, and some of the nine lie outside this range.
    narrow = {"sigma": {"low": 1e-5, "high": 1e-2}}
    assert problems("d4rl/gym-mujoco-9", search=narrow, first_trials=["paper"])
    parse("d4rl/gym-mujoco-9", first_trials=["paper"])


def test_the_teacher_is_sampled_in_few_calls_where_it_replans_at_every_step() -> None:
    spec = parse("local/maze2d-umaze-v1")
    maze = parse_dataset_name("local/maze2d-umaze-v1")
    hopper = parse_dataset_name("d4rl/hopper-medium-v2")
    assert spec.rows_of(maze) == ("regression", "teacher", "ctd")
    assert spec.rows_of(hopper) == ("bc", "teacher:ddim-20", "ctd")
    named = parse("local/maze2d-umaze-v1", rows=["ractd:2"])
    assert named.rows_of(maze) == named.rows_of(hopper) == ("ractd:2",)


HOPPER = "local/hopper-medium-v2"
UMAZE = "local/maze2d-umaze-v1"


def test_a_sweep_over_both_kinds_of_tasks_names_both_rows_without_diffusion() -> None:
    spec = parse(HOPPER, UMAZE, rows=["bc", "teacher", "regression", "joint"])
    hopper, maze = spec.datasets()
    assert spec.rows_of(hopper) == ("bc", "teacher", "joint")
    assert spec.rows_of(maze) == ("teacher", "regression", "joint")
    for alone, strange, other in (("bc", UMAZE, "regression"), ("regression", HOPPER, "bc")):
        [problem] = problems(HOPPER, UMAZE, rows=["ctd", alone])
        assert problem.startswith(f"rows.1: {alone!r} means nothing for {strange}, which ")
        assert problem.endswith(f"write {other} beside it")


@pytest.mark.parametrize(
    ("task", "row", "instead"), [(UMAZE, "bc", "regression"), (HOPPER, "regression", "bc")]
)
def test_a_row_that_means_nothing_for_a_task_is_refused(task: str, row: str, instead: str) -> None:
    for rows in ([row], ["regression", "bc"]):
        [problem] = problems(task, rows=rows)
        assert problem.startswith(f"rows.{rows.index(row)}: {row!r} means nothing for {task}")
        assert problem.endswith(f"write {instead}")
    parse(task, rows=[instead])


def test_a_mazes_plan_is_executed_whole() -> None:
    several = {"policy": {"executed_actions": 4}}
    [problem] = problems(HOPPER, UMAZE, recipe=several)
    assert problem == (
        "recipe.policy.executed_actions: a maze's plan is one of states, and is executed whole "
        "(for maze2d-umaze-v1)"
    )
    searched = {"policy.executed_actions": {"choices": [1, 2]}}
    [problem] = problems(UMAZE, search=searched, first_trials=[])
    assert problem.startswith("search.policy.executed_actions: ")
    parse(HOPPER, recipe=several)
    parse(HOPPER, search=searched, first_trials=[])


def test_more_actions_than_a_window_has_are_refused() -> None:
    recipe = {"window": {"horizon": 16}, "policy": {"executed_actions": 17}}
    [problem] = problems(HOPPER, recipe=recipe)
    assert "executed_actions 17 are more than a window of horizon 16 has" in problem
    searched = {"policy.executed_actions": {"low": 1, "high": 17}}
    [problem] = problems(
        HOPPER, recipe={"window": {"horizon": 16}}, search=searched, first_trials=[]
    )
    assert problem.startswith("search.policy.executed_actions: value 17: ")


def test_a_guided_row_needs_a_guidance() -> None:
    unguided = {"policy": {"guidance": 0}}
    rows = ["teacher", "teacher-guided:ddim-20"]
    [problem] = problems(HOPPER, rows=rows, recipe=unguided)
    assert problem.startswith("rows.1: 'teacher-guided:ddim-20' is not guided")
    parse(HOPPER, rows=rows)
    parse(HOPPER, rows=["teacher"], recipe=unguided)


def test_advantages_are_of_actions() -> None:
    target = {"reward": {"target": "advantage"}}
    [problem] = problems(HOPPER, UMAZE, recipe=target)
    assert problem.startswith("recipe.reward.target: advantage is of actions")
    assert problem.endswith("write return (for maze2d-umaze-v1)")
    searched = {"reward.target": {"choices": ["return", "advantage"]}}
    [problem] = problems(UMAZE, search=searched, first_trials=[])
    assert problem.startswith("search.reward.target: advantage is of actions")
    parse(HOPPER, recipe=target)
    parse(HOPPER, search=searched, first_trials=[])
    parse(UMAZE, recipe=target, search={"reward.target": {"choices": ["return"]}})


def test_a_reward_model_that_trains_beside_the_student_has_no_gradient_to_scale_by() -> None:
    scaled = {"student": {"reward_scale": "gradient"}}
    rows = ["teacher", "joint", "joint:2"]
    first, second = problems(UMAZE, rows=rows, recipe=scaled)
    assert first.startswith("rows.1: 'joint' cannot be had with recipe.student.reward_scale: ")
    assert "a reward model that is there before the student" in first
    assert second.startswith("rows.2: 'joint:2'")
    searched = {"student.reward_scale": {"choices": ["none", "gradient"]}}
    [problem] = problems(HOPPER, rows=["joint"], search=searched, first_trials=[])
    assert "search.student.reward_scale: gradient" in problem
    [problem] = problems(HOPPER, rows=["joint"], recipe={"reward": {"target": "advantage"}})
    assert "recipe.reward.target: advantage" in problem
    parse(UMAZE, rows=["teacher", "ctd"], recipe=scaled)
    parse(UMAZE, rows=rows)


@pytest.mark.parametrize("row", ["reward-in-teacher", "reward-in-both:2"])
def test_a_teachers_reward_has_neither_the_students_unit_nor_its_pessimism(row: str) -> None:
    steady = {"reward": {"members": 2}, "student": {"reward_scale": "gradient", "pessimism": 1.0}}
    unit, pessimism = problems(HOPPER, rows=["ctd", row], recipe=steady)
    assert unit.startswith(f"rows.1: {row!r} cannot be had with recipe.student.reward_scale: ")
    assert pessimism.startswith(f"rows.1: {row!r} cannot be had with recipe.student.pessimism: ")
    parse(HOPPER, rows=["ctd", row])


def test_how_local_data_are_generated_is_part_of_the_spec() -> None:
    assert parse("local/maze2d").data.recipe() == LocalRecipe()
    data = {"transitions": 5000, "seed": 3, "noisy": True, "training_steps": 7000}
    recipe = parse("local/maze2d", data=data).data.recipe()
    assert recipe == LocalRecipe(transitions=5000, seed=3, noisy=True, training_steps=7000)
    [problem] = problems("local/maze2d", data={"training_steps": 10})
    assert problem.startswith("data.training_steps: ")
