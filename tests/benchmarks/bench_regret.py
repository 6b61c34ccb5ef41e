"""Searches at equal cost on a recorded response surface, by the regret of what they would choose.

``python -m tests.benchmarks.bench_regret record FOLDER [--points N]`` trains the points of the
surface (about 10 s of a core each) and keeps them in ``tests/benchmarks/data``; it goes on where it
was stopped. ``python -m tests.benchmarks.bench_regret replay [--seeds N] [--out FILE.html]`` runs
this project's own samplers and pruners on it, one trial after the other, until each has spent the
same number of student steps. Regret is the surface's highest value less its value at the completed
trial with the best score so far: what noise promised does not count.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go

from sweeps.search_space import Choices, Range
from sweeps.spec_parts import PrunerSpec, SamplerSpec
from sweeps.studies import distribution, make_pruner, make_sampler
from tests.benchmarks.surface import HORIZONS, RANGES, Array, Surface, scaled

FILE = Path(__file__).parent / "data" / "maze2d-umaze-surface.json"
POINTS, SEEDS = 52, 20
TRIALS = 40
"""What a search may spend, in the steps of so many whole trials."""
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
SPACE = {"horizon": distribution(Choices(choices=HORIZONS), True)} | {
    name: distribution(Range(low=low, high=high, log=True), False)
    for name, (low, high) in RANGES.items()
}
MEDIAN = PrunerSpec(kind="median", startup_trials=4, warmup_steps=20)
LATE = PrunerSpec(kind="median", startup_trials=4, warmup_steps=60)
ASHA = PrunerSpec(kind="asha", warmup_steps=20, reduction=3)
NONE = PrunerSpec(kind="none")
SEARCHES = {
    "TPE, median": (SamplerSpec(kind="tpe"), MEDIAN),
    "TPE, median from step 60": (SamplerSpec(kind="tpe"), LATE),
    "TPE, ASHA": (SamplerSpec(kind="tpe"), ASHA),
    "TPE": (SamplerSpec(kind="tpe"), NONE),
    "GP": (SamplerSpec(kind="gp"), NONE),
    "random, median": (SamplerSpec(kind="random"), MEDIAN),
    "random": (SamplerSpec(kind="random"), NONE),
}


@dataclass(frozen=True)
class Replay:
    """One search: regret after each trial, by the steps spent by then, and how many completed."""

    cost: Array
    regret: Array
    completed: int

    def at(self, cost: float) -> float:
        """Regret of what is chosen when ``cost`` is spent."""
        return float(self.regret[np.searchsorted(self.cost, cost, side="right") - 1])


def replay(surface: Surface, sampler: SamplerSpec, pruner: PrunerSpec, seed: int) -> Replay:
    """Search until the budget is spent; a trial that does not fit any more is not counted."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study(
        sampler=make_sampler(sampler, seed),
        pruner=make_pruner(pruner, surface.steps[-1]),
        direction="maximize",
    )
    spent, budget = 0, TRIALS * surface.steps[-1]
    # Who has chosen nothing yet has the worst.
    costs, regrets, best = [0], [surface.best - surface.low], -np.inf
    while True:
        trial = study.ask(SPACE)
        value = surface.values(scaled(trial.params)[None])[0]
        seen = value + surface.noise(rng)
        steps = _play(trial, surface.steps, seen)
        spent += steps
        if spent > budget:
            break
        completed = steps == surface.steps[-1]
        state = optuna.trial.TrialState.COMPLETE if completed else optuna.trial.TrialState.PRUNED
        study.tell(trial, float(seen[-1]) if completed else None, state=state)
        regrets.append(regrets[-1])
        costs.append(spent)
        if completed and seen[-1] > best:
            best, regrets[-1] = seen[-1], surface.best - float(value[-1])
    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return Replay(np.array(costs, dtype=float), np.array(regrets), len(done))


