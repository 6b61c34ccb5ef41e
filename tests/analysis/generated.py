"""Storages with as many records as one likes, written as a sweep writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.analysis.conftest import SweepBuilder


def write_trials(
    storage: Path, trials: int, points: int = 10, episodes: int = 50, name: str = "large"
) -> None:
    """A sweep of `trials` trials with curves of `points` and `episodes` selection episodes each."""
    builder = SweepBuilder(storage, name)
    builder.data()
    stages = {"teacher": builder.stage("teacher", "t"), "reward": builder.stage("reward", "r")}
    rng = np.random.default_rng(0)
    for number in range(trials):
        status = ("completed", "completed", "pruned", "failed")[number % 4]
        scores = rng.normal(120, 20, points).tolist()
        folder = builder.trial(
            number,
            status,
            sigma=float(10 ** rng.uniform(-5, -2)),
            curve=scores,
            stages=stages,
            versions={"python": "3.11.7", "ractd": "0.1.0", "torch": "2.13.0+cpu"},
            finished="2026-01-05T10:01:00+00:00",
        )
        if status == "completed":
            lines = [
                f"0,{10_000 + place},{score * 1.4:.6f},{score:.6f},300"
                for place, score in enumerate(rng.normal(120, 20, episodes))
            ]
            text = "\n".join(["training_seed,seed,return,score,length", *lines])
            (folder / "episodes.csv").write_text(text + "\n")
    event = json.dumps({"time": "2026-01-05T10:01:00+00:00", "kind": "trial"}) + "\n"
    (builder.folder / "events.jsonl").write_text(event * trials)
