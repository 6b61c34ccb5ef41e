"""Minari's datasets as the tasks' vectors, whatever their layout, and what is said of bad ones."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.minari_io import (
    check_minari_id,
    datasets_root,
    read_metadata,
    read_minari,
    with_root,
)
from ractd_core.data.store import is_present, load
from ractd_core.envs import Maze2d
from ractd_core.tasks import DatasetName, get_task, parse_dataset_name
from tests.core.sources import (
    Episodes,
    change_metadata,
    env_spec,
    minari_episodes,
    store_minari,
)

# One of every layout, with the width of its observation: v4 and v5 ants differ.
LAYOUTS = [
    ("hopper-medium-v2", 11),
    ("maze2d-umaze-v1", 4),
    ("maze2d-large-dense-v1", 4),
    ("antmaze-umaze-v2", 105),
    ("antmaze-large-diverse-v2", 27),
    ("kitchen-complete-v0", 59),
    ("kitchen-mixed-v0", 59),
    ("relocate-human-v1", 39),
]


def stored(
    task_name: str, width: int | None = None, data_format: str = "hdf5", minari_id: str = ""
) -> tuple[DatasetName, Episodes, Path]:
    """A dataset under this test's root: its name, its episodes and its files."""
    name = parse_dataset_name(f"minari/{task_name}")
    episodes = minari_episodes(task_name, width=width)
    data = store_minari(
        datasets_root(), minari_id or name.minari_id, episodes, name.task.act_dim, data_format
    )
    return name, episodes, data


def assert_laid_out(data: FlatDataset, episodes: Episodes) -> None:
    lengths = [len(actions) for actions in episodes.actions]
    assert data.bounds.tolist() == np.cumsum([0, *(length + 1 for length in lengths)]).tolist()
    assert data.terminated.tolist() == episodes.terminated
    for index, (states, actions) in enumerate(zip(episodes.states, episodes.actions, strict=True)):
        first, end = data.bounds[index : index + 2]
        np.testing.assert_array_equal(data.observations[first:end], states.astype(np.float32))
        np.testing.assert_array_equal(data.actions[first : end - 1], actions)
        assert not data.actions[end - 1].any()
        assert data.rewards[end - 1] == 0


def test_actions_beyond_the_bounds_are_clipped_as_the_environment_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, episodes, data = stored("relocate-human-v1")
    with h5py.File(data / "main_data.hdf5", "a") as file:
        actions = file["episode_0/actions"]
        actions[0, 0], actions[1, 1] = 1.366, -1.0005
    with caplog.at_level("WARNING"):
        read = read_minari(name, name.minari_id)
    assert read.actions[0, 0] == 1
    assert read.actions[1, 1] == -1
    np.testing.assert_array_equal(
        read.actions[2 : len(episodes.actions[0])], episodes.actions[0][2:]
    )
    # One is a rounding error.
    assert "1 action values beyond [-1, 1]" in caplog.text


@pytest.mark.parametrize(("task_name", "width"), LAYOUTS)
def test_every_layout_becomes_the_tasks_vectors(task_name: str, width: int) -> None:
    name, episodes, _ = stored(task_name, width)
    data = read_minari(name, name.minari_id)
    assert_laid_out(data, episodes)
    assert data.observations.shape[1] == name.task.obs_dim
    if name.task.domain != "maze2d":
        paid = np.concatenate([np.append(rewards, 0) for rewards in episodes.rewards])
        np.testing.assert_array_equal(data.rewards, paid.astype(np.float32))
    assert load(name).fingerprint == data.fingerprint


@pytest.mark.parametrize(("task_name", "width"), LAYOUTS)
@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_the_file_format_makes_no_difference(task_name: str, width: int, data_format: str) -> None:
    name, episodes, _ = stored(task_name, width)
    other = f"mine/{data_format}-v0"
    store_minari(datasets_root(), other, episodes, name.task.act_dim, data_format)
    assert read_minari(name, other).fingerprint == read_minari(name, name.minari_id).fingerprint


@pytest.mark.parametrize("task_name", ["maze2d-umaze-v1", "maze2d-large-dense-v1"])
def test_mazes_are_paid_for_the_tasks_goal_in_the_state_before_the_step(task_name: str) -> None:
    name = parse_dataset_name(f"minari/{task_name}")
    maze = Maze2d(name.task)
    episodes = minari_episodes(task_name)
    for states, buffer in zip(episodes.states, episodes.buffers, strict=True):
        # The states are views of the buffers' own: some start at the goal.
        states[1:3, :2] = maze.goal + 0.2
        np.testing.assert_array_equal(buffer.observations["observation"], states)
    store_minari(datasets_root(), name.minari_id, episodes, 2)
    data = read_minari(name, name.minari_id)
    for first, end, states in zip(data.bounds[:-1], data.bounds[1:], episodes.states, strict=True):
        paid = maze.reward(states[:-1])
        np.testing.assert_array_equal(data.rewards[first : end - 1], paid.astype(np.float32))
        assert data.rewards[end - 1] == 0
    if "dense" not in task_name:
        assert sorted(np.unique(data.rewards)) == [0, 1]
    maze.close()


