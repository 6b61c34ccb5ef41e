"""Hopper by every row of the table: data, cloning, teacher, CTD, RACTD at rising reward weights.

``python tests/benchmarks/bench_hopper.py OUT [DATASET ...] [--seeds N]`` trains on datasets that
``ractd data`` has stored, three seeds of everything by default, plays 50 episodes of each model on
seeds that nothing else uses, and prints the table. What lies in OUT is not trained again. About
five minutes per dataset and seed on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from ractd_core.config import Recipe, Sampling
from ractd_core.data.check import behaviour_returns
from ractd_core.data.flat import FlatDataset
from ractd_core.data.store import load
from ractd_core.evaluate import evaluate
from ractd_core.policy import Planner, make_policy
from ractd_core.recipes import override, recipe_for
from ractd_core.stages import make_stage
from ractd_core.tasks import DatasetName, parse_dataset_name
from ractd_core.training import DivergedError, Trainer

CPU = torch.device("cpu")
DATASETS = [f"local/hopper-{kind}-v2" for kind in ("medium-replay", "medium", "medium-expert")]
EPISODES, FIRST_SEED = 50, 2_000_000
NETWORK = {"widths": [32, 64], "patch": 4}
BASE: dict[str, Any] = {
    "teacher": {"optim": {"steps": 600, "batch_size": 128}, "network": NETWORK},
    "reward": {"optim": {"steps": 1500, "batch_size": 256}},
    "student": {"optim": {"steps": 150, "batch_size": 128}},
    "regression": {"optim": {"steps": 600, "batch_size": 128}, "network": NETWORK},
}
UNWATCHED = {"saturation": None, "gain": None, "loss": None}
PLAIN = {f"ractd {w:g}": {"student": {"reward_weight": w, "collapse": UNWATCHED}}
         for w in (0.1, 0.3, 1.0, 2.0)}  # fmt: skip
STEADY: dict[str, Any] = {
    "reward": {"members": 5},
    "student": {"reward_scale": "gradient", "trust_radius": 0.2, "collapse": UNWATCHED},
}
STABLE = {
    f"stable {w:g}": {**STEADY, "student": {**STEADY["student"], "reward_weight": w}}
    for w in (0.03, 0.1, 1.0)
}


def train(
    kind: str, recipe: Recipe, data: FlatDataset, parents: dict[str, Path], path: Path
) -> Path:
    """The model file of a stage, trained if it is not there."""
    if not path.exists():
        stage, normalizers = make_stage(kind, recipe, data, parents, CPU)
        trainer = Trainer(stage, stage.optim, seed=stage.seed, device=CPU)
        trainer.run(every=stage.optim.steps)
        stage.result(trainer.ema, normalizers).save(path)
    return path


def scores(name: DatasetName, seed: int, folder: Path) -> dict[str, float]:
    """Every row's score for one training seed; those on file are not played again."""
    file = folder / "scores.json"
    done: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    data = load(name)
    seeds = {stage: {"seed": seed} for stage in ("teacher", "reward", "student", "regression")}
    base = override(override(recipe_for(name.task), BASE), seeds)

    def play(row: str, path: Path, sampling: Sampling | None = None) -> None:
        policy = make_policy(Planner.load(path, CPU, sampling))
        done[row] = evaluate(policy, name, range(FIRST_SEED, FIRST_SEED + EPISODES)).score
        file.write_text(json.dumps(done, indent=1))
        print(f"{name} seed {seed}: {row} {done[row]:.1f}", flush=True)

    teacher = train("teacher", base, data, {}, folder / "teacher.safetensors")
    if "teacher ddim-10" not in done:
        play("teacher ddim-10", teacher, Sampling(method="ddim", calls=10))
    if "bc" not in done:
        play("bc", train("regression", base, data, {}, folder / "bc.safetensors"))
    rows: dict[str, dict[str, Any]] = {
        "ctd": {"student": {"reward_weight": 0.0}},
        **PLAIN,
        **STABLE,
    }
    for row, overrides in rows.items():
        if row in done:
            continue
        recipe = override(base, overrides)
        model = f"reward-{recipe.reward.members}.safetensors"
        reward = train("reward", recipe, data, {}, folder / model)
        parents = {"teacher": teacher, "reward": reward}
        try:
            play(row, train("student", recipe, data, parents, folder / f"{row}.safetensors"))
        except DivergedError as error:
            print(f"{name} seed {seed}: {row} diverged: {error}", flush=True)
    return done


def cell(values: pd.Series[float]) -> str:
    """Mean and its 95 % t-interval over training seeds."""
    if len(values) < 2:
        return f"{values.mean():.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values))
    return f"{values.mean():.1f} ± {half:.1f}"


def main() -> None:
    """Train, play and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("datasets", nargs="*", default=DATASETS)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = {}
    for text in arguments.datasets:
        name = parse_dataset_name(text)
        found = []
        for seed in range(arguments.seeds):
            folder = arguments.out / text.replace("/", "-") / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            found.append(scores(name, seed, folder))
        data = load(name)
        returns = name.task.normalized_score(behaviour_returns(data)[0])
        column = {row: cell(values.dropna()) for row, values in pd.DataFrame(found).items()}
        columns[text] = {"data": f"{np.mean(returns):.1f}", **column}
    print(pd.DataFrame(columns).to_markdown())


if __name__ == "__main__":
    main()
