"""Parameters as axes, and rungs of reward weights."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.figures.ladder import rungs_of
from analysis.figures.scale import scale_of, short

_WEIGHTS = st.lists(st.floats(1e-7, 10) | st.just(0.0), min_size=1, max_size=40)


@given(_WEIGHTS)
def test_values_lie_on_their_axis_in_their_order(values: list[float]) -> None:
    scale = scale_of("reward_weight", values)
    places = [scale.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= scale.unit(value) <= 1 for value in values)
    assert all(scale.low - 0.02 <= tick <= scale.high + 0.02 for tick in scale.ticks)
    assert len(scale.ticks) == len(scale.texts) >= 1


def test_zero_has_a_place_of_its_own_below_the_decades() -> None:
    scale = scale_of("reward_weight", [0.0, 1e-4, 1e-3, 1e-2])
    assert (scale.kind, scale.label) == ("log", "σ")
    assert scale.texts == ("0", "1e-4", "0.001", "0.01")
    assert scale.place(0.0) == scale.low < -4


def test_what_is_no_number_is_a_category() -> None:
    scale = scale_of("student.times", ["mixed", None, "uniform", True])
    assert scale.texts == ("None", "True", "mixed", "uniform")
    assert scale.place("uniform") == 3.0
    assert math.isnan(scale.place("other"))
    assert math.isnan(scale_of("horizon", [1, 2]).place(None))


@pytest.mark.parametrize(
    ("number", "text"), [(1e-4, "1e-4"), (0.000159, "1.59e-4"), (0.5, "0.5"), (0, "0")]
)
def test_short(number: float, text: str) -> None:
    assert short(number) == text


@given(_WEIGHTS)
def test_every_weight_is_on_exactly_one_rung(weights: list[float]) -> None:
    rungs = rungs_of(pd.Series(weights))
    assert len(rungs) <= 6
    for weight in weights:
        assert sum(low <= weight <= high for low, high in rungs) == 1
    assert all(any(low <= weight <= high for weight in weights) for low, high in rungs)
