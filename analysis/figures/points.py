"""The trials of one dataset as points of the search space, as several figures want them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.figures.scale import Scale, scale_of
from analysis.figures.style import plain
from analysis.records import Records
from analysis.runs import diverged
from analysis.schema import PARAM_PREFIX, WEIGHTS
from analysis.tables import SYMBOLS

_SEARCHED_FIRST = ("reward_weight", "ctm_weight", "dsm_weight", "horizon")


@dataclass(frozen=True)
class TrialPoint:
    """A finished trial: what was tried and what came of it.

    `score` is its selection score, NaN unless it completed; `last` the last score of its curve,
    NaN without one, which says how far a pruned or failed trial had come. `diverged` failed
    because its training did, not for an outer reason.
    """

    sweep: str
    number: int
    status: str
    diverged: bool
    params: dict[str, object]
    score: float
    last: float

    @property
    def name(self) -> str:
        """The trial's name and parameters, for a reader who points at it."""
        values = "  ".join(
            f"{SYMBOLS.get(name, name)} {value:.3g}"
            if isinstance(value, float)
            else f"{SYMBOLS.get(name, name)} {value}"
            for name, value in self.params.items()
        )
        ended = "diverged" if self.diverged else self.status
        return plain(f"trial {self.number} of {self.sweep} ({ended})") + f"<br>{plain(values)}"


def trial_points(sweep: Records, dataset: str) -> tuple[TrialPoint, ...]:
    """The finished trials on `dataset`, by sweep and number."""
    trials = sweep.trials[sweep.trials["dataset"] == dataset].sort_values(["sweep", "number"])
    further = [name for name in trials.columns if name.startswith(PARAM_PREFIX)]
    scored = sweep.curves.dropna(subset="score").sort_values("step")
    last = scored.groupby(["sweep", "key"])["score"].last()
    points = []
    for line in trials.to_dict("records"):
        params: dict[str, object] = {weight: float(line[weight]) for weight in WEIGHTS}
        params["horizon"] = int(line["horizon"])
        params |= {
            name.removeprefix(PARAM_PREFIX): line[name]
            for name in further
            if isinstance(line[name], list) or not pd.isna(line[name])
        }
        points.append(
            TrialPoint(
                sweep=str(line["sweep"]),
                number=int(line["number"]),
                status=str(line["status"]),
                diverged=line["status"] == "failed" and diverged(line["reason"]),
                params=params,
                score=float(line["selection_score"]),
                last=float(last.get((line["sweep"], line["key"]), math.nan)),
            )
        )
    return tuple(points)


def searched(points: Sequence[TrialPoint]) -> tuple[Scale, ...]:
    """A scale for each parameter of which more than one value was tried: σ, α, β, horizon first."""
    names = [*_SEARCHED_FIRST, *sorted({name for point in points for name in point.params})]
    scales = []
    for name in dict.fromkeys(names):
        values = [point.params[name] for point in points if name in point.params]
        if len({str(value) for value in values}) > 1:
            scales.append(scale_of(name, values))
    return tuple(scales)
