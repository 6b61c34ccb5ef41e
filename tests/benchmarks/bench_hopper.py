"""Hopper by every row of the table: data, cloning, teacher, CTD, RACTD at rising reward weights.

``python tests/benchmarks/bench_hopper.py OUT [DATASET ...] [--seeds N] [--table T]`` trains on
datasets that ``ractd data`` has stored, three seeds of everything by default, plays 50 episodes of
each model on seeds that nothing else uses, and prints a table: ``rows``; ``parts`` takes what
steadies the reward's pull apart; ``choices`` compares, at one reward weight, where paper and
released code differ. What lies in OUT is not trained or played again. About five minutes per
dataset and seed on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ractd_core.config import Recipe, Sampling, merged
from ractd_core.data.check import behaviour_returns
from ractd_core.data.flat import FlatDataset
from ractd_core.data.store import load
from ractd_core.evaluate import evaluate
from ractd_core.policy import Planner, make_policy
from ractd_core.recipes import override, recipe_for
from ractd_core.stages import make_stage, parent_kinds
from ractd_core.tasks import parse_dataset_name
from ractd_core.training import Trainer
from sweeps.stage_store import StageRequest

CPU = torch.device("cpu")
DATASETS = [f"local/hopper-{kind}-v2" for kind in ("medium-replay", "medium", "medium-expert")]
EPISODES, FIRST_SEED = 50, 2_000_000
NETWORK = {"widths": [32, 64], "patch": 4}
# Nothing stops a run here: the table is to show what collapse looks like.
UNWATCHED = {"saturation": None, "gain": None, "loss": None}
BASE: dict[str, Any] = {
    "teacher": {"optim": {"steps": 600, "batch_size": 128}, "network": NETWORK},
    "reward": {"optim": {"steps": 1500, "batch_size": 256}},
    "student": {"optim": {"steps": 150, "batch_size": 128}, "collapse": UNWATCHED},
    "regression": {"optim": {"steps": 600, "batch_size": 128}, "network": NETWORK},
}
LADDER = (0.1, 0.3, 1.0, 2.0, 3.0)
STABLE = {"reward_scale": "gradient", "trust_radius": 0.2}
STEADY = {"reward": {"members": 5}, "student": {**STABLE, "reward_weight": 0.1}}
ROWS: dict[str, dict[str, Any]] = {
    "ctd": {"student": {"reward_weight": 0.0}},
    **{f"ractd {w:g}": {"student": {"reward_weight": w}} for w in LADDER},
    **{
        f"steady {w:g}": merged(STEADY, {"student": {"reward_weight": w}}) for w in (0.03, 0.1, 1.0)
    },
}
PARTS: dict[str, dict[str, Any]] = {
    "steady 0.1": STEADY,
    "one reward model": merged(STEADY, {"reward": {"members": 1}}),
    "no trust region": merged(STEADY, {"student": {"trust_radius": None}}),
    "trust region of 0.1": merged(STEADY, {"student": {"trust_radius": 0.1}}),
    "pessimism 1": merged(STEADY, {"student": {"pessimism": 1.0}}),
    "advantages over 20 steps": merged(
        STEADY, {"reward": {"target": "advantage", "advantage_steps": 20}}
    ),
}
CHOICES: dict[str, dict[str, Any]] = {
    "ractd 1": {"student": {"reward_weight": 1.0}},
    "reward at pure noise (paper)": {"student": {"reward_at": "noise"}},
    "convolutional reward (paper)": {"reward": {"network": "conv", "widths": [32, 64, 128, 256]}},
    "teacher crosses up to 8 bins (paper: any)": {"student": {"solver_steps": 8}},
    "start at sigma_max (paper)": {"teacher": {"noise": {"init_noise": "sigma_max"}}},
    "pseudo-Huber (paper)": {"student": {"distance": "pseudo_huber"}},
    "squared pseudo-Huber (released)": {"student": {"distance": "squared_pseudo_huber"}},
    "log-normal teacher times (both)": {"teacher": {"times": "lognormal"}},
    "EDM preconditioning": {"teacher": {"noise": {"preconditioning": "edm"}}},
    "target by EMA 0.95": {"student": {"target_ema": 0.95}},
    "dropout 0.2 (released)": {"student": {"dropout": 0.2}},
    "no clipping (released)": {"student": {"optim": {"grad_clip": None}}},
    "raw weights (released)": {"student": {"optim": {"ema_decay": 0.0}}},
    "nothing beyond a cut episode (released)": {"reward": {"truncation": "zero"}},
}

TABLES = {"rows": ROWS, "parts": PARTS, "choices": CHOICES}


class Run:
    """One dataset and training seed: models by their content, scores by their row."""

    def __init__(self, dataset: str, seed: int, out: Path) -> None:
        self.name, self.seed = parse_dataset_name(dataset), seed
        self.data: FlatDataset = load(self.name)
        seeds = {stage: {"seed": seed} for stage in ("teacher", "reward", "student", "regression")}
        self.base = override(override(recipe_for(self.name.task), BASE), seeds)
        self.models = out / "models"
        self.models.mkdir(parents=True, exist_ok=True)
        self.file = out / f"{self.name.task.name}-{seed}.json"
        self.scores: dict[str, float] = {}
        if self.file.exists():
            self.scores = json.loads(self.file.read_text())

    def model(self, kind: str, recipe: Recipe) -> Path:
        """The model file of a stage, trained with what it is built from if it is not there."""
        parents = {parent: self.model(parent, recipe) for parent in parent_kinds(kind, recipe)}
        names = {parent: path.stem for parent, path in parents.items()}
        fingerprint = self.data.fingerprint
        request = StageRequest(kind, recipe, str(self.name), fingerprint, names)
        path = self.models / f"{request.name}.safetensors"
        if not path.exists():
            stage, normalizers = make_stage(kind, recipe, self.data, parents, CPU)
            trainer = Trainer(stage, stage.optim, seed=stage.seed, device=CPU)
            trainer.run(every=stage.optim.steps)
            stage.result(trainer.ema, normalizers).save(path)
        return path

    def play(self, row: str, kind: str, recipe: Recipe, sampling: Sampling | None = None) -> None:
        """Score a row, unless it has been."""
        if row in self.scores:
            return
        policy = make_policy(Planner.load(self.model(kind, recipe), CPU, sampling))
        result = evaluate(policy, self.name, range(FIRST_SEED, FIRST_SEED + EPISODES))
        self.scores[row] = result.score
        self.file.write_text(json.dumps(self.scores, indent=1))
        print(f"{self.name} seed {self.seed}: {row} {result.score:.1f}", flush=True)


def cell(values: pd.Series[float]) -> str:
    """Mean over training seeds, and the lowest and highest of them."""
    if len(values) < 2:
        return f"{values.mean():.1f}"
    return f"{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})"


def main() -> None:
    """Train, play and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("datasets", nargs="*", default=DATASETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", choices=("rows", "parts", "choices"), default="rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = {
        text: [Run(text, seed, arguments.out) for seed in range(arguments.seeds)]
        for text in arguments.datasets
    }
    for run in (run for each in zip(*runs.values(), strict=True) for run in each):
        if arguments.table == "rows":
            ddim = Sampling(method="ddim", calls=10)
            run.play("teacher, 10 calls of DDIM", "teacher", run.base, ddim)
            run.play("bc", "regression", run.base)
        for row, overrides in TABLES[arguments.table].items():
            base = CHOICES["ractd 1"] if arguments.table == "choices" else {}
            run.play(row, "student", override(run.base, merged(base, overrides)))
    first = next(iter(TABLES[arguments.table]))
    columns: dict[str, dict[str, str]] = {}
    above: dict[str, list[bool]] = {}
    for text, those in runs.items():
        table = pd.DataFrame([run.scores for run in those])
        returns, _ = behaviour_returns(those[0].data)
        own = those[0].name.task.normalized_score(returns).mean()
        columns[text] = {"data": f"{own:.1f}"}
        for row in map(str, table):
            columns[text][row] = cell(table[row].dropna())
            pairs = table[[row, first]].dropna()
            above.setdefault(row, []).extend(pairs.iloc[:, 0] > pairs.iloc[:, 1])
    columns[f"above {first}"] = {
        row: f"{sum(won)} of {len(won)}" for row, won in above.items() if row != first
    }
    print(pd.DataFrame(columns).to_markdown())


if __name__ == "__main__":
    main()
