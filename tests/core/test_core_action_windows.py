"""Windows of actions against a loop over rows, and the limits of the data that have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ractd_core.config import WindowConfig
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.normalizer import Normalizers
from ractd_core.data.windows import ActionWindows
from ractd_core.draws import Draws

Build = Callable[..., FlatDataset]
Rows = NDArray[np.float64]
CPU = torch.device("cpu")
NO_ACTION = 77.0
"""What the final rows hold here, where no action was taken: it must never be seen again."""


@pytest.fixture
def marked(flat: Build) -> Build:
    """Data whose final rows would be noticed wherever an action is expected."""
    return lambda *args, **options: mark(flat(*args, **options))


def mark(data: FlatDataset) -> FlatDataset:
    actions = data.actions.copy()
    actions[data.bounds[1:] - 1] = NO_ACTION
    return replace(data, actions=actions)


def windows_of(data: FlatDataset, **config: object) -> tuple[ActionWindows, Normalizers]:
    normalizers = Normalizers.fit(data)
    return ActionWindows(data, WindowConfig.model_validate(config), normalizers, CPU), normalizers


def all_windows(data: FlatDataset, **config: object) -> tuple[Rows, Rows]:
    """Every window in order, in data units: (n, horizon, 2) and (n, history, obs_dim)."""
    windows, normalizers = windows_of(data, **config)
    x0, cond = windows.at(torch.arange(len(windows)))
    seen = cond.reshape(len(cond), -1, data.observations.shape[1])
    return (
        normalizers.actions.unnormalize(x0).numpy().astype(np.float64),
        normalizers.observations.unnormalize(seen).numpy().astype(np.float64),
    )


def by_hand(
    data: FlatDataset, horizon: int, history: int, padding: str
) -> tuple[list[list[Rows]], list[list[Rows]]]:
    """Windows and what conditions them, step by step."""
    windows, seen = [], []
    for first, end in zip(data.bounds[:-1], data.bounds[1:], strict=True):
        states = data.observations[first:end].astype(np.float64)
        actions = data.actions[first : end - 1].astype(np.float64)
        for start in range(len(actions)):
            if padding == "none" and start + horizon > len(actions):
                continue
            steps = [min(start + ahead, len(actions) - 1) for ahead in range(horizon)]
            windows.append([actions[step] for step in steps])
            past = [max(start - ago, 0) for ago in range(history - 1, -1, -1)]
            seen.append([states[step] for step in past])
    return windows, seen


@settings(max_examples=80)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(1, 12),
    st.integers(1, 5),
    st.sampled_from(["hold", "none"]),
    st.integers(0, 99),
)
def test_windows_are_those_of_a_loop_over_steps(
    flat: Build, lengths: list[int], horizon: int, history: int, padding: str, seed: int
) -> None:
    data = mark(flat(lengths, seed=seed, dims=3))
    windows, seen = by_hand(data, horizon, history, padding)
    assume(windows)
    x0, cond = all_windows(data, horizon=horizon, history=history, padding=padding)
    assert x0.shape == (len(windows), horizon, 2)
    assert cond.shape == (len(windows), history, 3)
    np.testing.assert_allclose(x0, np.array(windows), atol=1e-5)
    np.testing.assert_allclose(cond, np.array(seen), atol=1e-5)
    # No actions of the data reach beyond 1, so a final row's would be the largest.
    assert np.abs(x0).max() < 2


def test_the_drawing_in_the_modules_docstring(marked: Build) -> None:
    data = marked([5])
    actions, states = data.actions.astype(np.float64), data.observations.astype(np.float64)
    x0, cond = all_windows(data, horizon=3, history=2)
    assert len(x0) == 5
    for start, taken, seen in [(0, [0, 1, 2], [0, 0]), (3, [3, 4, 4], [2, 3])]:
        np.testing.assert_allclose(x0[start], actions[taken], atol=1e-5)
        np.testing.assert_allclose(cond[start], states[seen], atol=1e-5)
    inside, _ = all_windows(data, horizon=3, history=2, padding="none")
    np.testing.assert_allclose(inside[:, 0], actions[:3], atol=1e-5)


@pytest.mark.parametrize(
    ("padding", "starts"), [("hold", [0, 1, 2, 3, 4, 6, 7, 8]), ("none", [0, 1, 2, 6])]
)
def test_a_window_starts_at_actions_only(marked: Build, padding: str, starts: list[int]) -> None:
    # Rows 5 and 9 are final states.
    data = marked([5, 3])
    _, cond = all_windows(data, horizon=3, padding=padding)
    distances = np.abs(data.observations[None] - cond).sum(axis=2)
    assert distances.argmin(axis=1).tolist() == starts


def test_no_window_fits_among_the_actions(marked: Build) -> None:
    data = marked([3, 5])
    with pytest.raises(DataError, match=r"window of 6 .*longest has 5.*padding to hold"):
        windows_of(data, horizon=6, padding="none")
    assert len(windows_of(data, horizon=5, padding="none")[0]) == 1


def test_gathering_leaves_the_data_as_they_are(marked: Build) -> None:
    windows, _ = windows_of(marked([3, 5]), horizon=6, history=3)
    before = windows.actions.clone(), windows.observations.clone()
    windows.at(torch.arange(len(windows)))
    assert torch.equal(windows.actions, before[0])
    assert torch.equal(windows.observations, before[1])


def test_samples_are_uniform_over_all_windows(marked: Build) -> None:
    data = marked([2, 4])
    windows, normalizers = windows_of(data, horizon=3, history=2)
    x0, cond = windows.sample(Draws(0, 0, 6000, CPU))
    assert x0.shape == (6000, 3, 2)
    assert cond.shape == (6000, 2 * 4)
    taken = normalizers.actions.unnormalize(x0[:, 0]).numpy()
    rows = np.linalg.norm(taken[:, None] - data.actions[None], axis=2).argmin(1)
    counts = np.bincount(rows, minlength=8)
    # Rows 2 and 7 are the final ones.
    assert counts[[2, 7]].sum() == 0
    assert np.abs(counts[[0, 1, 3, 4, 5, 6]] - 1000).max() < 5 * np.sqrt(1000)


def test_action_limits_ignore_final_rows_and_observation_limits_do_not(flat: Build) -> None:
    data = flat([4, 3], seed=3)
    final = data.bounds[1:] - 1
    actions = (0.3 + 0.1 * np.abs(data.actions)).astype(np.float32)
    observations = data.observations.copy()
    actions[final], observations[final] = 0.0, 50.0
    fitted = Normalizers.fit(replace(data, actions=actions, observations=observations))

    acted = np.delete(actions, final, axis=0)
    normal = fitted.actions.normalize(torch.tensor(acted))
    torch.testing.assert_close(normal.amin(0), torch.full((2,), -1.0))
    torch.testing.assert_close(normal.amax(0), torch.full((2,), 1.0))
    # A final state is a state that was reached.
    seen = fitted.observations.normalize(torch.tensor(observations))
    torch.testing.assert_close(seen[final], torch.ones(2, 4))
    torch.testing.assert_close(seen.amin(0), torch.full((4,), -1.0))


def test_both_normalizers_travel_with_a_state(flat: Build) -> None:
    fitted = Normalizers.fit(flat([4, 3], dims=5))
    other = Normalizers.empty(5, 2)
    other.load_state_dict(fitted.state_dict())
    states, actions = torch.randn(3, 5), torch.randn(3, 2)
    for ours, theirs, values in (
        (other.observations, fitted.observations, states),
        (other.actions, fitted.actions, actions),
    ):
        assert torch.equal(ours.normalize(values), theirs.normalize(values))
    assert list(fitted.parameters()) == []
