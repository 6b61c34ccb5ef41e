"""Evaluation episodes on storage: a CSV with those of several students after each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from ractd_core.evaluate import Evaluation
from ractd_core.files import write_text

_QUANTILES = (5, 25, 50, 75, 95)


def add_episodes(path: Path, training_seed: int, result: Evaluation) -> None:
    """Add the episodes of the student trained with ``training_seed``, which must have none yet."""
    header, *lines = result.csv().splitlines()
    before = path.read_text() if path.exists() else f"training_seed,{header}\n"
    write_text(path, before + "".join(f"{training_seed},{line}\n" for line in lines))


def played(path: Path) -> set[int]:
    """The training seeds whose students have played; none if there is no file."""
    return set(pd.read_csv(path)["training_seed"]) if path.exists() else set()


def summary(path: Path) -> dict[str, Any]:
    """What records say of a file's episodes.

    ``score`` and ``return_mean`` are means over all of them; ``std`` (of the episodes, not of the
    mean) and ``q05`` to ``q95`` their spread; ``episodes`` and ``first_seed`` are each student's,
    and ``seeds`` has each student's own ``score``.
    """
    frame = pd.read_csv(path)
    scores = frame["score"]
    means = frame.groupby("training_seed")["score"].mean()
    return {
        "score": float(means.mean()),
        "std": float(scores.std()) if len(scores) > 1 else 0.0,
        "return_mean": float(frame["return"].mean()),
        "episodes": len(frame) // len(means),
        "first_seed": int(frame["seed"].min()),
        **{f"q{share:02d}": float(scores.quantile(share / 100)) for share in _QUANTILES},
        "seeds": [
            {"training_seed": int(seed), "score": float(mean)}
            for seed, mean in zip(means.index, means, strict=True)
        ],
    }
