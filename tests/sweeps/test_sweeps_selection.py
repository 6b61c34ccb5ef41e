"""The three rules of selection on curves made by hand, and the episodes they are read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ractd_core.evaluate import Evaluation
from ractd_core.tasks import parse_dataset_name
from sweeps.episodes import add_episodes, played, summary
from sweeps.selection import best_point, selection
from sweeps.spec_parts import SelectionSpec

CURVES = {4: (50.0, 90.0, 10.0, 30.0), 5: (20.0, 20.0, 20.0, 60.0)}
LAST: dict[str, Any] = {
    "score": 45.0,
    "return_mean": 1.0,
    "std": 3.0,
    "episodes": 50,
    "seeds": [{"training_seed": 4, "score": 40.0}, {"training_seed": 5, "score": 50.0}],
}


def rows() -> list[dict[str, Any]]:
    return [
        {"training_seed": seed, "step": 10 * (index + 1), "score": score}
        for seed, curve in CURVES.items()
        for index, score in enumerate(curve)
    ]


@pytest.mark.parametrize(
    ("rule", "score"), [("last", 45.0), ("best", 75.0), ("mean-of-last", 30.0)]
)
def test_every_rules_score_is_recorded_and_one_is_the_objective(rule: Any, score: float) -> None:
    found = selection(SelectionSpec(rule=rule, last=2), rows(), LAST)
    assert (found["rule"], found["score"]) == (rule, score)
    assert (found["last"], found["best"], found["mean_of_last"]) == (45.0, 75.0, 30.0)
    assert found["seeds"] == [
        {"training_seed": 4, "last": 40.0, "best": 90.0, "best_step": 20, "mean_of_last": 20.0},
        {"training_seed": 5, "last": 50.0, "best": 60.0, "best_step": 40, "mean_of_last": 40.0},
    ]
    assert (found["std"], found["episodes"]) == (3.0, 50)


@pytest.mark.parametrize(("last", "score"), [(1, 45.0), (4, 37.5), (9, 37.5)])
def test_the_mean_is_of_as_many_points_as_there_are(last: int, score: float) -> None:
    found = selection(SelectionSpec(rule="mean-of-last", last=last), rows(), LAST)
    assert found["score"] == score


def test_the_earlier_of_two_equal_points_is_the_best() -> None:
    points = [{"step": step, "score": score} for step, score in ((1, -5.0), (2, -3.0), (3, -3.0))]
    assert best_point(points)["step"] == 2


def evaluation(first: int, returns: list[float]) -> Evaluation:
    count = len(returns)
    return Evaluation(
        task=parse_dataset_name("local/maze2d-umaze-v1").task,
        seeds=np.arange(first, first + count),
        returns=np.array(returns),
        lengths=np.full(count, 300),
        terminated=np.zeros(count, dtype=np.bool_),
    )


def test_students_episodes_stand_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "trial" / "episodes.csv"
    assert played(path) == set()
    one, two = evaluation(500, [10.0, 30.0]), evaluation(500, [20.0, 60.0])
    add_episodes(path, 7, one)
    before = path.read_text()
    assert played(path) == {7}
    add_episodes(path, 8, two)
    assert path.read_text().startswith(before)
    assert played(path) == {7, 8}
    found = summary(path)
    scores = np.concatenate([one.scores, two.scores])
    assert found["score"] == pytest.approx(scores.mean(), rel=1e-5)
    assert found["std"] == pytest.approx(scores.std(ddof=1), rel=1e-5)
    assert found["return_mean"] == 30.0
    assert (found["episodes"], found["first_seed"]) == (2, 500)
    assert [each["training_seed"] for each in found["seeds"]] == [7, 8]
    means = [each["score"] for each in found["seeds"]]
    assert means == pytest.approx([one.score, two.score], rel=1e-5)
    assert found["q50"] == pytest.approx(np.median(scores), rel=1e-5)
