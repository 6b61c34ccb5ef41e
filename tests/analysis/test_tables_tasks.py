"""The table over all tasks: hand-made records with known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import analysis
from analysis.tables_all import all_tables, write_tables
from analysis.tables_tasks import tasks_table
from tests.analysis.conftest import SweepBuilder

SCORES = {"ractd": (60.0, 90.0), "ctd": (50.0, 20.0)}
"""The first training seed's mean on each dataset; each further one scores one more."""


def _on(place: int) -> dict[str, Any]:
    task = ("maze2d-umaze-v1", "maze2d-medium-v1")[place]
    return {"task": task, "dataset": f"local/{task}"}


@pytest.fixture
def two(builder: SweepBuilder) -> SweepBuilder:
    for method, means in SCORES.items():
        for place, mean in enumerate(means):
            key, fields = f"{method}{place}", _on(place)
            builder.row(method, [mean - 5, mean + 5], key=key, training_seeds=(0, 1, 2), **fields)
    builder.row("teacher", [100.0], key="t", **_on(0))
    return builder


def test_every_statistic_is_over_the_runs_of_all_tasks(two: SweepBuilder) -> None:
    table = tasks_table(analysis.load(two.storage))
    numbers = table.numbers.set_index("method")
    # The teacher lacks a dataset.
    assert sorted(numbers.index) == ["ctd", "ractd"]
    ours = np.array([[60.0, 61.0, 62.0], [90.0, 91.0, 92.0]])
    line = numbers.loc["ractd"]
    assert (line["tasks"], line["runs"], line["diverged"]) == (2, 6, 0)
    assert line["mean"] == line["median"] == pytest.approx(ours.mean())
    assert line["iqm"] == pytest.approx(np.sort(ours.ravel())[1:5].mean())
    assert line["optimality_gap"] == pytest.approx((100 - ours).mean())
    assert line["improvement"] == 1.0
    assert line["difference"] == pytest.approx((10.0 + 70.0) / 2)
    assert line["mean_low"] < line["mean"] < line["mean_high"]
    texts = dict(zip(table.header, (cell.text for cell in table.rows[-1]), strict=True))
    assert texts["method"] == "ractd"
    assert texts["P(> ctd)"] == "1.00 [1.00, 1.00]"
    assert texts["difference to ctd"] == "+40.0 [+40.0, +40.0]"


def test_a_diverged_seed_counts_and_is_counted(two: SweepBuilder) -> None:
    lost: dict[str, Any] = {"status": "failed", "reason": "diverged: NaN", "evaluation": None}
    two.row("ctd", key="ctd0", training_seeds=(0, 1, 2), **lost, **_on(0))
    (two.folder / "rows" / "ctd0" / "episodes.csv").unlink()
    line = tasks_table(analysis.load(two.storage)).numbers.set_index("method").loc["ctd"]
    assert (line["runs"], line["diverged"]) == (6, 3)
    assert line["mean"] == pytest.approx((0.0 + 21.0) / 2)


def test_it_is_written_in_all_formats_and_not_of_one_task(two: SweepBuilder) -> None:
    paths = write_tables(analysis.load(two.storage), two.storage / "tables")
    assert sorted(paths["tasks"]) == ["csv", "html", "md", "tex"]
    alone = SweepBuilder(two.storage / "alone", "alone")
    alone.row("ractd")
    assert "tasks" not in [table.name for table in all_tables(analysis.load(alone.storage))]
