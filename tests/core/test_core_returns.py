"""n-step returns against loops over single rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ractd_core.data.flat import FlatDataset, returns_to_go
from ractd_core.data.returns import n_step_returns

Build = Callable[..., FlatDataset]
Episodes = list[tuple[int, bool]]

_EPISODES = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=5)
_STEPS = st.integers(1, 12)
_DISCOUNT = st.floats(0.05, 0.999)
_PENALTY = st.sampled_from([0.0, 3.0])


def build(flat: Build, episodes: Episodes, seed: int) -> FlatDataset:
    lengths, terminated = zip(*episodes, strict=True)
    return flat(list(lengths), terminated=list(terminated), seed=seed)


@given(_EPISODES, _STEPS, _DISCOUNT, _PENALTY, st.integers(0, 99))
def test_every_row_is_what_a_walk_through_its_episode_finds(
    flat: Build, episodes: Episodes, steps: int, discount: float, penalty: float, seed: int
) -> None:
    data = build(flat, episodes, seed)
    found = n_step_returns(data, steps, discount, penalty)
    for episode, (length, terminated) in enumerate(episodes):
        first = int(data.bounds[episode])
        for at in range(length + 1):
            total, factor, now = 0.0, 1.0, at
            while now < length and now - at < steps:
                total += factor * float(data.rewards[first + now])
                if terminated and now == length - 1:
                    total -= factor * penalty
                factor *= discount
                now += 1
            row = first + at
            assert found.later[row] == first + now
            np.testing.assert_allclose(found.rewards[row], total, atol=1e-5)
            counts = 0.0 if terminated and now == length else factor
            np.testing.assert_allclose(found.discount[row], counts, atol=1e-12)


@given(_EPISODES, _STEPS, _DISCOUNT, _PENALTY, st.sampled_from(["zero", "hold"]))
def test_no_action_has_an_advantage_over_what_it_led_to(
    flat: Build, episodes: Episodes, steps: int, discount: float, penalty: float, truncation: str
) -> None:
    """With V the return-to-go itself, A = 0, however an episode that was cut is credited."""
    data = build(flat, episodes, seed=3)
    found = n_step_returns(data, steps, discount, penalty)
    value = returns_to_go(data, discount, truncation, penalty).astype(np.float64)
    advantage = found.rewards + found.discount * value[found.later] - value
    np.testing.assert_allclose(advantage, 0, atol=1e-5 * max(1.0, float(np.abs(value).max())))


@given(_EPISODES, _DISCOUNT, _PENALTY)
def test_many_steps_are_the_whole_return(
    flat: Build, episodes: Episodes, discount: float, penalty: float
) -> None:
    data = build(flat, episodes, seed=5)
    found = n_step_returns(data, 1000, discount, penalty)
    np.testing.assert_array_equal(found.later, data.last_rows)
    whole = returns_to_go(data, discount, "zero", penalty)
    np.testing.assert_allclose(found.rewards, whole, atol=1e-6)
    # A final state that ended by time may still be worth something, one that terminated is not.
    over = np.repeat(data.terminated, np.diff(data.bounds))
    assert not found.discount[over].any()
    assert (found.discount[~over] > 0).all()


def test_one_step_is_the_temporal_difference(flat: Build) -> None:
    data = flat([3, 2], terminated=[True, False], seed=1)
    found = n_step_returns(data, 1, 0.5)
    value = np.arange(7.0) ** 2
    advantage = found.rewards + found.discount * value[found.later] - value
    r = data.rewards.astype(np.float64)
    expected = [r[0] + 0.5 - 0, r[1] + 2 - 1, r[2] - 4, r[4] + 12.5 - 16, r[5] + 18 - 25]
    np.testing.assert_allclose(advantage[[0, 1, 2, 4, 5]], expected, atol=1e-5)
