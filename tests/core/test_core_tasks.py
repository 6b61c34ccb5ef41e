"""The task table against D4RL's published facts, the score, and what names may look like."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractd_core.tasks import (
    TaskError,
    all_domains,
    all_tasks,
    check_source,
    expand_datasets,
    find_tasks,
    get_task,
    parse_dataset_name,
    task_groups,
)

# D4RL's infos.py: random return, expert return, evaluation steps, observation and action sizes.
PUBLISHED = {
    "halfcheetah-medium-v2": (-280.178953, 12135.0, 1000, 17, 6),
    "hopper-medium-replay-v2": (-20.272305, 3234.3, 1000, 11, 3),
    "walker2d-expert-v2": (1.629008, 4592.3, 1000, 17, 6),
    "maze2d-umaze-v1": (23.85, 161.86, 300, 4, 2),
    "maze2d-umaze-dense-v1": (68.537689, 193.66285642381482, 300, 4, 2),
    "maze2d-medium-v1": (13.13, 277.39, 600, 4, 2),
    "maze2d-medium-dense-v1": (44.264742, 297.4552547777125, 600, 4, 2),
    "maze2d-large-v1": (6.7, 273.99, 800, 4, 2),
    "maze2d-large-dense-v1": (30.569041, 303.4857382709002, 800, 4, 2),
    "antmaze-umaze-v2": (0.0, 1.0, 700, 29, 8),
    "antmaze-large-play-v2": (0.0, 1.0, 1000, 29, 8),
    "kitchen-mixed-v0": (0.0, 4.0, 280, 60, 9),
    "pen-cloned-v1": (96.262799, 3076.8331017826877, 100, 45, 24),
    "hammer-human-v1": (-274.856578, 12794.134825156867, 200, 46, 26),
    "door-expert-v1": (-56.512833, 2880.5693087298737, 200, 39, 28),
    "relocate-human-v1": (-6.425911, 4233.877797728884, 200, 39, 30),
}


def test_the_table_has_d4rls_42_tasks() -> None:
    assert len(all_tasks()) == 42
    assert Counter(task.domain for task in all_tasks().values()) == {
        "mujoco": 15,
        "maze2d": 6,
        "antmaze": 6,
        "kitchen": 3,
        "adroit": 12,
    }
    for name, task in all_tasks().items():
        assert task.name == name
        assert task.hdf5_url.startswith("http://rail.eecs.berkeley.edu/datasets/offline_rl/")
        assert task.hdf5_url.endswith("/" + task.hdf5_file)
    assert len({task.hdf5_url for task in all_tasks().values()}) == 42


def test_every_domain_says_how_it_is_played_and_licensed() -> None:
    assert set(all_domains()) == {task.domain for task in all_tasks().values()}
    for task in all_tasks().values():
        assert "CC BY 4.0" in task.data_licence
        assert str(task.max_episode_steps) in task.protocol
    assert "Apache-2.0" in get_task("pen-human-v1").data_licence
    generated = {task.domain for task in all_tasks().values() if task.generated}
    assert generated == {"mujoco", "maze2d"}


def test_published_files_have_the_published_number_of_rows() -> None:
    rows = {name: task.hdf5_rows for name, task in all_tasks().items()}
    assert [rows[f"{body}-medium-replay-v2"] for body in ("halfcheetah", "hopper", "walker2d")] == [
        202_000,
        402_000,
        302_000,
    ]
    assert [rows[f"maze2d-{size}-v1"] for size in ("umaze", "medium", "large")] == [
        1_000_000,
        2_000_000,
        4_000_000,
    ]
    assert rows["hopper-medium-expert-v2"] == 1_999_906
    assert rows["kitchen-complete-v0"] == 3_680
    assert rows["door-human-v1"] == 6_729
    assert {rows[name] for name in rows if name.startswith("antmaze")} == {1_000_000}


def test_minari_has_a_dataset_for_all_but_random_replay_and_mixed_gym_tasks() -> None:
    without = {name for name, task in all_tasks().items() if not task.minari_id}
    assert without == {
        f"{body}-{level}-v2"
        for body in ("halfcheetah", "hopper", "walker2d")
        for level in ("random", "medium-replay", "medium-expert")
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_rows_hold_the_published_facts(name: str) -> None:
    task = get_task(name)
    assert (
        task.ref_min,
        task.ref_max,
        task.max_episode_steps,
        task.obs_dim,
        task.act_dim,
    ) == PUBLISHED[name]


def test_references_are_per_environment_not_per_level() -> None:
    for task in all_tasks().values():
        twins = [other for other in all_tasks().values() if other.env_id == task.env_id]
        assert {(twin.ref_min, twin.ref_max) for twin in twins} == {(task.ref_min, task.ref_max)}


def test_random_scores_0_and_the_expert_100_on_every_task() -> None:
    for task in all_tasks().values():
        scores = task.normalized_score([task.ref_min, task.ref_max])
        np.testing.assert_allclose(scores, [0, 100], atol=1e-12)


def test_the_waypoint_controllers_published_scores() -> None:
    # 216, 421 and 547 raw are 139, 154 and 202 normalized.
    pairs = {"umaze": (216, 139), "medium": (421, 154), "large": (547, 202)}
    for size, (raw, score) in pairs.items():
        assert float(get_task(f"maze2d-{size}-v1").normalized_score(raw)) == pytest.approx(
            score, abs=0.5
        )


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=12))
def test_the_score_is_affine_and_keeps_the_shape(returns: list[float]) -> None:
    task = get_task("hopper-medium-v2")
    grid = np.array(returns).reshape(1, -1)
    scores = task.normalized_score(grid)
    assert scores.shape == grid.shape
    back = task.ref_min + scores / 100 * (3234.3 + 20.272305)
    np.testing.assert_allclose(back, grid, atol=1e-8)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("maze2d-umase-v1", "maze2d-umaze-v1"),
        ("hopper-medium-v0", "hopper-medium-v2"),
        ("hoper-medium-replay-v2", "hopper-medium-replay-v2"),
    ],
)
def test_an_unknown_task_names_near_ones(wrong: str, meant: str) -> None:
    with pytest.raises(TaskError, match="did you mean") as caught:
        get_task(wrong)
    assert wrong in str(caught.value)
    assert meant in str(caught.value)


def test_a_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(TaskError, match="`ractd tasks` lists all"):
        get_task("###")


@pytest.mark.parametrize("source", ["d4rl", "local", "minari", "mylab", "my-lab-2", "2x"])
def test_a_dataset_name_reads_back_as_it_was_written(source: str) -> None:
    for task in all_tasks().values():
        if source == "minari" and not task.minari_id:
            continue
        name = parse_dataset_name(f"{source}/{task.name}")
        assert (name.source, name.task, str(name)) == (source, task, f"{source}/{task.name}")
        assert name.minari_id == (task.minari_id if source == "minari" else str(name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maze2d-umaze-v1", "names a task but not where its data come from.*local/maze2d-umaze-v1"),
        ("maze2d-umase-v1", "did you mean maze2d-umaze-v1"),
        ("local/maze2d-umase-v1", "did you mean maze2d-umaze-v1"),
        ("local/", "unknown task ''"),
        ("", "unknown task ''"),
        ("/maze2d-umaze-v1", "'' cannot name a data source"),
        ("local/maze2d-umaze-v1/x", "unknown task"),
        ("local//maze2d-umaze-v1", "unknown task"),
        ("minari/hopper-random-v2", "Minari has no dataset for hopper-random-v2.*d4rl/hopper"),
    ],
)
def test_malformed_dataset_names_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        parse_dataset_name(text)


@pytest.mark.parametrize(
    "label",
    [
        "",
        "a",
        "A/b",
        "../x",
        "..",
        ".",
        "Local",
        "my_lab",
        "-x",
        "x y",
        " local",
        "é1",
        "ab\n",
        "~x",
    ],
)
def test_a_label_that_could_be_a_path_or_a_typo_is_no_source(label: str) -> None:
    with pytest.raises(TaskError, match="two or more of a-z, 0-9 and -"):
        check_source(label)
    with pytest.raises(TaskError):
        parse_dataset_name(f"{label}/hopper-medium-v2")


def test_only_d4rls_own_antmaze_files_are_refused() -> None:
    for task in all_tasks().values():
        sources = ("d4rl", "local", "mylab", *(("minari",) if task.minari_id else ()))
        for source in sources:
            refusal = parse_dataset_name(f"{source}/{task.name}").refusal
            assert (refusal is not None) == (source == "d4rl" and task.domain == "antmaze")
            if refusal:
                assert f"use minari/{task.name}" in refusal


def test_groups_are_the_domains_the_papers_nine_and_all() -> None:
    sizes = {name: len(tasks) for name, tasks in task_groups().items()}
    assert sizes == {
        "adroit": 12,
        "antmaze": 6,
        "gym-mujoco": 15,
        "gym-mujoco-9": 9,
        "kitchen": 3,
        "maze2d": 6,
        "all": 42,
    }
    assert {task.name for task in find_tasks("gym-mujoco-9")} == {
        f"{robot}-{quality}-v2"
        for robot in ("halfcheetah", "hopper", "walker2d")
        for quality in ("medium", "medium-replay", "medium-expert")
    }
    for name in ("adroit", "antmaze", "kitchen", "maze2d"):
        assert {task.domain for task in find_tasks(name)} == {name}
    assert not set(task_groups()) & set(all_tasks())


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("kitchen-mixed-v0", ["kitchen-mixed-v0"]),
        ("pen-*", ["pen-human-v1", "pen-cloned-v1", "pen-expert-v1"]),
        ("maze2d-umaze*-v1", ["maze2d-umaze-v1", "maze2d-umaze-dense-v1"]),
        ("*-[hw]uman-v?", [f"{tool}-human-v1" for tool in ("pen", "hammer", "door", "relocate")]),
    ],
)
def test_globs_find_tasks_in_the_tables_order(pattern: str, names: list[str]) -> None:
    assert [task.name for task in find_tasks(pattern)] == names
    assert [str(name) for name in expand_datasets(f"mylab/{pattern}")] == [
        f"mylab/{name}" for name in names
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d4rl/gym-mujoko-9", "unknown task or group 'gym-mujoko-9'; did you mean gym-mujoco-9"),
        ("d4rl/mujoco", "did you mean gym-mujoco"),
        ("d4rl/maze2d-umase-v1", "unknown task .*did you mean maze2d-umaze-v1"),
        ("d4rl/###", "`ractd tasks` lists all"),
        ("d4rl/zz*", "no task or group matches 'zz[*]'; groups: "),
        ("d4rl/[", "no task or group matches"),
        ("d4rl/../x", "unknown task or group '../x'"),
        ("A/gym-mujoco-9", "'A' cannot name a data source"),
        ("../hopper-*", "'..' cannot name a data source"),
        ("gym-mujoco-9", "unknown task 'gym-mujoco-9'"),
        ("minari/gym-mujoco-9", "Minari has no dataset for halfcheetah-medium-replay-v2"),
    ],
)
def test_what_expands_to_nothing_says_what_is_near(text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        expand_datasets(text)


def test_groups_of_datasets_expand_and_single_ones_stay() -> None:
    assert len(expand_datasets("d4rl/gym-mujoco-9")) == 9
    assert [str(name) for name in expand_datasets("minari/kitchen")] == [
        "minari/kitchen-complete-v0",
        "minari/kitchen-partial-v0",
        "minari/kitchen-mixed-v0",
    ]
    assert expand_datasets("local/hopper-medium-v2") == (
        parse_dataset_name("local/hopper-medium-v2"),
    )
