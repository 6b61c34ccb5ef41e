"""Intervals and the interquartile mean of one sample against scipy, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.stats import bootstrap_mean, iqm, student_mean

_VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)
_SEVERAL = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60)


def _ends(
    values: list[float] | np.ndarray, confidence: float = 0.95, repetitions: int = 5000
) -> tuple[float, float]:
    found = bootstrap_mean(values, confidence, repetitions)
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).normal(130, 12, 100)
    low, high = _ends(values, repetitions=20_000)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.05 * width)
    assert high == pytest.approx(theirs.high, abs=0.05 * width)


def test_bootstrap_agrees_with_scipy_on_1000_arrays() -> None:
    generator = np.random.default_rng(4)
    apart = []
    for _ in range(1000):
        values = generator.gamma(2, 30, generator.integers(10, 60))
        low, high = _ends(values, repetitions=500)
        theirs = scipy_stats.bootstrap(
            (values,), np.mean, n_resamples=500, method="percentile", rng=5
        ).confidence_interval
        apart.append(np.array([low - theirs.low, high - theirs.high]) / (theirs.high - theirs.low))
    assert np.abs(apart).max() < 0.3
    assert np.mean(apart, axis=0) == pytest.approx([0, 0], abs=0.01)


def test_bootstrap_in_blocks_agrees_with_normal_theory() -> None:
    values = np.random.default_rng(0).normal(0, 1, 50_000)
    low, high = _ends(values, repetitions=400)
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert high - values.mean() == pytest.approx(half, rel=0.25)
    assert values.mean() - low == pytest.approx(half, rel=0.25)


@settings(max_examples=40)
@given(_SEVERAL)
def test_interval_lies_within_the_values(values: list[float]) -> None:
    low, high = _ends(values, repetitions=200)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= low <= high <= max(values) + slack


@settings(max_examples=20)
@given(_SEVERAL, st.floats(-100, 100))
def test_interval_moves_with_the_values(values: list[float], shift: float) -> None:
    low, high = _ends(values, repetitions=200)
    after = _ends([value + shift for value in values], repetitions=200)
    assert after == pytest.approx((low + shift, high + shift), abs=1e-6)


def test_the_seed_decides() -> None:
    values = [float(value) for value in range(20)]
    assert bootstrap_mean(values) == bootstrap_mean(values) != bootstrap_mean(values, seed=1)
    assert np.diff(_ends(values, confidence=0.5)) < np.diff(_ends(values, confidence=0.99))


def test_one_value_has_no_interval() -> None:
    for found in (bootstrap_mean([7.0]), student_mean([7.0])):
        assert (found.value, found.low, found.high, found.count) == (7.0, None, None, 1)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")], [[1.0], [2.0]]])
def test_bad_values_are_refused(values: list[float]) -> None:
    for statistic in (bootstrap_mean, student_mean, iqm):
        with pytest.raises(ValueError, match="values"):
            statistic(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_bad_confidence_is_refused(confidence: float) -> None:
    for statistic in (bootstrap_mean, student_mean):
        with pytest.raises(ValueError, match="confidence"):
            statistic([1.0, 2.0], confidence)


@given(_VALUES)
def test_iqm_agrees_with_scipy(values: list[float]) -> None:
    assert iqm(values) == pytest.approx(scipy_stats.trim_mean(values, 0.25), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_students_interval_is_scipys(count: int, confidence: float) -> None:
    values = np.random.default_rng(count).normal(100, 12, count)
    found = student_mean(values, confidence)
    error = scipy_stats.sem(values)
    low, high = scipy_stats.t.interval(confidence, count - 1, values.mean(), error)
    assert found.low == pytest.approx(low, rel=1e-5)
    assert found.high == pytest.approx(high, rel=1e-5)
    assert found.value == pytest.approx(values.mean())


@pytest.mark.parametrize("count", [2, 3, 10])
def test_students_interval_covers_the_mean(count: int) -> None:
    samples = np.random.default_rng(count).normal(50, 9, (2000, count))
    found = [student_mean(sample) for sample in samples]
    covered = [f.low is not None and f.high is not None and f.low <= 50 <= f.high for f in found]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_bootstrap_of_a_hundred_episodes_covers_the_mean() -> None:
    samples = np.random.default_rng(1).gamma(4, 25, (1000, 100))
    ends = [_ends(sample, repetitions=800) for sample in samples]
    assert 0.93 <= np.mean([low <= 100 <= high for low, high in ends]) <= 0.97
