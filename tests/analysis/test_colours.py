"""Methods can be told apart by colour-blind readers, on white and on dark pages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.figures.style import method_symbol
from analysis.methods import METHODS

_Array = NDArray[np.float64]
# Machado, Oliveira and Fernandes 2009, severity 1; of linear RGB.
_SEEN = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    ),
    "protanopia": np.array(
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
    ),
}
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_PAGES = ("#ffffff", "#1b1f24")


def _linear(colour: str) -> _Array:
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def _lab(rgb: _Array) -> _Array:
    x, y, z = np.cbrt(_TO_XYZ @ rgb / (_TO_XYZ @ np.ones(3)))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", _SEEN)
def test_no_two_methods_look_alike(eye: str) -> None:
    seen = {
        name: _lab(np.clip(_SEEN[eye] @ _linear(method.colour), 1e-3, 1))
        for name, method in METHODS.items()
        if name != "bc"  # a task has this or regression
    }
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 15, f"{one} and {other}"


@pytest.mark.parametrize("page", _PAGES)
def test_every_method_stands_out_from_the_page(page: str) -> None:
    for name, method in METHODS.items():
        light = [float(_linear(colour) @ _TO_XYZ[1]) + 0.05 for colour in (method.colour, page)]
        assert max(light) / min(light) > 1.9, name


def test_methods_that_are_played_together_have_markers_of_their_own() -> None:
    common = ("regression", "teacher", "ctm", "ctd", "ractd")
    assert len({method_symbol(name) for name in common}) == len(common)
    assert method_symbol("teacher:ddim-20") == "diamond-open"
