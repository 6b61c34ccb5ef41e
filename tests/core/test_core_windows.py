"""Windows against a loop over rows, and the normalizer against its definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ractd_core.config import WindowConfig
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.normalizer import LimitsNormalizer
from ractd_core.data.windows import PlanWindows
from ractd_core.draws import Draws
from ractd_core.tasks import DatasetName, get_task

Build = Callable[..., FlatDataset]
CPU = torch.device("cpu")


def windows_of(data: FlatDataset, config: WindowConfig) -> tuple[PlanWindows, LimitsNormalizer]:
    normalizer = LimitsNormalizer.fit(data.observations)
    return PlanWindows(data, config, normalizer, CPU), normalizer


def by_hand(data: FlatDataset, horizon: int, padding: str) -> list[NDArray[np.float64]]:
    """Raw windows, state by state."""
    windows = []
    for first, end in zip(data.bounds[:-1], data.bounds[1:], strict=True):
        episode = data.observations[first:end].astype(np.float64)
        for start in range(len(episode)):
            window = []
            for step in range(start, start + horizon):
                if step < len(episode):
                    window.append(episode[step])
                else:
                    window.append(np.array([*episode[-1][:2], 0.0, 0.0]))
            if padding == "hold" or start + horizon <= len(episode):
                windows.append(np.array(window))
    return windows


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(1, 12),
    st.sampled_from(["hold", "none"]),
    st.integers(0, 99),
)
def test_windows_are_those_of_a_loop_over_states(
    flat: Build, lengths: list[int], horizon: int, padding: str, seed: int
) -> None:
    data = flat(lengths, seed=seed)
    expected = by_hand(data, horizon, padding)
    assume(expected)
    config = WindowConfig.model_validate({"horizon": horizon, "padding": padding})
    windows, normalizer = windows_of(data, config)
    assert len(windows) == len(expected)
    x0, cond = windows.at(torch.arange(len(windows)))
    raw = np.array(expected)
    assert x0.shape == raw.shape
    np.testing.assert_allclose(normalizer.unnormalize(x0), raw, atol=1e-5)
    ends = np.concatenate([raw[:, 0], raw[:, -1]], axis=1)
    both = torch.cat([normalizer.unnormalize(half) for half in cond.chunk(2, dim=1)], dim=1)
    np.testing.assert_allclose(both, ends, atol=1e-5)
    torch.testing.assert_close(cond, torch.cat([x0[:, 0], x0[:, -1]], dim=1), rtol=0, atol=0)


def test_the_drawing_in_the_modules_docstring() -> None:
    states = np.arange(24, dtype=np.float32).reshape(6, 4)
    data = FlatDataset(
        DatasetName("made", get_task("maze2d-umaze-v1")),
        states,
        np.zeros((6, 2), np.float32),
        np.zeros(6, np.float32),
        np.array([0, 6]),
        np.array([False]),
    )
    windows, normalizer = windows_of(data, WindowConfig(horizon=4))
    rest = [20.0, 21.0, 0.0, 0.0]
    for start, expected in [
        (0, states[:4].tolist()),
        (3, [*states[3:6].tolist(), rest]),
        (5, [states[5].tolist(), rest, rest, rest]),
    ]:
        x0, cond = windows.at(torch.tensor([start]))
        np.testing.assert_allclose(normalizer.unnormalize(x0)[0], expected, atol=1e-5)
        np.testing.assert_allclose(
            normalizer.unnormalize(cond.reshape(2, 4)), [expected[0], expected[-1]], atol=1e-5
        )


def test_gathering_leaves_the_data_as_they_are(flat: Build) -> None:
    data = flat([3, 5])
    windows, _ = windows_of(data, WindowConfig(horizon=6))
    before = windows.states.clone()
    windows.at(torch.arange(len(windows)))
    torch.testing.assert_close(windows.states, before, rtol=0, atol=0)


def test_no_window_fits(flat: Build) -> None:
    data = flat([3, 5])
    config = WindowConfig(horizon=7, padding="none")
    with pytest.raises(DataError, match=r"window of 7 .*longest has 6.*padding to hold"):
        windows_of(data, config)
    assert len(windows_of(data, WindowConfig(horizon=6, padding="none"))[0]) == 1


def test_samples_are_uniform_over_all_windows(flat: Build) -> None:
    data = flat([2, 4])
    windows, normalizer = windows_of(data, WindowConfig(horizon=3))
    x0, cond = windows.sample(Draws(0, 0, 8000, CPU))
    assert x0.shape == (8000, 3, 4)
    assert cond.shape == (8000, 8)
    firsts = normalizer.unnormalize(x0[:, 0]).numpy()
    distances = np.linalg.norm(firsts[:, None] - data.observations[None], axis=2)
    counts = np.bincount(distances.argmin(1), minlength=8)
    assert counts.sum() == 8000
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


_VALUES = st.lists(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3), min_size=1, max_size=20
)


@given(_VALUES)
def test_the_datas_range_becomes_minus_one_to_one_and_back(rows: list[list[float]]) -> None:
    values = np.array(rows, dtype=np.float32)
    spans = np.ptp(values.astype(np.float64), axis=0)
    assume(np.all((spans == 0) | (spans > 1e-2)))
    normalizer = LimitsNormalizer.fit(values)
    normal = normalizer.normalize(torch.tensor(values)).numpy()
    # Rounding of values up to 1000 over ranges down to 0.01.
    slack = 1e-5 + 4e-4 / np.where(spans > 0, np.maximum(spans, 1e-2), 1)
    for column, span in enumerate(spans):
        if span == 0:
            np.testing.assert_allclose(normal[:, column], 0, atol=slack[column])
        else:
            assert normal[:, column].min() == pytest.approx(-1, abs=slack[column])
            assert normal[:, column].max() == pytest.approx(1, abs=slack[column])
            middle = (values[:, column].min() + span / 2 - normalizer.low[column].item()) / (
                normalizer.scale[column].item()
            )
            assert middle == pytest.approx(1, abs=slack[column])
    back = normalizer.unnormalize(torch.tensor(normal))
    np.testing.assert_allclose(back, values, atol=1e-3)


def test_the_normalizer_travels_with_a_state() -> None:
    rng = np.random.default_rng(0)
    fitted = LimitsNormalizer.fit(rng.normal(size=(50, 4)))
    other = LimitsNormalizer.empty(4)
    other.load_state_dict(fitted.state_dict())
    values = torch.tensor(rng.normal(size=(2, 3, 4)), dtype=torch.float32)
    torch.testing.assert_close(other.normalize(values), fitted.normalize(values), rtol=0, atol=0)
    assert list(fitted.parameters()) == []


def test_one_dimensional_values_are_one_column() -> None:
    normalizer = LimitsNormalizer.fit(np.array([2.0, 6.0, 4.0], dtype=np.float32))
    normal = normalizer.normalize(torch.tensor([[2.0], [4.0], [6.0], [8.0]]))
    torch.testing.assert_close(normal, torch.tensor([[-1.0], [0.0], [1.0], [2.0]]))
