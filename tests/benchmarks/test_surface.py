"""The surface that searches are replayed on, against fits by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sweeps.spec_parts import PrunerSpec, SamplerSpec
from tests.benchmarks.bench_regret import ASHA, FILE, NONE, TRIALS, replay
from tests.benchmarks.surface import Surface, kernel, leave_one_out, scaled

STEPS = [20, 40, 60]


def height(point: dict[str, float]) -> float:
    """A smooth function whose maximum of 80 is inside the space."""
    x = scaled(point)
    return float(80 - 60 * (x[1] - 0.6) ** 2 - 20 * (x[2] - 0.3) ** 2 - 10 * x[0])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(60):
        point = {"horizon": int(rng.choice([128, 160])), "sigma": 10 ** rng.uniform(-5, -2)}
        point |= {name: 0.3 * 10 ** rng.uniform(0, 1) for name in ("alpha", "beta")}
        for seed in range(2 if index % 4 == 0 else 1):
            scores = [height(point) * share + rng.normal(0, 1) for share in (0.5, 0.8, 1.0, 1.0)]
            row = {"training_seed": seed, "steps": STEPS, "scores": scores[:3], "last": scores[3]}
            rows.append(point | row)
    path = tmp_path_factory.mktemp("surface") / "surface.json"
    path.write_text(json.dumps({"points": rows}))
    return path


@pytest.fixture(scope="module")
def surface(file: Path) -> Surface:
    return Surface(file)


def test_leaving_one_out_is_what_fits_without_it_say() -> None:
    rng = np.random.default_rng(0)
    x, y, lengths = rng.uniform(size=(8, 4)), rng.normal(size=(8, 2)), np.array([1, 0.5, 2, 1.0])
    expected = []
    for i in range(8):
        others = np.delete(np.arange(8), i)
        gram = kernel(x[others], x[others], lengths) + 0.1 * np.eye(7)
        weights = np.linalg.solve(gram, y[others])
        expected.append(y[i] - (kernel(x[[i]], x[others], lengths) @ weights)[0])
    np.testing.assert_allclose(leave_one_out(x, y, lengths, 0.1), expected, rtol=1e-9)


def test_the_surface_is_the_function_that_was_recorded(surface: Surface) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        point = {"horizon": int(rng.choice([128, 160])), "sigma": 10 ** rng.uniform(-4.8, -2.2)}
        point |= {name: 0.3 * 10 ** rng.uniform(0.1, 0.9) for name in ("alpha", "beta")}
        curve = surface.values(scaled(point)[None])[0]
        expected = height(point) * np.array([0.5, 0.8, 1.0, 1.0])
        np.testing.assert_allclose(curve, expected, atol=3)
    assert surface.best == pytest.approx(80, abs=2)
    assert surface.explained > 0.9
    np.testing.assert_allclose(surface.noise_std(), 1.0, atol=0.5)


@pytest.mark.parametrize("pruner", [NONE, ASHA])
def test_a_replay_spends_the_budget_and_no_more(surface: Surface, pruner: PrunerSpec) -> None:
    found = replay(surface, SamplerSpec(kind="random"), pruner, seed=0)
    budget = TRIALS * STEPS[-1]
    assert budget - STEPS[-1] < found.cost[-1] <= budget
    trials = len(found.cost) - 1
    if pruner is NONE:
        assert trials == found.completed == TRIALS
    else:
        assert trials > TRIALS > found.completed
    assert (found.regret > -1e-6).all()
    assert found.at(0) == surface.best - surface.low
    assert found.at(budget) == found.regret[-1] < found.at(0)


def test_the_recording_is_whole() -> None:
    about = json.loads(FILE.read_text())["about"]
    assert {"dataset", "fingerprint", "recipe", "versions", "recorded"} <= set(about)
    assert Surface(FILE).explained > 0.3
