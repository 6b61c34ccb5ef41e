"""What every domain's environment promises: spaces, seeds, lengths, clipping, no files left."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from ractd_core.envs import AntMaze, D4RLEnv, Kitchen, Locomotion, Maze2d, make_env
from ractd_core.envs.adroit import Adroit
from ractd_core.tasks import all_tasks, get_task

TASKS = [
    "halfcheetah-medium-v2",
    "hopper-medium-v2",
    "walker2d-medium-v2",
    "maze2d-umaze-v1",
    "antmaze-umaze-v2",
    "antmaze-large-play-v2",
    "kitchen-mixed-v0",
    "pen-human-v1",
    "hammer-human-v1",
    "door-human-v1",
    "relocate-human-v1",
]
STEPS = 30


def episode(env: D4RLEnv, seed: int | None, actions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of observation, reward and terminated; the first one is the start."""
    rows = [np.array([*env.reset(seed=seed)[0], 0.0, 0.0])]
    for action in actions:
        observation, reward, terminated, *_ = env.step(action)
        rows.append(np.array([*observation, reward, terminated]))
    return np.array(rows)


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_fixes_the_episode_whatever_was_played_before(name: str) -> None:
    task = get_task(name)
    env = make_env(task)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (STEPS, task.act_dim))
    played = episode(env, 3, actions)
    assert np.isfinite(played).all()
    # Other seeds and violent actions move whatever the simulator keeps; so does going on unseeded.
    other = episode(env, 4, rng.choice([-1.0, 1.0], (2 * STEPS, task.act_dim)))
    episode(env, None, -actions[:7])
    np.testing.assert_array_equal(episode(env, 3, actions), played)
    fresh = make_env(task)
    np.testing.assert_array_equal(episode(fresh, 3, actions), played)
    assert not np.array_equal(other[0], played[0])
    assert not np.array_equal(episode(fresh, None, actions)[0], played[0])
    env.close()
    fresh.close()


@pytest.mark.parametrize("name", TASKS)
def test_observations_are_vectors_of_the_tasks_size_and_stay_as_they_were(name: str) -> None:
    task = get_task(name)
    env = make_env(task)
    start, _ = env.reset(seed=0)
    kept = start.copy()
    observation, reward, terminated, truncated, info = env.step(np.ones(task.act_dim))
    assert env.observation_space.shape == start.shape == observation.shape == (task.obs_dim,)
    assert start.dtype == observation.dtype == env.observation_space.dtype == np.float64
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (task.act_dim,), np.float64)
    assert [type(x) for x in (reward, terminated, truncated, info)] == [float, bool, bool, dict]
    np.testing.assert_array_equal(start, kept)
    assert not np.array_equal(observation, start)
    assert (env.goal is not None) == (task.domain in {"maze2d", "antmaze"})
    env.close()


@pytest.mark.parametrize("name", TASKS)
def test_actions_are_clipped_to_one(name: str) -> None:
    task = get_task(name)
    env = make_env(task)
    direction = np.random.default_rng(1).choice([-1.0, 1.0], (3, task.act_dim))
    unit = episode(env, 0, direction)
    np.testing.assert_array_equal(episode(env, 0, 7 * direction), unit)
    assert not np.array_equal(episode(env, 0, direction / 2)[-1], unit[-1])
    env.close()


@pytest.mark.parametrize("name", TASKS)
def test_episodes_are_truncated_at_the_tasks_length(name: str) -> None:
    task = get_task(name)
    env = make_env(task)
    for _ in range(2):
        env.reset(seed=0)
        for _ in range(task.max_episode_steps - 1):
            assert not env.step(np.zeros(task.act_dim))[3]
        assert env.step(np.zeros(task.act_dim))[3]
    env.close()


def test_lengths_are_d4rls() -> None:
    lengths = {name: task.max_episode_steps for name, task in all_tasks().items()}
    assert [lengths[name] for name in TASKS] == [
        *(1000, 1000, 1000, 300, 700, 1000, 280, 100, 200, 200, 200)
    ]


@pytest.mark.parametrize("name", ["maze2d-medium-v1", "antmaze-medium-play-v2"])
def test_mazes_leave_no_files_behind(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Gymnasium-Robotics writes each maze's model beside the system's temporary files.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = make_env(get_task(name))
    env.reset(seed=0)
    env.close()
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("env", [Locomotion, Maze2d, AntMaze, Kitchen, Adroit])
def test_tasks_of_another_domain_are_refused(env: type[D4RLEnv]) -> None:
    for name in TASKS:
        if get_task(name).domain != env.domain:
            with pytest.raises(ValueError, match=f"{name} is a .* task, not a {env.domain} one"):
                env(get_task(name))
