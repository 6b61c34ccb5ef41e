"""What a step of a stage's training costs: from stages that were trained, or measured now.

Networks of a recipe's exact shape are trained for a few steps on made-up data. Where that itself
would take long, so on a share of the batch, and then on a network with narrower levels, scaled by
the operations of one forward pass: an estimate that is a little high, since small work is done at
lower rates than large.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ractd_core.bench import plan_latency, untrained_data, untrained_models
from ractd_core.config import Recipe
from ractd_core.envs import make_env
from ractd_core.files import read_json
from ractd_core.policy import LANES, Planner
from ractd_core.recipes import override
from ractd_core.stages import make_stage, parent_kinds
from ractd_core.stages.model import build_network
from ractd_core.tasks import Task, parse_dataset_name
from ractd_core.training import Metrics, Trainer
from sweeps.spec_parts import Resources
from sweeps.stage_store import MANIFEST, StageStore
from sweeps.workers import device, use_threads

_READINGS = 3
_FORWARD_GFLOP = 0.5
"""What a measured step's forward pass may take; the whole of a student's is ten times as much."""
_LEAST_BATCH = 16
_WATCHES_NOTHING = {"saturation": None, "gain": None, "loss": None}
_FREE = frozenset(
    (
        "seed",
        "lr",
        "weight_decay",
        "betas",
        "warmup_steps",
        "steps",
        "grad_clip",
        "ema_decay",
        "dropout",
        "discount",
        "held_out",
        "truncation",
        "termination_penalty",
        "advantage_steps",
        "padding",
        "sigma_min",
        "sigma_max",
        "sigma_data",
        "rho",
        "bins",
        "preconditioning",
        "init_noise",
        "times",
        "distance",
        "target_ema",
        "trust_radius",
        "pessimism",
        "collapse",
    )
)
"""Fields that change a stage's result but not what a step costs."""

Source = Literal[
    "stages in the store",
    "measured here",
    "measured here on less, scaled",
    "assumed from the GPU's peak",
]
_FORWARDS = {"teacher": 3, "reward": 3, "student": 10}
"""What a training step costs in passes through the network."""


@dataclass(frozen=True)
class Rate:
    """Seconds of one worker for one step, and how they are known."""

    seconds: float
    source: Source


