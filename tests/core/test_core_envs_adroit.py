"""Adroit: D4RL's rewards from the simulator's own sites, pen's end, and human demonstrations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ractd_core.envs import adroit
from ractd_core.envs.adroit import Adroit
from ractd_core.envs.base import make_simulator
from ractd_core.tasks import get_task

DEMONSTRATIONS = Path(__file__).parents[2].parent / "shared" / "data" / "door-human-raw.hdf5"
Array = NDArray[np.float64]


def distance(data: Any, one: str, other: str) -> float:
    """Between two of the simulator's sites, or the body called Object, in metres."""
    positions = [
        data.body(name).xpos if name == "Object" else data.site(name).xpos for name in (one, other)
    ]
    return float(np.linalg.norm(positions[0] - positions[1]))


def hammer_reward(simulator: Any) -> float:
    """D4RL's ``hammer_v0.py``."""
    data = simulator.data
    nail = distance(data, "S_target", "nail_goal")
    reward = -0.1 * distance(data, "S_grasp", "Object") - distance(data, "tool", "S_target")
    reward += -10 * nail - 0.01 * float(np.linalg.norm(data.qvel))
    if data.body("Object").xpos[2] > 0.04 and data.site("tool").xpos[2] > 0.04:
        reward += 2
    return reward + 25 * (nail < 0.020) + 75 * (nail < 0.010)


def door_reward(simulator: Any) -> float:
    """D4RL's ``door_v0.py``."""
    data = simulator.data
    hinge = float(data.joint("door_hinge").qpos[0])
    reward = -0.1 * distance(data, "S_grasp", "S_handle") - 0.1 * (hinge - 1.57) ** 2
    reward -= 1e-5 * float(np.sum(data.qvel**2))
    return reward + 2 * (hinge > 0.2) + 8 * (hinge > 1.0) + 10 * (hinge > 1.35)


def relocate_reward(simulator: Any) -> float:
    """D4RL's ``relocate_v0.py``."""
    data = simulator.data
    reward = -0.1 * distance(data, "S_grasp", "Object")
    left = distance(data, "Object", "target")
    if data.body("Object").xpos[2] > 0.04:
        reward += 1 - 0.5 * distance(data, "S_grasp", "target") - 0.5 * left
    return reward + 10 * (left < 0.1) + 20 * (left < 0.05)


REWARDS = {"hammer": hammer_reward, "door": door_reward, "relocate": relocate_reward}


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_are_d4rls(name: str) -> None:
    env = Adroit(get_task(f"{name}-human-v1"))
    rng = np.random.default_rng(0)
    distances = []
    for seed in range(4):
        env.reset(seed=seed)
        for _ in range(40):
            _, reward, terminated, _, _ = env.step(rng.uniform(-1, 1, env.task.act_dim))
            assert reward == pytest.approx(REWARDS[name](env._simulator), abs=1e-9)
            assert not terminated
            other = "S_handle" if name == "door" else "Object"
            distances.append(distance(env._simulator.data, "S_grasp", other))
    # The wrong sign would be off by a fifth of these.
    assert min(distances) > 0.01
    assert np.ptp(distances) > 0.05
    env.close()


