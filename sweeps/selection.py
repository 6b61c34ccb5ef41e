"""The score that a trial is selected by: of the last weights, the best, or the last few."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from sweeps.jsonl import Row
from sweeps.spec_parts import SelectionSpec

_RULES = ("last", "best", "mean_of_last")


def best_point(curve: list[Row]) -> Row:
    """The row with the highest score, the earlier one of two equals."""
    return max(curve, key=lambda row: row["score"])


def selection(spec: SelectionSpec, curve: list[Row], last: dict[str, Any]) -> dict[str, Any]:
    """A record's ``selection``.

    ``last`` is the :func:`sweeps.episodes.summary` of the selection episodes, which the last
    weights of every training seed have played; ``curve`` has the rows of all of them. Every rule's
    score is the mean of its scores for each seed.
    """
    seeds = []
    for student in last["seeds"]:
        own = [row for row in curve if row["training_seed"] == student["training_seed"]]
        best = best_point(own)
        seeds.append(
            {
                "training_seed": student["training_seed"],
                "last": student["score"],
                "best": best["score"],
                "best_step": best["step"],
                "mean_of_last": fmean(row["score"] for row in own[-spec.last :]),
            }
        )
    scores = {rule: fmean(seed[rule] for seed in seeds) for rule in _RULES}
    spread = {key: last[key] for key in last if key not in ("score", "return_mean", "seeds")}
    score = scores[spec.rule.replace("-", "_")]
    return {"rule": spec.rule, "score": score, **scores, **spread, "seeds": seeds}
