"""Kitchen: D4RL's observation, sub-tasks counted once each, and arms that really complete them."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest
from gymnasium_robotics.envs.franka_kitchen.kitchen_env import (
    OBS_ELEMENT_GOALS,
    OBS_ELEMENT_INDICES,
)
from numpy.typing import NDArray

from ractd_core.envs import Kitchen, completed_subtasks
from ractd_core.envs.kitchen import ELEMENTS, GOALS, SUBTASKS
from ractd_core.tasks import get_task

# Positions in metres of the hand that push the kettle away from the arm, and the slide door right.
KETTLE = [(-0.30, 0.12, 1.90), (-0.27, 0.15, 1.75), (-0.27, 0.36, 1.75)]
SLIDE = [
    *[(-0.27, 0.20, 1.80), (-0.25, 0.20, 2.10), (-0.25, 0.30, 2.40)],
    *[(-0.22, 0.55, 2.60), (-0.18, 0.62, 2.60), (0.10, 0.62, 2.60)],
]


@pytest.fixture(scope="module")
def env() -> Kitchen:
    return Kitchen(get_task("kitchen-complete-v0"))


def reach(simulator: Any, target: tuple[float, float, float]) -> NDArray[np.float64]:
    """The action (9,) that moves the hand towards ``target``, by damped least squares."""
    model, data = simulator.model, simulator.data
    hand = model.site("end_effector").id
    error = np.array(target) - data.site_xpos[hand]
    error *= min(1.0, 0.06 / float(np.linalg.norm(error)))
    jacobian = np.zeros((3, model.nv))
    mujoco.mj_jacSite(model, data, jacobian, None, hand)
    arm = jacobian[:, :7]
    joints = arm.T @ np.linalg.solve(arm @ arm.T + 1e-3 * np.eye(3), error)
    # A unit of action moves a joint's target by 0.16 rad; the fingers stay closed.
    return np.concatenate([np.clip(joints / 0.16, -1, 1), [-1.0, -1.0]])


def put(env: Kitchen, name: str) -> None:
    """Move a sub-task's objects to their goal state."""
    simulator = env._simulator.robot_env
    positions = simulator.data.qpos.copy()
    positions[ELEMENTS[name]] = GOALS[name]
    simulator.set_state(positions, np.zeros(29))