def test_flat_maze_data_of_ones_own_keep_their_rewards() -> None:
    episodes = minari_episodes("hopper-medium-v2")
    name = parse_dataset_name("mylab/hopper-medium-v2")
    store_minari(datasets_root(), "mine/hopper-v0", episodes, 3)
    data = read_minari(name, "mine/hopper-v0")
    paid = np.concatenate([np.append(rewards, 0) for rewards in episodes.rewards])
    np.testing.assert_array_equal(data.rewards, paid.astype(np.float32))


@pytest.mark.parametrize(
    ("task_name", "env_id", "like"),
    [
        ("hopper-medium-v2", "Hopper-v4", "Hopper-v5"),
        ("antmaze-umaze-v2", "AntMaze_UMaze-v4", "AntMaze_UMaze-v5"),
        # What Minari's own diverse datasets were collected in.
        ("antmaze-medium-diverse-v2", "AntMaze_Medium_Diverse_GR-v4", "AntMaze_Medium-v5"),
        ("antmaze-large-diverse-v2", "AntMaze_Large_Diverse_GR-v4", "AntMaze_Large-v5"),
        ("maze2d-umaze-v1", "PointMaze_UMaze-v3", "PointMaze_UMaze-v3"),
        ("maze2d-umaze-dense-v1", "PointMaze_UMazeDense-v3", "PointMaze_UMazeDense-v3"),
    ],
)
def test_the_tasks_environment_in_another_version_is_accepted(
    task_name: str, env_id: str, like: str
) -> None:
    name, _, data = stored(task_name)
    change_metadata(data, env_spec=env_spec(env_id, like))
    assert read_minari(name, name.minari_id).episodes == 3


@pytest.mark.parametrize(
    ("task_name", "env_id", "like"),
    [
        ("hopper-medium-v2", "Walker2d-v5", "Walker2d-v5"),
        ("hopper-medium-v2", "HopperX-v5", "Hopper-v5"),
        ("antmaze-umaze-v2", "AntMaze_Medium-v4", "AntMaze_Medium-v5"),
        ("antmaze-medium-play-v2", "AntMaze_Large_Diverse_GR-v4", "AntMaze_Large-v5"),
        ("maze2d-umaze-v1", "PointMaze_UMazeDense-v3", "PointMaze_UMazeDense-v3"),
        ("maze2d-umaze-v1", "AntMaze_UMaze-v5", "AntMaze_UMaze-v5"),
    ],
)
def test_data_of_another_environment_are_refused(task_name: str, env_id: str, like: str) -> None:
    name, _, data = stored(task_name)
    change_metadata(data, env_spec=env_spec(env_id, like))
    with pytest.raises(DataError, match=f"was collected in {env_id}, but {task_name}") as caught:
        read_minari(name, name.minari_id)
    assert name.task.env_id in str(caught.value)
    assert str(data.parent) in str(caught.value)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def five_bytes_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def text(path: Path) -> None:
    path.write_text("<!doctype html>")


@pytest.mark.parametrize("damage", [half, five_bytes_off, empty, text, Path.unlink])
def test_a_damaged_file_of_data_is_named(damage: Any) -> None:
    name, _, data = stored("hopper-medium-v2")
    damage(data / "main_data.hdf5")
    message = refusal(name)
    assert str(data.parent) in message
    assert "cannot be read as a Minari dataset" in message
    assert "delete it and get the dataset again" in message


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
@pytest.mark.parametrize("damage", [half, empty, text, Path.unlink])
def test_damaged_files_of_other_formats_are_named(data_format: str, damage: Any) -> None:
    name, _, data = stored("hopper-medium-v2", data_format=data_format)
    for file in data.rglob("*"):
        if file.is_file() and file.suffix != ".json":
            damage(file)
    assert str(data.parent) in refusal(name)


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_an_episode_that_is_missing_is_noticed(data_format: str) -> None:
    name, _, data = stored("hopper-medium-v2", data_format=data_format)
    (folder,) = data.glob("*1")
    for file in folder.iterdir():
        file.unlink()
    message = refusal(name)
    assert str(data.parent) in message
    assert "2 of 3 episodes are there" in message


def refusal(name: DatasetName) -> str:
    with pytest.raises(DataError) as caught:
        read_minari(name, name.minari_id)
    return str(caught.value)


@pytest.mark.parametrize("damage", [half, empty, text])
def test_damaged_metadata_are_named(damage: Any) -> None:
    name, _, data = stored("hopper-medium-v2")
    damage(data / "metadata.json")
    message = refusal(name)
    assert f"{data / 'metadata.json'} cannot be read" in message
    assert f"delete {data.parent}" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"env_spec": "{"},
        {"env_spec": "[]"},
        {"env_spec": '{"id": 7}'},
        {"total_episodes": None},
        {"total_episodes": "many"},
        {"total_episodes": 4},
        {"data_format": "clay"},
        {"data_format": None},
        {"data_format": "arrow"},
    ],
)
def test_metadata_that_do_not_fit_the_data_are_named(changes: dict[str, Any]) -> None:
    name, _, data = stored("hopper-medium-v2")
    change_metadata(data, **changes)
    assert str(data.parent) in refusal(name)