@pytest.fixture
def corrected_release(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation whose environments have the right sign, as later releases promise."""

    def corrected(env_id: str) -> Any:
        simulator = make_simulator(env_id)
        step = simulator.step

        def right(action: Array) -> Any:
            observation, reward, *rest = step(action)
            away = 0.2 * distance(simulator.data, "S_grasp", "S_handle")
            return observation, reward - away, *rest

        monkeypatch.setattr(simulator, "step", right)
        return simulator

    monkeypatch.setattr(adroit, "make_simulator", corrected)
    adroit._pays_for_distance.cache_clear()
    yield
    adroit._pays_for_distance.cache_clear()


@pytest.mark.usefixtures("corrected_release")
def test_a_release_with_the_right_sign_is_not_corrected_again() -> None:
    env = Adroit(get_task("door-cloned-v1"))
    env.reset(seed=0)
    for _ in range(20):
        reward = env.step(np.ones(28))[1]
        assert reward == pytest.approx(door_reward(env._simulator), abs=1e-9)
    env.close()


def test_measuring_the_sign_leaves_the_palm_where_it_was() -> None:
    env = Adroit(get_task("door-human-v1"))
    observation, _ = env.reset(seed=0)
    palm = env._simulator.data.site("S_grasp").xpos
    np.testing.assert_allclose(observation[29:32], palm)
    assert np.abs(palm).max() < 0.5
    env.close()


def test_a_dropped_pen_ends_the_episode() -> None:
    env = Adroit(get_task("pen-human-v1"))
    ended = []
    for drop in (0.0, 0.5):
        env.reset(seed=0)
        assert not env.step(np.zeros(24))[2]
        simulator = env._simulator
        positions = simulator.data.qpos.copy()
        # The pen lies turned: what its first joint calls x points downwards.
        positions[simulator.model.joint("OBJTx").qposadr[0]] += drop
        simulator.set_state(positions, np.zeros(simulator.model.nv))
        observation, reward, terminated, truncated, _ = env.step(np.zeros(24))
        height = simulator.data.body("Object").xpos[2]
        assert observation[26] == height
        assert terminated == (height < 0.075)
        # Dropping costs 5, which nothing makes up for.
        assert (reward < -3.5) == terminated
        assert not truncated
        ended.append(terminated)
    assert ended == [False, True]
    env.close()


class Demonstrations:
    """The 25 human door demonstrations that D4RL's door-human comes from, and how to replay them.

    The file has no simulator states. An observation lacks the arm's first joint and the door's
    place, which follow from where palm and handle are, and the velocities.
    """

    def __init__(self) -> None:
        with h5py.File(DEMONSTRATIONS) as file:
            self.observations, self.actions, self.rewards = (
                file[key][:].astype(np.float64) for key in ("observations", "actions", "rewards")
            )
            ends = np.flatnonzero(file["timeouts"][:]) + 1
        self.episodes = list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
        self.env = Adroit(get_task("door-human-v1"))

    def start(self, row: int) -> None:
        """Start an episode with the state of a row, at rest."""
        self.env.reset(seed=0)
        simulator = self.env._simulator
        simulator.set_state(self.positions(row), np.zeros(30))
        moved = self.observations[row, 32:35] - simulator.data.site("S_handle").xpos
        simulator.model.body("frame").pos += moved
        simulator.set_state(self.positions(row), np.zeros(30))
        np.testing.assert_allclose(simulator._get_obs(), self.observations[row], atol=1e-6)

    def positions(self, row: int) -> Array:
        """Joint positions (30,) of a row."""
        seen, simulator = self.observations[row], self.env._simulator
        positions = np.concatenate([[0.0], seen[:27], [seen[28], seen[27]]])
        simulator.set_state(positions, np.zeros(30))
        positions[0] = seen[30] - simulator.data.site("S_grasp").xpos[1]
        return positions

    def play(self, row: int) -> tuple[float, float]:
        """Reward of a row's action, and what it would be with the sign not corrected."""
        observation, reward, *_ = self.env.step(self.actions[row])
        return reward, reward + 0.2 * float(np.linalg.norm(observation[35:38]))


@pytest.fixture(scope="module")
def demonstrations() -> Demonstrations:
    if not DEMONSTRATIONS.exists():
        pytest.skip(f"no {DEMONSTRATIONS.name} in shared/data beside the repository")
    return Demonstrations()


def test_every_demonstrated_step_earns_what_was_recorded(demonstrations: Demonstrations) -> None:
    found, rows = [], []
    simulator = demonstrations.env._simulator
    for first, end in demonstrations.episodes:
        demonstrations.start(first)
        for row in range(first + 1, end, 3):
            before, now = demonstrations.positions(row - 1), demonstrations.positions(row)
            simulator.set_state(now, (now - before) / simulator.dt)
            found.append(demonstrations.play(row))
            rows.append(row)
    recorded = demonstrations.rewards[rows]
    corrected, uncorrected = np.array(found).T
    assert np.abs(corrected - recorded).max() < 0.005
    assert corrected.mean() == pytest.approx(recorded.mean(), rel=1e-4)
    assert uncorrected.mean() > 1.008 * recorded.mean()
    # All of the reward's steps are among them.
    assert recorded.min() < 0
    assert recorded.max() > 19


def test_whole_demonstrations_earn_about_what_was_recorded(demonstrations: Demonstrations) -> None:
    replayed, early = [], []
    for first, end in demonstrations.episodes:
        demonstrations.start(first)
        rewards = np.array([demonstrations.play(row)[0] for row in range(first, end)])
        replayed.append(rewards.sum())
        early.append(np.abs(rewards - demonstrations.rewards[first:end])[:50].max())
    assert len(replayed) == 25
    # Until the hand is at the handle, rewards agree step by step.
    assert max(early) < 0.005
    # Then contacts decide, and on another engine than the recording's two attempts of the 25 turn
    # out better by 294 and 136, which is 2 % of the mean.
    returns = [demonstrations.rewards[first:end].sum() for first, end in demonstrations.episodes]
    assert np.mean(returns) == pytest.approx(794.1, abs=0.1)
    assert np.mean(replayed) == pytest.approx(np.mean(returns), rel=0.025)
    assert np.median(np.abs(np.array(replayed) - returns)) < 4
