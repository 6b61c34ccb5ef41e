"""A recipe for every task, in three families.

``released``
    What the code released with arXiv 2506.07822 does, where it differs from the paper too; its
    defects, such as returns that add up a running maximum, are not reproduced. Needs a GPU.
``paper``
    The same with what the paper says instead: sampling starts at ``sigma_max`` and the reward is
    taken on those samples, the teacher may cross any number of bins, pseudo-Huber, a convolutional
    reward model. The paper's table of loss weights was not available, so they are the released.
``small``
    Ours: networks and budgets for minutes on a CPU.

The facts of ``released`` are in ``hparams.csv``, one row per task with what differs between its 12
tasks. Rows that name a task under ``ours_like`` were not released: they are ours, never published.

- The row is that of the task named: the same maze, or for Gym-MuJoCo the same robot, where
  ``random`` goes like ``medium-replay`` and ``expert`` like ``medium-expert``; everywhere else
  Hopper's.
- Reward weights: ``random`` and dense mazes as the row they follow, ``expert`` of Gym-MuJoCo half
  of it, 0.5 for AntMaze, 0.3 for mixed demonstrations (partial, mixed, cloned), and 0.1 for
  demonstrations that succeed (complete, human, expert).
- Fewer than 20,000 rows of data: a tenth of the student's batch and a quarter of the teacher's
  warm-up, since a run of so few steps would end before it had warmed up.

Neither the released code nor the paper watches for collapse: nothing ends a run of these two
families but a loss that is not finite.

The released code counts epochs, a recipe counts optimizer steps: ``epochs * rows // batch`` with
the rows of D4RL's own file, so that a recipe depends on the task alone. That is an upper bound:
windows do not start at an episode's last steps, and a few episodes are held out there.
"""

from __future__ import annotations

import csv
import fnmatch
from functools import cache
from importlib import resources
from typing import Any, Literal

from ractd_core.config import NoiseConfig, Recipe, merged
from ractd_core.tasks import Task

Family = Literal["small", "released", "paper"]

# The family "small": all its numbers. What is not here is a default of config.py, which fits
# maze2d-umaze. Of the tables by task name (globs) all that match apply, later ones last.

_SMALL_NETWORK = {"widths": [64, 128], "patch": 4}
_SMALL_ACTIONS: dict[str, Any] = {
    "window": {"horizon": 16},
    "teacher": {"network": _SMALL_NETWORK, "optim": {"steps": 2000, "batch_size": 256}},
    "reward": {"optim": {"steps": 2000, "batch_size": 256, "lr": 1e-3}},
    "student": {
        "optim": {"steps": 600, "batch_size": 256},
        "collapse": {"gain": 0.75, "saturation": 0.25},
    },
    "regression": {"network": _SMALL_NETWORK, "optim": {"steps": 1500, "batch_size": 256}},
}
"""For windows of actions, everywhere but in maze2d."""

_SMALL_TASKS: dict[str, dict[str, Any]] = {
    "maze2d-medium-*": {
        "window": {"horizon": 256},
        "teacher": {"optim": {"steps": 2000}},
        "student": {"optim": {"steps": 600}},
    },
    "maze2d-large-*": {
        "window": {"horizon": 384},
        "teacher": {"optim": {"steps": 2000}},
        "student": {"reward_weight": 1e-5, "optim": {"steps": 600}},
    },
    "*-medium-v2": {"student": {"reward_weight": 0.3}},
    "*-expert-v2": {"student": {"reward_weight": 0.03}},
    "*-medium-expert-v2": {"student": {"reward_weight": 0.3}},
    "*-medium-replay-v2": {"student": {"reward_weight": 1.0}},
    "*-random-v2": {"student": {"reward_weight": 1.0}},
    "antmaze-*": {"student": {"reward_weight": 0.1}},
    "kitchen-*": {"student": {"reward_weight": 0.1}},
    "kitchen-complete-*": {"student": {"reward_weight": 0.03}},
    "*-cloned-v1": {"student": {"reward_weight": 0.1}},
    "*-human-v1": {"student": {"reward_weight": 0.03}},
    "*-expert-v1": {"student": {"reward_weight": 0.03}},
}

_PAPER: dict[str, Any] = {
    "teacher": {
        "distance": "pseudo_huber",
        "noise": {"init_noise": "sigma_max", "preconditioning": "edm"},
    },
    "reward": {"network": "conv", "widths": [32, 64, 128, 256]},
    "student": {
        "distance": "pseudo_huber",
        "reward_at": "noise",
        "solver_steps": NoiseConfig().bins - 1,
    },
}
"""Where the paper differs from its released code."""