def _play(trial: optuna.Trial, steps: list[int], scores: Array) -> int:
    """Report the curve as a sweep does; the steps played until the end or the pruner's."""
    for step, score in zip(steps[:-1], scores, strict=False):
        trial.report(float(score), step)
        if trial.should_prune():
            return step
    return steps[-1]


def table(surface: Surface, found: dict[str, list[Replay]]) -> pd.DataFrame:
    """Median and quartiles of regret over seeds at fractions of the budget."""
    budget = TRIALS * surface.steps[-1]
    rows: dict[str, dict[str, str]] = {}
    for name, runs in found.items():
        rows[name] = {}
        for fraction in FRACTIONS:
            regrets = [run.at(fraction * budget) for run in runs]
            low, middle, high = np.percentile(regrets, [25, 50, 75])
            rows[name][f"{fraction:.0%}"] = f"{middle:.1f} ({low:.1f} to {high:.1f})"
        final = np.array([run.at(budget) for run in runs])
        other = np.array([run.at(budget) for run in found["random"]])
        rows[name]["better than random"] = f"{np.mean(final < other):.0%}"
        rows[name]["completed"] = f"{np.mean([run.completed for run in runs]):.0f}"
    return pd.DataFrame(rows).T


def figure(surface: Surface, found: dict[str, list[Replay]]) -> go.Figure:
    """Median regret over cost, with a band from the lower to the upper quartile."""
    drawn = go.Figure()
    costs = np.linspace(surface.steps[-1], TRIALS * surface.steps[-1], 100)
    colours = ["#0072B2", "#F0E442", "#009E73", "#56B4E9", "#CC79A7", "#D55E00", "#E69F00"]
    for colour, (name, runs) in zip(colours, found.items(), strict=True):
        regrets = np.array([[run.at(cost) for cost in costs] for run in runs])
        low, middle, high = np.percentile(regrets, [25, 50, 75], axis=0)
        band: dict[str, Any] = {"mode": "lines", "legendgroup": name, "line": {"width": 0}}
        band |= {"hoverinfo": "skip", "showlegend": False}
        drawn.add_scatter(x=costs, y=high, **band)
        drawn.add_scatter(x=costs, y=low, fill="tonexty", fillcolor=f"{colour}22", **band)
        line = {"color": colour, "width": 2}
        drawn.add_scatter(x=costs, y=middle, name=name, legendgroup=name, line=line)
    drawn.update_layout(
        template="plotly_white",
        title="Regret of the chosen trial: median over seeds, and quartiles",
        xaxis_title="student steps spent",
        yaxis_title="normalized score below the surface's best",
    )
    return drawn


def main() -> None:
    """Record, or replay and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("folder", type=Path, help="where teachers and the reward model are kept")
    recording.add_argument("--points", type=int, default=POINTS)
    replaying = commands.add_parser("replay")
    replaying.add_argument("--seeds", type=int, default=SEEDS)
    replaying.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "record":
        from tests.benchmarks.recording import record

        record(FILE, arguments.folder, arguments.points)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    surface = Surface(FILE)
    lengths = ", ".join(f"{value:g}" for value in surface.lengths)
    print(
        f"surface: {surface.low:.1f} to {surface.best:.1f}, seeds scatter by "
        f"{surface.noise_std()[-1]:.1f}; left-out points are predicted with R² "
        f"{surface.explained:.2f} (lengths {lengths}, ridge {surface.ridge:g})"
    )
    agree = ", ".join(
        f"{value:.2f} at {step}"
        for step, value in zip(surface.steps, surface.agreement, strict=True)
    )
    print(f"rank correlation of the score at a step with the last one: {agree}\n")
    found = {
        name: [replay(surface, *parts, seed) for seed in range(arguments.seeds)]
        for name, parts in SEARCHES.items()
    }
    print(table(surface, found).to_markdown())
    if arguments.out:
        figure(surface, found).write_html(arguments.out, include_plotlyjs=True)


if __name__ == "__main__":
    main()
