"""Statistics over tasks: scipy, closed forms, coverage, invariants, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.stats_tasks import (
    STATISTICS,
    Runs,
    aggregate,
    paired,
    paired_differences,
    performance_profile,
    probability_of_improvement,
)

_SCORES = st.floats(-50, 150).map(lambda score: round(score, 3))
_RUNS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.dictionaries(st.integers(0, 9), _SCORES, min_size=1, max_size=6),
    min_size=1,
    max_size=6,
)
_COVERED = (0.93, 0.97)


def _runs(table: np.ndarray) -> Runs:
    return {f"task {place}": dict(enumerate(row.tolist())) for place, row in enumerate(table)}


def _random(generator: np.random.Generator) -> np.ndarray:
    shape = generator.integers(1, 12, 2)
    return np.asarray(generator.normal(60, 30, shape) ** generator.integers(1, 3))


def test_statistics_agree_with_scipy_and_numpy_on_1000_arrays() -> None:
    generator = np.random.default_rng(0)
    for _ in range(1000):
        table = _random(generator)
        runs = _runs(table)
        found = {name: aggregate(runs, name, repetitions=1).value for name in STATISTICS}
        assert found["iqm"] == pytest.approx(scipy_stats.trim_mean(table, 0.25, axis=None))
        assert found["mean"] == pytest.approx(table.mean())
        assert found["median"] == pytest.approx(np.median(table.mean(axis=1)))
        assert found["optimality_gap"] == pytest.approx(100 - np.minimum(table, 100).mean())


def test_intervals_of_one_task_agree_with_scipys_bootstrap() -> None:
    """Wider by sqrt(n / (n - 1)), as one less is drawn, and Student's times the standard error."""
    generator = np.random.default_rng(1)
    ratios = []
    for _ in range(1000):
        values = generator.normal(generator.uniform(-50, 150), 10, generator.integers(4, 40))
        ours = aggregate(_runs(values[None]), "mean", repetitions=1000)
        quantile = scipy_stats.t.ppf(0.975, values.size - 1)
        theirs = scipy_stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=1000,
            method="percentile",
            rng=2,
        ).standard_error
        assert ours.low is not None
        assert ours.high is not None
        wider = math.sqrt(values.size / (values.size - 1))
        ratios.append((ours.high - ours.low) / (2 * quantile * theirs) / wider)
    assert np.mean(ratios) == pytest.approx(1, abs=0.01)
    assert np.abs(np.array(ratios) - 1).max() < 0.2


@pytest.mark.parametrize("statistic", ["mean", "optimality_gap"])
def test_the_bootstraps_spread_is_the_standard_error(statistic: str) -> None:
    """Closed form: of task means, sqrt(sum of s^2 / n) / tasks."""
    table = np.random.default_rng(2).normal(50, 8, (6, 7))
    found = aggregate(_runs(table), statistic, confidence=0.6827, repetitions=40_000)
    error = math.sqrt((table.var(axis=1, ddof=1) / 7).sum()) / 6
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(error, rel=0.03)


@pytest.mark.parametrize(
    ("statistic", "tasks", "seeds"),
    [("mean", 3, 3), ("mean", 9, 10), ("iqm", 3, 3), ("iqm", 9, 5), ("iqm", 2, 2)],
)
def test_the_interval_covers_what_runs_scatter_around(
    statistic: str, tasks: int, seeds: int
) -> None:
    generator = np.random.default_rng(seeds)
    means, spreads = np.linspace(20, 110, tasks), np.linspace(5, 15, tasks)
    many = generator.normal(means[:, None], spreads[:, None], (20_000, tasks, seeds))
    center = STATISTICS[statistic](many.reshape(20_000, -1), [seeds] * tasks).mean()
    covered = 0
    for seed in range(1000):
        table = generator.normal(means[:, None], spreads[:, None], (tasks, seeds))
        found = aggregate(_runs(table), statistic, repetitions=800, seed=seed)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= center <= found.high
    assert _COVERED[0] <= covered / 1000 <= _COVERED[1]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_unequal_numbers_of_seeds_leave_tasks_equal(statistic: str) -> None:
    once = {"a": {0: 10.0, 1: 30.0}, "b": {0: 90.0, 1: 110.0}}
    thrice = {**once, "a": {seed: 10.0 + 20.0 * (seed % 2) for seed in range(6)}}
    assert aggregate(thrice, statistic).value == pytest.approx(aggregate(once, statistic).value)


def test_one_seed_says_no_interval() -> None:
    runs = {"a": {0: 50.0, 1: 60.0}, "b": {0: 70.0}}
    for statistic in STATISTICS:
        found = aggregate(runs, statistic)
        assert (found.low, found.high) == (None, None)
    profile = performance_profile(runs, [55.0])
    assert profile.low is profile.high is None
    assert probability_of_improvement(runs, runs).low is None
    assert paired_differences(runs, runs)["b"].low is None
    assert paired_differences(runs, runs)["a"].low == 0.0


def test_a_diverged_run_counts_as_a_random_policy_and_is_counted() -> None:
    lost = {"a": {0: 80.0, 1: math.nan}, "b": {0: 60.0, 1: 60.0}}
    zero = {"a": {0: 80.0, 1: 0.0}, "b": {0: 60.0, 1: 60.0}}
    for statistic in STATISTICS:
        found, same = aggregate(lost, statistic), aggregate(zero, statistic)
        assert (found.value, found.low, found.high) == (same.value, same.low, same.high)
        assert (found.count, found.diverged, same.diverged) == (4, 1, 0)
    assert performance_profile(lost, [0.0]).shares == (0.75,)
    # The diverged run loses to one that scores above a random policy.
    assert probability_of_improvement(zero, {"a": {0: 1.0}, "b": {0: 0.0}}).value == 0.75
    assert probability_of_improvement(lost, zero).diverged == 1
    assert paired(lost, zero) == {"a": {0: 0.0, 1: 0.0}, "b": {0: 0.0, 1: 0.0}}


