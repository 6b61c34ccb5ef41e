"""The intervals and the interquartile mean against scipy, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.stats import bootstrap_mean, iqm, student_mean

_VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).normal(130, 12, 100)
    ours = bootstrap_mean(values, repetitions=20_000)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_bootstrap_in_blocks_agrees_with_normal_theory() -> None:
    values = np.random.default_rng(0).normal(0, 1, 50_000)
    interval = bootstrap_mean(values, repetitions=400)
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert interval.high - interval.mean == pytest.approx(half, rel=0.25)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.25)


@settings(max_examples=40, deadline=None)
@given(_VALUES)
def test_interval_lies_within_the_values(values: list[float]) -> None:
    interval = bootstrap_mean(values, repetitions=200)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack


@settings(max_examples=20, deadline=None)
@given(_VALUES, st.floats(-100, 100))
def test_interval_moves_with_the_values(values: list[float], shift: float) -> None:
    before = bootstrap_mean(values, repetitions=200)
    after = bootstrap_mean([value + shift for value in values], repetitions=200)
    assert after.low == pytest.approx(before.low + shift, abs=1e-6)
    assert after.high == pytest.approx(before.high + shift, abs=1e-6)


def test_more_confidence_is_wider_and_the_seed_decides() -> None:
    values = list(range(20))
    narrow, wide = bootstrap_mean(values, 0.5), bootstrap_mean(values, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_mean(values) == bootstrap_mean(values) != bootstrap_mean(values, seed=1)


def test_single_value_has_no_width() -> None:
    interval = bootstrap_mean([7.0])
    assert (interval.mean, interval.low, interval.high) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")], [[1.0], [2.0]]])
def test_bad_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        bootstrap_mean(values)
    with pytest.raises(ValueError, match="values"):
        iqm(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_bad_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean([1.0, 2.0], confidence)


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
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-5)
    assert found.mean == pytest.approx(values.mean())


def test_students_interval_needs_two_values() -> None:
    with pytest.raises(ValueError, match="two or more"):
        student_mean([1.0])
    assert student_mean([2.0, 2.0]).low == 2.0
