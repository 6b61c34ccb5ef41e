"""HalfCheetah, Hopper and Walker2d against Gymnasium's v4, which is what D4RL's v2 tasks use."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from ractd_core.envs import make_env
from ractd_core.tasks import get_task


@pytest.mark.filterwarnings("ignore:.*out of date.*:DeprecationWarning")
@pytest.mark.parametrize(("body", "act_dim"), [("HalfCheetah", 6), ("Hopper", 3), ("Walker2d", 6)])
def test_every_step_is_v4s(body: str, act_dim: int) -> None:
    env = make_env(get_task(f"{body.lower()}-medium-v2"))
    reference: Any = gym.make(f"{body}-v4").unwrapped
    rng = np.random.default_rng(0)
    falls = ended = 0
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation, reference.reset(seed=0)[0])
    for _ in range(1500):
        action = rng.uniform(-1, 1, act_dim)
        observation, reward, terminated, truncated, info = env.step(action)
        expected = reference.step(action)
        np.testing.assert_array_equal(observation, expected[0])
        assert reward == pytest.approx(expected[1], abs=1e-12)
        assert terminated == expected[2]
        if terminated:
            falls += 1
            # v5 alone pays no alive bonus here, so without the correction rewards would differ.
            assert info["reward_survive"] == 0
            assert reward == pytest.approx(1 + info["reward_forward"] + info["reward_ctrl"])
        if terminated or truncated:
            ended += 1
            observation, _ = env.reset(seed=ended)
            np.testing.assert_array_equal(observation, reference.reset(seed=ended)[0])
    assert (falls > 10) == (body != "HalfCheetah")
    assert ended >= 1
    env.close()
    reference.close()


def test_walkers_feet_have_v4s_friction() -> None:
    env = make_env(get_task("walker2d-medium-v2"))
    default: Any = gym.make("Walker2d-v5").unwrapped
    feet = [
        [float(simulator.model.geom(foot).friction[0]) for foot in ("foot_geom", "foot_left_geom")]
        for simulator in (env._simulator, default)
    ]
    assert feet == [[0.9, 1.9], [1.9, 1.9]]
    env.close()
    default.close()
