"""Random points of a search space, without a study: what a search will be like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ractd_core.config import Recipe
from sweeps.search_space import (
    Choices,
    Parameter,
    Scalar,
    is_active,
    is_integer,
    misfit,
    parameters,
    whole_space,
)

_ATTEMPTS = 1000


def sample(
    recipe: Recipe,
    search: Mapping[str, Any],
    first: Sequence[Mapping[str, Scalar]],
    count: int,
    seed: int,
) -> list[dict[str, Scalar]]:
    """``count`` points that stand for a search: the ``first`` ones, completed, and random ones.

    All fit the recipe and are different; fewer if a finite space has no more.
    """
    rng = np.random.default_rng(seed)
    found: list[dict[str, Scalar]] = []
    for point in _candidates(recipe, search, first, rng):
        if len(found) == count:
            break
        if point not in found and misfit(recipe, point) is None:
            found.append(point)
    return found


def _candidates(
    recipe: Recipe,
    search: Mapping[str, Any],
    first: Sequence[Mapping[str, Scalar]],
    rng: np.random.Generator,
) -> Iterator[dict[str, Scalar]]:
    for point in first:
        yield _drawn(recipe, search, rng, point)
    for _ in range(_ATTEMPTS):
        yield _drawn(recipe, search, rng, {})
    yield from whole_space(recipe, search)


def _drawn(
    recipe: Recipe,
    search: Mapping[str, Any],
    rng: np.random.Generator,
    given: Mapping[str, Scalar],
) -> dict[str, Scalar]:
    """A random point with the values that are ``given``."""
    values: dict[str, Scalar] = {}
    for path, parameter in parameters(search).items():
        if is_active(parameter, values):
            values[path] = given[path] if path in given else _value(recipe, path, parameter, rng)
    return values


def _value(recipe: Recipe, path: str, parameter: Parameter, rng: np.random.Generator) -> Scalar:
    if isinstance(parameter, Choices):
        return parameter.choices[rng.integers(len(parameter.choices))]
    low, high = parameter.low, parameter.high
    share = float(rng.random())
    value = low * (high / low) ** share if parameter.log else low + (high - low) * share
    if is_integer(recipe, path):
        whole = parameter.integers()
        return whole[min(round((value - whole.start) / whole.step), len(whole) - 1)]
    return value
