"""A sweep written to a temporary storage, record by record, as the sweep system writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class SweepBuilder:
    """Writes records; keyword arguments override or add fields of a record."""

    task = "maze2d-umaze-v1"
    dataset = "local/maze2d-umaze-v1"
    fingerprint = "f00dfeed" * 8

    def __init__(self, storage: Path, name: str = "quickstart") -> None:
        self.storage = storage
        self.name = name
        self.folder = storage / "sweeps" / name
        created = "2026-01-05T10:00:00+00:00"
        header = {"name": name, "created": created, "versions": {}}
        self._json(
            self.folder / "sweep.json", header | {"datasets": {self.dataset: self.fingerprint}}
        )

    def data(self, scores: Sequence[float] = (20.0, 40.0, 60.0), **fields: Any) -> None:
        record = {
            "dataset": self.dataset,
            "task": self.task,
            "fingerprint": self.fingerprint,
            "transitions": 100_000,
            "episodes": 1300,
            "counted": "stretches of 300 steps",
            "behaviour_scores": list(scores),
        } | fields
        self._json(self.folder / "data" / f"{record['task']}.json", record)

    def stage(self, kind: str, key: str, device_seconds: float = 40.0, **fields: Any) -> str:
        name = f"{kind}-{key}"
        record = {
            "schema": 1,
            "kind": kind,
            "key": key,
            "name": name,
            "config": {"horizon": 160},
            "parents": {},
            "fingerprint": self.fingerprint,
            "steps": 1000,
            "seconds": device_seconds / 2,
            "workers": 2,
            "device": "cpu",
            "device_seconds": device_seconds,
            "loss": 0.01,
        } | fields
        self._json(self.storage / "stages" / name / "manifest.json", record)
        return name

    def trial(
        self,
        number: int,
        status: str = "completed",
        sigma: float = 1e-4,
        horizon: int = 160,
        params: Mapping[str, Any] | None = None,
        curve: Sequence[float | None] = (),
        **fields: Any,
    ) -> Path:
        key = f"{number:04d}abcd"
        selection = {"rule": "last", "score": 130.0 + number, "std": 12.0}
        selection |= {"episodes": 50, "first_seed": 10_000}
        selection |= dict.fromkeys(("last", "best", "mean_of_last"), 130.0 + number)
        weights = {"ctm_weight": 1.0, "dsm_weight": 1.0, "reward_weight": sigma}
        record = self._common("trial", key) | {
            "method": "ractd",
            "number": number,
            "status": status,
            "params": {"horizon": horizon} | weights | dict(params or {}),
            "selection": selection if status == "completed" else None,
            "started": "2026-01-05T10:00:00+00:00",
            "finished": "2026-01-05T10:01:00+00:00",
            "versions": {},
        }
        folder = self.folder / "trials" / key
        self._json(folder / "record.json", record | fields)
        if curve:
            points = [self._point(100 * (step + 1), score) for step, score in enumerate(curve)]
            (folder / "curve.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))
        return folder

    def row(
        self,
        method: str,
        scores: Sequence[float] = (130.0, 132.0, 134.0, 136.0),
        nfe: int = 1,
        latency: float | None = 0.9,
        selection_score: float | None = None,
        key: str | None = None,
        training_seeds: Sequence[int] = (0,),
        **fields: Any,
    ) -> Path:
        weights = {"ctm_weight": 1.0, "dsm_weight": 1.0, "reward_weight": 1e-4}
        record = self._common("row", key or f"row{method}") | {
            "method": method,
            "trial": None,
            "status": "completed",
            "training_seed": min(training_seeds),
            "training_seeds": len(training_seeds),
            "weights": "last",
            "params": {"horizon": 160} | (weights if method == "ractd" else {}),
            "nfe": nfe,
            "evaluation": {
                "score": float(np.mean(scores)),
                "std": float(np.std(scores)),
                "episodes": len(scores),
                "first_seed": 1_000_000,
                "return_mean": 207.4,
            },
            "selection_score": selection_score,
            "latency_ms": latency and {"median": latency, "p95": 1.2 * latency, "batch": 1},
        }
        record |= fields
        folder = self.folder / "rows" / str(record["key"])
        self._json(folder / "record.json", record)
        if record["evaluation"] is None:
            return folder
        lines = [
            f"{training_seed},{1_000_000 + i},{2 * (score + place)},{score + place},300\n"
            for place, training_seed in enumerate(training_seeds)
            for i, score in enumerate(scores)
        ]
        header = "training_seed,seed,return,score,length\n"
        (folder / "episodes.csv").write_text(header + "".join(lines))
        return folder

    def confirmation(
        self, number: int, score: float | None, selected: float = 140.0, **fields: Any
    ) -> None:
        """Of the trial `number`; without a score it has failed."""
        found: dict[str, Any] = {"score": score, "episodes": 50, "first_seed": 500_000}
        found["seeds"] = [{"training_seed": 0, "score": score}]
        record = self._common("confirmation", f"confirmation{number}") | {
            "method": "ractd",
            "number": number,
            "trial": f"{number:04d}abcd",
            "status": "completed" if score is not None else "failed",
            "params": {"horizon": 160},
            "retrain": 0,
            "selection_score": selected,
            "confirmation": None if score is None else found,
            "gap": None if score is None else selected - score,
        }
        record |= fields
        self._json(self.folder / "confirmations" / str(record["key"]) / "record.json", record)

    def _common(self, kind: str, key: str) -> dict[str, Any]:
        return {
            "schema": 2,
            "kind": kind,
            "key": key,
            "sweep": self.name,
            "task": self.task,
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "ref_min": 23.85,
            "ref_max": 161.86,
            "reason": None,
            "stages": {},
            "training_seed": 0,
            "training_seeds": 1,
            "steps": 600,
            "seconds": 12.3,
            "device": "cpu",
            "workers": 1,
        }

    @staticmethod
    def _point(step: int, score: float | None) -> dict[str, Any]:
        losses = {"loss": 0.4, "ctm": 0.1, "dsm": 0.3, "reward": -2.0, "grad_norm": 1.2}
        return {
            "training_seed": 0,
            "step": step,
            "score": score,
            "score_std": 20.2,
            "episodes": 20,
        } | losses

    @staticmethod
    def _json(path: Path, value: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))


@pytest.fixture
def builder(tmp_path: Path) -> SweepBuilder:
    """A sweep without any record."""
    return SweepBuilder(tmp_path)


@pytest.fixture
def full(builder: SweepBuilder) -> SweepBuilder:
    """Eight trials over two horizons that share two teachers and a reward model, and all rows."""
    return filled(builder)


def filled(builder: SweepBuilder) -> SweepBuilder:
    """`builder` with the records of `full`."""
    generator = np.random.default_rng(0)
    reward = builder.stage("reward", "r", 15.0)
    teachers = {
        horizon: builder.stage("teacher", f"t{horizon}", 40.0, config={"horizon": horizon})
        for horizon in (160, 256)
    }
    weights = [0.0, 1e-5, 1e-4, 1e-3]
    statuses = ["completed"] * 5 + ["pruned", "pruned", "failed"]
    for number, status in enumerate(statuses):
        horizon = (160, 256)[number % 2]
        steps = {"completed": 6, "pruned": 3, "failed": 4}[status]
        end = 130 - 12 * (number % 3)
        noise = generator.normal(0, 4, steps)
        builder.trial(
            number,
            status,
            sigma=weights[number // 2],
            horizon=horizon,
            curve=[end * (1 - 0.5 ** (i + 1)) + noise[i] for i in range(steps)],
            stages={"teacher": teachers[horizon], "reward": reward},
            reason="loss became NaN at step 412" if status == "failed" else None,
        )
    builder.data(list(generator.normal(45, 30, 300)))
    for method, mean, nfe, latency in (
        ("ractd", 133, 1, 0.9),
        ("teacher", 130, 158, 135.0),
        ("ctd", 124, 1, 0.9),
        ("regression", 126, 1, 0.8),
    ):
        selected = mean + 2.0 if nfe == 1 else None
        scores = list(generator.normal(mean, 12, 100))
        builder.row(method, scores, nfe, latency, selection_score=selected)
    return builder