@pytest.mark.parametrize(
    ("name", "elements"),
    [
        ("kitchen-complete-v0", {17, 18, 19, 22, 23, 24, 25, 26, 27, 28, 29}),
        ("kitchen-partial-v0", {17, 18, 19, 22, 23, 24, 25, 26, 27, 28, 29}),
        ("kitchen-mixed-v0", {11, 12, 17, 18, 22, 23, 24, 25, 26, 27, 28, 29}),
    ],
)
def test_the_vector_is_noisy_positions_and_the_subtasks_goals(
    name: str, elements: set[int]
) -> None:
    env = Kitchen(get_task(name))
    errors = []
    for seed in range(40):
        observation, _ = env.reset(seed=seed)
        for _ in range(2):
            errors.append(observation[:30] - env._simulator.data.qpos)
            goal = observation[30:]
            # The kettle's goal has two zeros.
            assert set(np.flatnonzero(goal)) == elements - {27, 28}
            for subtask in SUBTASKS[name]:
                np.testing.assert_array_equal(goal[ELEMENTS[subtask]], GOALS[subtask])
            observation = env.step(np.random.default_rng(seed).uniform(-1, 1, 9))[0]
    # A tenth of the noise amplitudes in D4RL's franka_config.xml, drawn uniformly.
    amplitudes = np.repeat(
        [0.1, 0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [9, 2, 6, 3, 3, 3, 3, 1]
    )
    sizes = np.abs(errors).max(0)
    assert (sizes <= 0.1 * amplitudes + 1e-12).all()
    assert (sizes > 0.08 * amplitudes).all()
    correlation = np.corrcoef(np.array(errors)[:, 0], np.array(errors)[:, 9])[0, 1]
    assert abs(correlation) < 0.4
    env.close()


def test_goals_are_gymnasiums(env: Kitchen) -> None:
    for name, indices in ELEMENTS.items():
        np.testing.assert_array_equal(np.arange(30)[indices], OBS_ELEMENT_INDICES[name])
        np.testing.assert_array_equal(GOALS[name], OBS_ELEMENT_GOALS[name])


def test_an_arm_that_pushes_kettle_and_door_is_paid_once_for_each(env: Kitchen) -> None:
    env.reset(seed=0)
    paid = {}
    step = 0
    for target in KETTLE + SLIDE:
        for _ in range(40):
            observation, reward, terminated, truncated, info = env.step(
                reach(env._simulator, target)
            )
            assert not terminated
            assert not truncated
            assert reward in {0.0, 1.0}
            step += 1
            if reward:
                paid[step] = info["completed"]
            hand = env._simulator.data.site("end_effector").xpos
            if np.linalg.norm(hand - target) < 0.03:
                break
    assert list(paid.values()) == [["kettle"], ["kettle", "slide cabinet"]]
    assert step > max(paid) + 5
    # Gymnasium-Robotics, whose list is alive until the next reset, counts alike.
    assert set(env._simulator.episode_task_completions) == {"kettle", "slide cabinet"}
    assert completed_subtasks(observation, env.subtasks).tolist() == [False, True, False, True]
    # Nothing of it is left in the next episode.
    env.reset(seed=0)
    assert env.step(np.zeros(9))[4] == {"completed": []}


@pytest.mark.parametrize("name", ["kitchen-complete-v0", "kitchen-mixed-v0"])
def test_the_episode_ends_when_all_four_are_done(name: str) -> None:
    # Objects are put in place: what is tested is the count, not the arm.
    env = Kitchen(get_task(name))
    start, _ = env.reset(seed=0)
    assert not completed_subtasks(start, env.subtasks).any()
    total = 0.0
    for count, subtask in enumerate(env.subtasks, start=1):
        put(env, subtask)
        for repeat in range(2):
            if total == 4:
                break
            _, reward, terminated, _, info = env.step(np.zeros(9))
            assert reward == (repeat == 0)
            total += reward
            assert terminated == (count == 4)
            assert info["completed"] == [s for s in env.subtasks if s in env.subtasks[:count]]
    assert total == 4
    # A sub-task that is undone and done again is not paid twice.
    env.reset(seed=1)
    put(env, "microwave")
    assert env.step(np.zeros(9))[1] == 1
    positions = env._simulator.data.qpos.copy()
    positions[22] = 0.0
    env._simulator.robot_env.set_state(positions, np.zeros(29))
    observation, reward, *_ = env.step(np.zeros(9))
    assert reward == 0
    assert not completed_subtasks(observation, ["microwave"]).any()
    put(env, "microwave")
    observation, reward, *_ = env.step(np.zeros(9))
    assert reward == 0
    assert completed_subtasks(observation, ["microwave"]).all()
    env.close()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_subtasks_in_rows_of_data(dtype: type[np.floating[Any]]) -> None:
    rows = np.zeros((6, 60), dtype=dtype)
    rows[1, 22] = -0.75
    rows[2, 22] = -0.46  # 0.29 away
    rows[3, 22] = -0.44  # 0.31 away
    rows[4, 23:30] = GOALS["kettle"]
    rows[4, 17:19] = GOALS["light switch"]
    rows[5, 30:] = 1.0  # the goal's half does not count
    subtasks = SUBTASKS["kitchen-mixed-v0"]
    assert subtasks == ("microwave", "kettle", "bottom burner", "light switch")
    done = completed_subtasks(rows, subtasks)
    assert done.dtype == np.bool_
    assert np.argwhere(done).tolist() == [[1, 0], [2, 0], [4, 1], [4, 3]]
    # The distance is taken over all of a sub-task's positions together.
    rows[4, 23:26] += 0.2
    assert not completed_subtasks(rows, subtasks)[4, 1]
    assert completed_subtasks(rows[4], subtasks).shape == (4,)
    with pytest.raises(KeyError, match="toaster"):
        completed_subtasks(rows, ["toaster"])