@settings(max_examples=30)
@given(_RUNS.flatmap(lambda runs: st.tuples(st.just(runs), _reordered(runs))))
def test_the_order_of_tasks_and_seeds_does_not_matter(pair: tuple[Runs, Runs]) -> None:
    for statistic in STATISTICS:
        one, other = (aggregate(runs, statistic, repetitions=50).value for runs in pair)
        assert one == pytest.approx(other, abs=1e-6)


def _reordered(runs: Runs) -> st.SearchStrategy[Runs]:
    scores = [
        st.tuples(st.just(task), st.permutations(list(each.items())).map(dict))
        for task, each in runs.items()
    ]
    return st.tuples(*scores).flatmap(lambda tasks: st.permutations(tasks).map(dict))


@settings(max_examples=40)
@given(_RUNS, st.floats(0.1, 10), st.floats(-50, 50))
def test_scale_and_shift_of_scores_carry_over(runs: Runs, scale: float, shift: float) -> None:
    moved = {t: {s: scale * v + shift for s, v in each.items()} for t, each in runs.items()}
    for statistic in ("mean", "median", "iqm"):
        before = aggregate(runs, statistic, repetitions=50)
        after = aggregate(moved, statistic, repetitions=50)
        for old, new in ((before.value, after.value), (before.low, after.low)):
            assert (old is None) == (new is None)
            if old is not None:
                assert new == pytest.approx(scale * old + shift, abs=1e-6)
    # What compares runs with each other does not depend on the scale at all.
    reference = {task: {0: 42.0} for task in runs}
    stretched = {task: {0: scale * 42.0 + shift} for task in runs}
    assert probability_of_improvement(moved, stretched).value == pytest.approx(
        probability_of_improvement(runs, reference).value
    )


@settings(max_examples=40)
@given(_RUNS)
def test_profiles_fall_from_one_to_zero(runs: Runs) -> None:
    thresholds = np.linspace(-60, 160, 23).tolist()
    profile = performance_profile(runs, thresholds, repetitions=20)
    assert profile.shares[0] == pytest.approx(1)
    assert profile.shares[-1] == 0
    assert all(np.diff(profile.shares) <= 1e-12)
    # The area under a profile is the mean score (Agarwal et al. 2021, section 4.2).
    fine = np.linspace(-60, 160, 1101).tolist()
    area = -60 + 220 * np.mean(performance_profile(runs, fine, repetitions=1).shares)
    assert area == pytest.approx(aggregate(runs, "mean").value, abs=0.3)


def test_improvement_is_mann_whitneys_statistic() -> None:
    generator = np.random.default_rng(3)
    for _ in range(200):
        ours = generator.integers(0, 12, generator.integers(1, 15)).astype(float)
        theirs = generator.integers(0, 12, generator.integers(1, 15)).astype(float)
        u = scipy_stats.mannwhitneyu(ours, theirs).statistic
        found = probability_of_improvement(_runs(ours[None]), _runs(theirs[None]), repetitions=1)
        assert found.value == pytest.approx(u / (ours.size * theirs.size))
        other = probability_of_improvement(_runs(theirs[None]), _runs(ours[None]), repetitions=1)
        assert found.value + other.value == pytest.approx(1)


def test_improvement_has_an_interval_within_its_range() -> None:
    generator = np.random.default_rng(4)
    found = probability_of_improvement(
        _runs(generator.normal(60, 10, (5, 5))), _runs(generator.normal(50, 10, (5, 8)))
    )
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < found.value < found.high <= 1
    assert (found.tasks, found.count) == (5, 65)


def test_differences_are_of_equal_seeds() -> None:
    ours = {"a": {0: 10.0, 1: 20.0, 5: 99.0}, "b": {2: 7.0, 3: 8.0}}
    theirs = {"a": {1: 15.0, 0: 9.0}, "b": {3: 5.0, 2: 7.0}}
    assert paired(ours, theirs) == {"a": {0: 1.0, 1: 5.0}, "b": {2: 0.0, 3: 3.0}}
    found = paired_differences(ours, theirs)
    low, high = scipy_stats.t.interval(0.95, 1, 3.0, scipy_stats.sem([1.0, 5.0]))
    assert found["a"].value == 3.0
    assert (found["a"].low, found["a"].high) == pytest.approx((low, high), rel=1e-4)
    assert aggregate(paired(ours, theirs), "mean").value == pytest.approx((3.0 + 1.5) / 2)


def test_what_cannot_be_computed_is_refused() -> None:
    runs = {"a": {0: 1.0}}
    with pytest.raises(ValueError, match="expected one of mean, median, iqm, optimality_gap"):
        aggregate(runs, "mode")
    with pytest.raises(ValueError, match="no score for any task"):
        aggregate({})
    with pytest.raises(ValueError, match="no score for b"):
        aggregate({**runs, "b": {}})
    with pytest.raises(ValueError, match="a score is infinite"):
        aggregate({"a": {0: math.inf}})
    with pytest.raises(ValueError, match="confidence is 95"):
        aggregate(runs, confidence=95)
    with pytest.raises(ValueError, match="only one of the two methods has scores on b"):
        probability_of_improvement(runs, {**runs, "b": {0: 1.0}})
    with pytest.raises(ValueError, match="no training seed in common on a"):
        paired(runs, {"a": {1: 1.0}})