@cache
def recipe_for(task: Task, family: Family = "small") -> Recipe:
    """The recipe of ``task`` in ``family``; see the module for what it holds and where from."""
    if family == "small":
        return _small(task)
    return _paper(task) if family == "paper" else _released(task)


def provenance(task: Task, family: Family) -> str:
    """Whose numbers :func:`recipe_for` gives, in a few words."""
    if family == "small":
        return "ours, for a CPU"
    like = _rows()[task.name]["ours_like"]
    whose = f"ours, after {like}'s released" if like else "the released configuration"
    return f"{whose}, with what the paper says instead" if family == "paper" else whose


def override(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """``recipe`` with the values of a nested mapping such as ``{"student": {"seed": 1}}``.

    Raises pydantic's ValidationError, with every problem's place, for unknown keys and for values
    that do not fit.
    """
    return Recipe.model_validate(merged(recipe.model_dump(), overrides))


def _small(task: Task) -> Recipe:
    recipe = Recipe() if task.domain == "maze2d" else override(Recipe(), _SMALL_ACTIONS)
    for pattern, numbers in _SMALL_TASKS.items():
        if fnmatch.fnmatchcase(task.name, pattern):
            recipe = override(recipe, numbers)
    return recipe


@cache
def _rows() -> dict[str, dict[str, str]]:
    text = resources.files("ractd_core").joinpath("hparams.csv").read_text(encoding="utf-8")
    return {row["task"]: row for row in csv.DictReader(text.splitlines())}


def _paper(task: Task) -> Recipe:
    # Convolutions read windows, as the released batches count them, not a maze's single states.
    batch = {"reward": {"optim": {"batch_size": int(_rows()[task.name]["reward_batch"])}}}
    return override(_released(task), merged(_PAPER, batch))


def _released(task: Task) -> Recipe:
    row = _rows()[task.name]
    horizon = int(row["horizon"])
    # A maze's reward model saw windows of states, of which ours counts every state.
    states = horizon if task.domain == "maze2d" else 1

    def optim(stage: str, windows: int, **fields: Any) -> dict[str, Any]:
        return {
            "steps": int(row[f"{stage}_epochs"]) * task.hdf5_rows // windows,
            "batch_size": windows * (states if stage == "reward" else 1),
            "betas": (0.95, 0.999),
            "grad_clip": None,
            "ema_decay": 0.0,
            **fields,
        }

    network = {
        "widths": [int(width) for width in row["widths"].split("-")],
        "patch": 1,
        "kernel_size": 5,
        "groups": 8,
        "embed_dim": int(row["embed_dim"]),
    }
    teacher_optim = optim(
        "teacher",
        1024,
        lr=1e-4,
        weight_decay=float(row["teacher_weight_decay"]),
        warmup_steps=int(row["teacher_warmup"]),
    )
    return Recipe.model_validate(
        {
            "window": {"horizon": horizon, "history": 1, "padding": "none"},
            "teacher": {
                "optim": teacher_optim,
                "network": network,
                "noise": {
                    "sigma_min": 0.02,
                    "sigma_max": 80.0,
                    "sigma_data": 0.5,
                    "rho": 7.0,
                    "bins": 80,
                    "preconditioning": "boundary",
                    "init_noise": "unit",
                },
                "times": "lognormal",
                "distance": "squared_pseudo_huber",
                "dropout": 0.0,
            },
            "reward": {
                "optim": optim(
                    "reward",
                    int(row["reward_batch"]),
                    lr=float(row["reward_lr"]),
                    weight_decay=1e-3,
                    warmup_steps=20,
                ),
                "network": "mlp",
                "widths": [64, 128, 256],
                "discount": 0.99,
                "truncation": "zero",
                "termination_penalty": 0.0,
            },
            "student": {
                "optim": optim(
                    "student",
                    int(row["student_batch"]),
                    lr=1e-4,
                    weight_decay=float(row["student_weight_decay"]),
                    warmup_steps=500,
                ),
                "ctm_weight": 1.0,
                "dsm_weight": 1.0,
                "reward_weight": float(row["reward_weight"]),
                "reward_at": "dsm",
                "reward_states": None,
                "solver_steps": 1,
                "target_ema": 0.0,
                "times": "mixed",
                "distance": "squared_pseudo_huber",
                "dropout": 0.2,
                "collapse": {"saturation": None, "gain": None, "loss": None},
            },
            # Not part of the release: the teacher's network and budget, so that they compare.
            "regression": {"optim": teacher_optim, "network": network},
        }
    )