def test_metadata_that_are_no_object_are_named() -> None:
    name, _, data = stored("hopper-medium-v2")
    (data / "metadata.json").write_text("[]")
    assert "does not hold a JSON object" in refusal(name)


@pytest.mark.parametrize("count", [0, -1])
def test_a_dataset_without_episodes_is_named(count: int) -> None:
    name, _, data = stored("hopper-medium-v2")
    change_metadata(data, total_episodes=count)
    message = refusal(name)
    assert f"{data.parent} holds no episodes" in message
    assert "get the dataset again" in message


def replaced(data: Path, key: str, values: Any) -> None:
    """Store other values for the second episode; Minari itself does not check."""
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file[f"episode_1/{key}"]
        file[f"episode_1/{key}"] = values


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("observations", np.zeros((8, 10))),
        ("observations", np.zeros((7, 11))),
        ("actions", np.zeros((7, 4))),
        ("actions", np.zeros((6, 3))),
        ("actions", np.zeros(7)),
        ("rewards", np.zeros(6)),
        ("rewards", np.zeros(0)),
    ],
)
def test_an_episode_of_another_shape_is_named(key: str, values: Any) -> None:
    name, _, data = stored("hopper-medium-v2")
    replaced(data, key, values)
    message = refusal(name)
    assert f"{data.parent}: episode 1 has" in message
    assert "expected" in message
    assert "is it a dataset for hopper-medium-v2?" in message


def test_values_that_are_not_finite_are_refused() -> None:
    name, _, data = stored("hopper-medium-v2")
    replaced(data, "observations", np.full((8, 11), np.nan))
    message = refusal(name)
    assert str(data.parent) in message
    assert "observations holds values that are not finite" in message
    assert "get the dataset again" in message


@pytest.mark.parametrize(
    ("task_name", "minari_id"),
    [
        ("hopper-medium-v2", "D4RL/kitchen/complete-v2"),
        ("kitchen-mixed-v0", "D4RL/kitchen/complete-v2"),
        ("antmaze-umaze-v2", "D4RL/pointmaze/umaze-v2"),
        ("kitchen-complete-v0", "D4RL/pointmaze/umaze-v2"),
        ("maze2d-umaze-v1", "D4RL/antmaze/umaze-v2"),
    ],
)
def test_dicts_of_another_domain_are_refused(task_name: str, minari_id: str) -> None:
    (other,) = [
        name
        for name in ("kitchen-complete-v0", "maze2d-umaze-v1", "antmaze-umaze-v2")
        if get_task(name).minari_id == minari_id
    ]
    stored(other)
    with pytest.raises(DataError, match=re.escape(str(datasets_root() / minari_id))):
        read_minari(parse_dataset_name(f"mylab/{task_name}"), minari_id)


@pytest.mark.parametrize(
    ("minari_id", "found"),
    [
        ("mine/hopper", "has no version; write it as mine/hopper-v0"),
        ("hopper", "has no version"),
        ("../../x-v0", "neither a file nor a Minari id"),
        ("/etc/x-v0", "neither"),
        ("mine/../../x-v0", "neither"),
        ("~/x-v0", "neither"),
        ("m/x-v0", "neither"),
        ("mine/x-v0\n", "neither"),
        ("hf://farama-minari/D4RL/door/human-v2", "neither"),
        ("", "neither"),
    ],
)
def test_ids_that_are_none_never_reach_the_disk(minari_id: str, found: str) -> None:
    with pytest.raises(DataError, match=re.escape(found)):
        check_minari_id(minari_id)
    with pytest.raises(DataError, match=re.escape(found)):
        read_minari(parse_dataset_name("mylab/hopper-medium-v2"), minari_id)


def test_an_absent_dataset_is_named_with_its_root() -> None:
    for call in (
        lambda: read_metadata("mine/absent-v0"),
        lambda: read_minari(parse_dataset_name("mylab/hopper-medium-v2"), "mine/absent-v0"),
    ):
        with pytest.raises(DataError, match="no Minari dataset mine/absent-v0") as caught:
            call()
        assert str(datasets_root()) in str(caught.value)


def test_a_half_downloaded_dataset_is_not_there() -> None:
    name, _, data = stored("hopper-medium-v2")
    assert is_present(name)
    (data / "metadata.json").unlink()
    assert not is_present(name)


def test_minaris_root_comes_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        assert os.environ["MINARI_DATASETS_PATH"] == "/elsewhere"
        raise ValueError("on purpose")

    before = os.environ["MINARI_DATASETS_PATH"]
    with pytest.raises(ValueError, match="on purpose"):
        with_root(Path("/elsewhere"), fail)
    assert os.environ["MINARI_DATASETS_PATH"] == before
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    assert with_root(Path("/elsewhere"), lambda: datasets_root()) == Path("/elsewhere")
    assert "MINARI_DATASETS_PATH" not in os.environ
