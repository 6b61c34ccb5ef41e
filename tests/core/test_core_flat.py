"""The flat layout: what it refuses, its fingerprint, returns-to-go and stretches by brute force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractd_core.data.flat import DataError, FlatDataset, returns_to_go
from ractd_core.tasks import DatasetName, get_task

Build = Callable[..., FlatDataset]

_EPISODES = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=7)


@settings(max_examples=60)
@given(
    _EPISODES,
    st.integers(0, 999),
    st.floats(0.01, 0.999),
    st.sampled_from(["zero", "hold"]),
    st.sampled_from([0.0, 0.5, 100.0]),
)
def test_returns_to_go_are_the_direct_double_sum(
    flat: Build,
    episodes: list[tuple[int, bool]],
    seed: int,
    discount: float,
    truncation: str,
    penalty: float,
) -> None:
    lengths = [length for length, _ in episodes]
    data = flat(lengths, seed=seed, terminated=[ends for _, ends in episodes])
    kept = data.rewards.copy()
    result = returns_to_go(data, discount, truncation, penalty)
    np.testing.assert_array_equal(data.rewards, kept)
    assert result.shape == data.rewards.shape
    for index, (length, terminated) in enumerate(episodes):
        first = int(data.bounds[index])
        rewards = [float(r) for r in data.rewards[first : first + length]]
        beyond = 0.0
        if terminated:
            rewards[-1] -= penalty
        elif truncation == "hold":
            beyond = rewards[-1] / (1 - discount)
        for t in range(length + 1):
            total = sum(discount ** (j - t) * rewards[j] for j in range(t, length))
            total += discount ** (length - t) * beyond
            assert result[first + t] == pytest.approx(total, rel=1e-5, abs=1e-5)


def test_only_a_cut_episode_is_held_and_only_a_terminated_one_penalized(flat: Build) -> None:
    data = flat([3, 3], terminated=[True, False], rewards=[1.0] * 6)
    plain = returns_to_go(data, 0.5)
    changed = returns_to_go(data, 0.5, "hold", termination_penalty=8.0)
    # The penalty is discounted back from the last step, and the final state is worth nothing.
    np.testing.assert_allclose((plain - changed)[:4], [2.0, 4.0, 8.0, 0.0])
    # A reward of 1 for ever is worth 2 at every step.
    np.testing.assert_allclose(changed[4:], 2.0)


@given(st.integers(1, 40), st.floats(0.1, 0.99), st.floats(-3, 3))
def test_a_held_constant_reward_is_worth_the_geometric_series_everywhere(
    flat: Build, length: int, discount: float, reward: float
) -> None:
    data = flat([length], rewards=[reward] * length)
    held = returns_to_go(data, discount, "hold")
    np.testing.assert_allclose(held, reward / (1 - discount), rtol=1e-4, atol=1e-5)
    ended = returns_to_go(replace(data, terminated=np.array([True])), discount, "hold")
    np.testing.assert_array_equal(ended, returns_to_go(data, discount, "zero"))
    series = reward * (1 - discount ** np.arange(length, -1, -1)) / (1 - discount)
    np.testing.assert_allclose(ended, series, rtol=1e-4, atol=1e-5)


@given(_EPISODES, st.integers(1, 12), st.integers(0, 99))
def test_stretches_sum_successive_transitions_and_no_final_states(
    flat: Build, episodes: list[tuple[int, bool]], steps: int, seed: int
) -> None:
    lengths = [length for length, _ in episodes]
    data = flat(lengths, seed=seed)
    rewards: list[float] = []
    for first, length in zip(data.bounds[:-1], lengths, strict=True):
        rewards.extend(float(r) for r in data.rewards[first : first + length])
    expected = []
    while len(rewards) >= steps:
        expected.append(sum(rewards[:steps]))
        rewards = rewards[steps:]
    np.testing.assert_allclose(data.stretch_returns(steps), expected, atol=1e-9)


@given(_EPISODES)
def test_counts_and_last_rows(flat: Build, episodes: list[tuple[int, bool]]) -> None:
    lengths = [length for length, _ in episodes]
    data = flat(lengths)
    assert data.episodes == len(lengths)
    assert data.transitions == sum(lengths)
    expected = [
        end - 1
        for first, end in zip(data.bounds[:-1], data.bounds[1:], strict=True)
        for _ in range(first, end)
    ]
    assert data.last_rows.tolist() == expected


def test_the_fingerprint_is_that_of_the_content(flat: Build) -> None:
    data = flat([3, 4], seed=1)
    another = DatasetName("other", get_task("hopper-medium-v2"))
    copies = {key: getattr(data, key).copy() for key in ("observations", "actions", "rewards")}
    assert replace(data, **copies, name=another).fingerprint == data.fingerprint
    fortran = np.asfortranarray(data.observations)
    assert replace(data, observations=fortran).fingerprint == data.fingerprint

    changed = [data]
    for key in ("observations", "actions", "rewards"):
        values = getattr(data, key).copy()
        values.flat[0] = np.nextafter(values.flat[0], np.float32(9))
        changed.append(replace(data, **{key: values}))
    changed.append(replace(data, bounds=np.array([0, 5, 9])))
    changed.append(replace(data, terminated=np.array([False, True])))
    changed.append(replace(data, rewards=data.rewards.astype(np.float64)))
    changed.append(replace(data, actions=data.actions.reshape(9, 1, 2)))
    assert len({item.fingerprint for item in changed}) == len(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bounds": np.array([0])}, "no episodes"),
        ({"bounds": np.array([], dtype=np.int64)}, "no episodes"),
        ({"bounds": np.array([1, 5, 9])}, "must rise from 0 to 9"),
        ({"bounds": np.array([0, 5, 8])}, "must rise from 0 to 9"),
        ({"bounds": np.array([0, 5, 10])}, "must rise from 0 to 9"),
        ({"bounds": np.array([0, 8, 9])}, "by 2 or more"),
        ({"bounds": np.array([0, 9, 9])}, "by 2 or more"),
        ({"bounds": np.array([0, 10, 9])}, "by 2 or more"),
        ({"terminated": np.array([True])}, "1 termination flags for 2 episodes"),
        ({"actions": np.zeros((8, 2))}, "actions has 8 rows, expected 9"),
        ({"rewards": np.zeros(10)}, "rewards has 10 rows, expected 9"),
        ({"rewards": np.full(9, np.nan)}, "rewards holds values that are not finite"),
        ({"actions": np.full((9, 2), np.inf)}, "actions holds values that are not finite"),
        ({"observations": np.full((9, 4), -np.inf)}, "observations holds values that are not fin"),
        ({"observations": np.zeros((8, 4))}, "must rise from 0 to 8"),
        ({"observations": np.zeros((1, 4))}, "no episodes"),
    ],
)
def test_malformed_data_are_refused_by_name(
    flat: Build, change: dict[str, Any], message: str
) -> None:
    data = flat([3, 4])
    with pytest.raises(DataError, match=f"made/maze2d-umaze-v1: .*{message}"):
        replace(data, **change)
