"""The task table against D4RL's published facts, the score, and what names may look like."""

from __future__ import annotations

import csv
from collections import Counter
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractd_core.tasks import TaskError, all_tasks, get_task, parse_dataset_name

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

# The released RACTD configurations: horizon and reward weight (arXiv 2506.07822, sigma).
RELEASED = {
    "halfcheetah-medium-v2": (16, 0.5),
    "halfcheetah-medium-expert-v2": (16, 0.0),
    "halfcheetah-medium-replay-v2": (16, 1.0),
    "hopper-medium-v2": (16, 1.0),
    "hopper-medium-expert-v2": (16, 0.5),
    "hopper-medium-replay-v2": (16, 1.0),
    "walker2d-medium-v2": (16, 0.4),
    "walker2d-medium-expert-v2": (16, 0.2),
    "walker2d-medium-replay-v2": (16, 0.5),
    "maze2d-umaze-v1": (128, 1e-4),
    "maze2d-medium-v1": (256, 1e-4),
    "maze2d-large-v1": (384, 1e-5),
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
        assert task.hdf5_url.endswith("/" + task.hdf5_file)


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


def test_the_papers_table_holds_the_released_settings() -> None:
    text = resources.files("ractd_core").joinpath("paper.csv").read_text(encoding="utf-8")
    rows = {row["task"]: row for row in csv.DictReader(text.splitlines())}
    found = {n: (int(row["horizon"]), float(row["reward_weight"])) for n, row in rows.items()}
    assert found == RELEASED
    for name, row in rows.items():
        assert get_task(name).name == name
        assert float(row["ctm_weight"]) == float(row["dsm_weight"]) == 1.0


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


def test_a_dataset_name_reads_back_as_it_was_written() -> None:
    for task in all_tasks().values():
        if task.domain == "maze2d":
            name = parse_dataset_name(f"local/{task.name}")
            assert (name.source, name.task, str(name)) == ("local", task, f"local/{task.name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maze2d-umaze-v1", "write 'local/maze2d-umaze-v1'"),
        ("maze2d-umase-v1", "did you mean maze2d-umaze-v1"),
        ("local/maze2d-umase-v1", "did you mean maze2d-umaze-v1"),
        ("local/", "unknown task ''"),
        ("", "unknown task ''"),
        ("/maze2d-umaze-v1", "unknown data source ''"),
        ("locl/maze2d-umaze-v1", "unknown data source 'locl'.*local"),
        ("local/maze2d-umaze-v1/x", "unknown task"),
        (" local/maze2d-umaze-v1", "unknown data source"),
    ],
)
def test_malformed_dataset_names_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        parse_dataset_name(text)


@pytest.mark.parametrize(
    "name", [name for name, task in all_tasks().items() if task.domain != "maze2d"]
)
def test_a_domain_of_a_later_release_says_so(name: str) -> None:
    assert not get_task(name).supported
    with pytest.raises(TaskError, match=f"{name} is in the task table.*later release.*maze2d"):
        parse_dataset_name(f"local/{name}")