class StepTimes:
    """Costs of steps and episodes by shape, each asked for once.

    ``say`` is told what is being measured. A rate is None where a stage wants a GPU and this
    machine has none.
    """

    def __init__(self, store: StageStore, resources: Resources, say: Callable[[str], None]) -> None:
        self._resources, self._say = resources, say
        self._known: dict[str, list[float]] = {}
        for path in sorted(store.root.glob(f"*/{MANIFEST}")):
            with suppress(OSError, ValueError, KeyError):  # the store builds a damaged one anew
                self._learn(read_json(path))
        self._rates: dict[str, Rate] = {}
        self._plans: dict[str, float] = {}
        self._environments: dict[str, float] = {}

    def _learn(self, manifest: dict[str, Any]) -> None:
        if manifest["kind"] not in ("teacher", "reward"):
            return
        task = parse_dataset_name(manifest["dataset"]).task
        shape = _shape(manifest["kind"], manifest["config"], task, manifest["device"])
        self._known.setdefault(shape, []).append(manifest["device_seconds"] / manifest["steps"])

    def step(self, kind: str, recipe: Recipe, task: Task) -> Rate | None:
        """One training step of ``kind``."""
        resources = getattr(self._resources, kind)
        where = device()
        if resources.gpus and where.type == "cpu":
            return None
        where = where if resources.gpus else torch.device("cpu")
        shape = _shape(kind, _config(kind, recipe), task, where.type)
        known = self.known(kind, recipe, task, where.type)
        if known is not None:
            return known
        if shape not in self._rates:
            use_threads(resources.cpus)
            self._say(f"measuring a step of a {kind} of {task.name}")
            self._rates[shape], plan = _measure(kind, recipe, task, where)
            if plan is not None:
                self._plans[shape] = plan
        return self._rates[shape]

    def known(self, kind: str, recipe: Recipe, task: Task, where: str) -> Rate | None:
        """A step as finished stages in the store took it on a device of type ``where``."""
        found = self._known.get(_shape(kind, _config(kind, recipe), task, where))
        return Rate(statistics.median(found), "stages in the store") if found else None

    def episode(self, recipe: Recipe, task: Task) -> float | None:
        """Seconds of one episode of full length, played with as many others as the policy takes."""
        if self.step("student", recipe, task) is None:
            return None
        where = device() if self._resources.student.gpus else torch.device("cpu")
        plan = self._plans[_shape("student", _config("student", recipe), task, where.type)]
        if task.name not in self._environments:
            self._environments[task.name] = _environment_step(task)
        maze = task.domain == "maze2d"
        plans = 1 if maze else -(-task.max_episode_steps // recipe.policy.executed_actions)
        return task.max_episode_steps * self._environments[task.name] + plans * plan


def parameters_of(kind: str, recipe: Recipe, task: Task) -> int:
    """How many weights a stage's model has."""
    with torch.device("meta"):
        network = build_network(_about(kind, recipe, task))
    return sum(parameter.numel() for parameter in network.parameters())


def _config(kind: str, recipe: Recipe) -> dict[str, Any]:
    """What a step of ``kind`` reads, laid out as a manifest has it."""
    dump = recipe.model_dump(mode="json")
    config: dict[str, Any] = dict(dump[kind])
    if kind == "student":
        config |= {"network": dump["teacher"]["network"], "reward": dump["reward"]}
        config["reward"].pop("optim")
    if kind != "reward" or config["network"] == "conv":
        config |= dump["window"]
    return config


def _shape(kind: str, config: dict[str, Any], task: Task, where: str) -> str:
    """A key that is equal where a step does the same work."""

    def kept(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: kept(each, key) for key, each in value.items() if key not in _FREE}
        return bool(value) if name.endswith("_weight") else value

    dims = [task.domain == "maze2d", task.obs_dim, task.act_dim]
    return json.dumps([kind, where, dims, kept(config)], sort_keys=True)


def _about(kind: str, recipe: Recipe, task: Task) -> dict[str, Any]:
    maze = task.domain == "maze2d"
    about = {
        "kind": kind,
        "modelled": "states" if maze else "actions",
        "observation_dims": task.obs_dim,
        "action_dims": task.act_dim,
    }
    if kind == "reward":
        return about | recipe.reward.model_dump(
            mode="json", include={"network", "widths", "members"}
        )
    return about | {
        "context": 2 if maze else recipe.window.history,
        "network": recipe.teacher.network.model_dump(mode="json"),
        "noise": recipe.teacher.noise.model_dump(mode="json"),
    }


def _forward_gflop(kind: str, recipe: Recipe, task: Task) -> float:
    """10⁹ operations of one batch through a stage's network once."""
    about = _about("reward" if kind == "reward" else "regression", recipe, task)
    batch = getattr(recipe, kind).optim.batch_size
    horizon = recipe.window.horizon
    dims = task.obs_dim if task.domain == "maze2d" else task.act_dim
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = build_network(about)
        if kind == "reward":
            beside = 0 if task.domain == "maze2d" else task.obs_dim
            steps = horizon if recipe.reward.network == "conv" else 1
            network(torch.empty(batch, steps, dims + beside))
        else:
            context = torch.empty(batch, about["context"] * task.obs_dim)
            network(torch.empty(batch, horizon, dims), torch.empty(batch), None, context)
    return float(counter.get_total_flops()) / 1e9


def step_gflop(kind: str, recipe: Recipe, task: Task) -> float:
    """About 10⁹ operations of one training step."""
    return _FORWARDS[kind] * _forward_gflop(kind, recipe, task)


def _affordable(kind: str, recipe: Recipe, task: Task) -> Recipe:
    """``recipe``, or where a step is long with less of the batch, then with narrower levels."""
    found = recipe
    while _forward_gflop(kind, found, task) > _FORWARD_GFLOP:
        batch = getattr(found, kind).optim.batch_size
        network = found.teacher.network
        narrower = [max(network.groups, width // 2) for width in network.widths]
        if batch > _LEAST_BATCH:
            changes = {kind: {"optim": {"batch_size": max(_LEAST_BATCH, batch // 4)}}}
        elif kind != "reward" and narrower != list(network.widths):
            changes = {"teacher": {"network": {"widths": narrower}}}
        else:
            break
        found = override(found, changes)
    return found


def _measure(
    kind: str, recipe: Recipe, task: Task, where: torch.device
) -> tuple[Rate, float | None]:
    """The cost of a step, and of a student also the seconds of a plan."""
    small = _affordable(kind, recipe, task)
    scale = _forward_gflop(kind, recipe, task) / _forward_gflop(kind, small, task)
    # Made-up episodes are short; the padding and the watch for collapse cost next to nothing.
    small = override(
        small, {"window": {"padding": "hold"}, "student": {"collapse": _WATCHES_NOTHING}}
    )
    data = untrained_data(task)
    with tempfile.TemporaryDirectory() as scratch:
        parents = parent_kinds(kind, small)
        files = untrained_models(small, data, Path(scratch)) if parents else {}
        stage, _ = make_stage(kind, small, data, files, where)
        optim = stage.optim.model_copy(update={"steps": 10**9})
        trainer = Trainer(stage, optim, seed=0, device=where)
        clock = [time.perf_counter()]

        def read(trainer: Trainer, metrics: Metrics) -> bool:
            clock.append(time.perf_counter())
            return len(clock) > _READINGS + 1

        trainer.run(every=1, callback=read)
        # The first step warms up.
        seconds = float(np.median(np.diff(clock)[1:])) * scale
        plan = None
        if kind == "student":
            planner = Planner.load(files["student"], where)
            latency = plan_latency(planner, repetitions=_READINGS, batch=LANES).median
            wider = _per_window(recipe, task) / _per_window(small, task)
            plan = latency / 1000 / LANES * wider
    exact = small.teacher.network == recipe.teacher.network and scale == 1
    return Rate(seconds, "measured here" if exact else "measured here on less, scaled"), plan


def _per_window(recipe: Recipe, task: Task) -> float:
    return _forward_gflop("student", recipe, task) / recipe.student.optim.batch_size


def _environment_step(task: Task) -> float:
    """Seconds of one step of the task's environment, with random actions."""
    env = make_env(task)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    taken = []
    for _ in range(50):
        start = time.perf_counter()
        _, _, terminated, truncated, _ = env.step(rng.uniform(-1, 1, task.act_dim))
        taken.append(time.perf_counter() - start)
        if terminated or truncated:
            env.reset(seed=0)
    return float(np.median(taken))
