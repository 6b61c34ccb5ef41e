"""Recording a response surface: real students at points of a search space, with their curves.

All that a replay needs is one small JSON file (:mod:`tests.benchmarks.surface` reads it).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.quasirandom import SobolEngine

from ractd_core.data.acquire import ensure
from ractd_core.data.flat import FlatDataset
from ractd_core.data.generate import LocalRecipe
from ractd_core.data.store import load
from ractd_core.evaluate import evaluate
from ractd_core.files import read_json, write_json
from ractd_core.policy import Planner, make_policy
from ractd_core.recipes import override, recipe_for
from ractd_core.stages import make_stage, parent_kinds
from ractd_core.tasks import DatasetName, parse_dataset_name
from ractd_core.training import Metrics, Trainer
from sweeps.build import ensure_stage
from sweeps.search_space import apply, canonical_path
from sweeps.spec_parts import SELECTION_SEED, StageResources
from sweeps.stage_store import StageRequest, StageStore
from sweeps.versions import versions
from tests.benchmarks.surface import AXES, HORIZONS, RANGES

CPU = torch.device("cpu")
DATASET = "local/maze2d-umaze-v1"
TRANSITIONS = 100_000
# Small enough that the students differ: longer training of either brings nearly all of them to the
# same score. Nothing stops a student here: what collapses has its place on the surface.
RECIPE: dict[str, Any] = {
    "teacher": {"optim": {"steps": 150, "batch_size": 32}},
    "reward": {"optim": {"steps": 300}},
    "student": {
        "optim": {"steps": 100, "batch_size": 16},
        "collapse": {"saturation": None, "gain": None, "loss": None},
    },
}
EVERY, EPISODES, LAST_EPISODES = 20, 40, 100
REPEAT_EVERY = 4
"""After so many points one of them is trained again with another seed, to show the noise."""


def design(points: int, seed: int = 0) -> list[dict[str, Any]]:
    """``points`` of a scrambled Sobol sequence, with repetitions of some under another seed."""
    sobol: Any = SobolEngine  # torch does not type it
    found: list[dict[str, Any]] = []
    for index, row in enumerate(sobol(len(AXES), scramble=True, seed=seed).draw(points)):
        point: dict[str, Any] = {"horizon": HORIZONS[int(row[0] * len(HORIZONS))]}
        for (name, (low, high)), share in zip(RANGES.items(), row[1:].tolist(), strict=True):
            point[name] = float(f"{low * (high / low) ** share:.4g}")
        found.append({**point, "training_seed": 0})
        if index % REPEAT_EVERY == 0:
            found.append({**point, "training_seed": 1})
    return found


def record(path: Path, folder: Path, points: int) -> None:
    """Train and score the design's students; those in ``path`` already are not trained again.

    Teachers and the reward model are kept in ``folder``.
    """
    torch.set_num_threads(1)
    name = parse_dataset_name(DATASET)
    ensure(name, LocalRecipe(TRANSITIONS))
    data = load(name)
    about = {
        "dataset": DATASET,
        "transitions": TRANSITIONS,
        "fingerprint": data.fingerprint,
        "recipe": RECIPE,
        "every": EVERY,
        "episodes": [EPISODES, LAST_EPISODES],
        "first_seed": SELECTION_SEED,
        "versions": versions(),
        "recorded": datetime.now(UTC).date().isoformat(),
    }
    rows = read_json(path)["points"] if path.exists() else []
    store = StageStore(folder / "stages")
    for point in design(points):
        if any(point.items() <= row.items() for row in rows):
            continue
        rows.append(point | _train(point, name, data, store))
        write_json(path, {"about": about, "points": rows})
        print(rows[-1], flush=True)


def _train(
    point: dict[str, Any], name: DatasetName, data: FlatDataset, store: StageStore
) -> dict[str, Any]:
    """The curve of a point's student, and its score over more episodes at the end."""
    recipe = override(recipe_for(name.task), RECIPE)
    recipe = apply(recipe, {canonical_path(axis): point[axis] for axis in AXES})
    recipe = override(recipe, {"student": {"seed": point["training_seed"]}})
    parents = {}
    for kind in parent_kinds("student", recipe):
        request = StageRequest(kind, recipe, DATASET, data.fingerprint)
        ensure_stage(store, request, StageResources(), store.root)
        parents[kind] = store.path(request.name)
    stage, normalizers = make_stage("student", recipe, data, parents, CPU)
    trainer = Trainer(stage, stage.optim, seed=stage.seed, device=CPU)
    steps, scores = [], []

    def play(episodes: int) -> float:
        policy = make_policy(Planner(stage.result(trainer.ema, normalizers), CPU))
        seeds = range(SELECTION_SEED, SELECTION_SEED + episodes)
        return round(evaluate(policy, name, seeds).score, 3)

    def score(trainer: Trainer, metrics: Metrics) -> None:
        steps.append(trainer.step)
        scores.append(play(EPISODES))

    start = time.process_time()
    trainer.run(every=EVERY, callback=score)
    last = play(LAST_EPISODES)
    seconds = round(time.process_time() - start, 2)
    return {"steps": steps, "scores": scores, "last": last, "cpu_seconds": seconds}
