"""Two Ray Train workers against one: training at the same global batch, and the episodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ractd_core.checkpoint import load_checkpoint
from ractd_core.data.generate import LocalRecipe, make_local
from ractd_core.data.store import load
from ractd_core.evaluate import evaluate
from ractd_core.policy import Planner, make_policy
from ractd_core.tasks import parse_dataset_name
from sweeps.build import METRICS, ensure_stage
from sweeps.embedded_ray import embedded_ray
from sweeps.jsonl import read_rows
from sweeps.layout import CURVE, EPISODES, SweepFolder, TaskContext
from sweeps.search_space import Scalar
from sweeps.spec import load_spec
from sweeps.spec_parts import Resources, StageResources
from sweeps.students import selection_seeds, train_students
from sweeps.workers import run_on_workers

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOLERANCE = 1e-4
"""Relative, on losses after 30 AdamW steps: float32 sums in another order differ by about 1e-6."""


@pytest.fixture
def ray_runtime() -> Iterator[None]:
    with embedded_ray(Resources()):
        yield


def test_two_workers_train_as_one(
    project_home: Path, tiny: Any, tmp_path: Path, ray_runtime: None
) -> None:
    spec = load_spec(str(tiny()))
    name = parse_dataset_name("local/maze2d-umaze-v1")
    make_local(name, LocalRecipe(transitions=3000))
    fingerprint = load(name).fingerprint

    def build(workers: int) -> dict[str, tuple[list[dict[str, Any]], dict[str, torch.Tensor]]]:
        folder = SweepFolder(tmp_path / f"workers{workers}", "tiny")
        context = TaskContext(folder, spec, name, fingerprint)
        recipe = context.trial({"window.horizon": 16}).recipe
        results = {}
        for kind in ("reward", "teacher", "student"):
            request = context.request(kind, recipe)
            resources = StageResources(workers=1 if kind == "reward" else workers)
            manifest = ensure_stage(folder.store, request, resources, tmp_path / "scratch")
            assert manifest["workers"] == resources.workers
            model = folder.store.path(request.name)
            results[kind] = (read_rows(model.with_name(METRICS)), load_checkpoint(model)[0])
        return results

    one, two = build(1), build(2)
    for kind in ("teacher", "student"):
        (rows_one, weights_one), (rows_two, weights_two) = one[kind], two[kind]
        assert [row["step"] for row in rows_one] == [row["step"] for row in rows_two]
        for name_of_loss in ("loss", "grad_norm"):
            assert [row[name_of_loss] for row in rows_two] == pytest.approx(
                [row[name_of_loss] for row in rows_one], rel=TOLERANCE
            ), kind
        for key, weight in weights_one.items():
            torch.testing.assert_close(weights_two[key], weight, rtol=1e-3, atol=1e-4)
        moved = max(
            float((weights_one[key] - one["teacher"][1].get(key, 0)).abs().max())
            for key in weights_one
        )
        assert kind == "teacher" or moved > 1e-3, "the student has not been trained at all"


def test_two_workers_share_a_trials_episodes(
    project_home: Path, tiny: Any, tmp_path: Path, ray_runtime: None
) -> None:
    two = StageResources(workers=2)
    spec = load_spec(str(tiny(resources={"student": two.model_dump()})))
    [name] = spec.datasets()
    make_local(name, spec.data.recipe())
    folder = SweepFolder(tmp_path / "storage", "tiny")
    folder.freeze(spec)
    context = TaskContext(folder, spec, name, load(name).fingerprint)
    values: dict[str, Scalar] = {"window.horizon": 16}
    plan = context.trial(values)
    plan.folder.mkdir(parents=True)
    for kind in plan.student.parents:
        ensure_stage(
            folder.store, context.request(kind, plan.recipe), StageResources(), tmp_path / "scratch"
        )
    payload = {"context": context.to_json(), "values": values, "number": 0}
    run_on_workers(train_students, payload, two, tmp_path / "scratch")

    # Worker 0 alone writes, and what it writes is the whole.
    curve = read_rows(plan.folder / CURVE)
    assert [(row["step"], row["episodes"]) for row in curve] == [(10, 3), (20, 3), (30, 3)]
    found = pd.read_csv(plan.folder / EPISODES)
    policy = make_policy(Planner.load(plan.selected(0), torch.device("cpu")))
    seeds = selection_seeds(spec.evaluation.selection_episodes)
    expected = evaluate(policy, name, seeds)
    assert found["seed"].tolist() == list(seeds)
    assert found["length"].tolist() == expected.lengths.tolist()
    # Written with six digits; a worker's threads may round otherwise than these.
    assert found["score"].tolist() == pytest.approx(expected.scores.tolist(), rel=1e-3, abs=1e-3)
