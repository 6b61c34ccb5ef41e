"""An evaluation's episodes side by side, against one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ractd_core.bench.timing import seconds_of
from ractd_core.evaluate import Evaluation, evaluate
from ractd_core.policy import LANES, Planner, Policy, make_policy
from ractd_core.tasks import DatasetName


@dataclass(frozen=True)
class EvaluationTimes:
    """Seconds of the same episodes, played by one-row-per-lane calls and otherwise.

    ``batched_s``: ``lanes`` at once; ``apart_s``: one at a time by the same calls, so the returns
    must be the same (``same_returns``); ``single_s``: one at a time by calls of one row. Ratios
    are to ``batched_s``.
    """

    episodes: int
    steps: int
    lanes: int
    score: float
    batched_s: float
    apart_s: float
    apart_ratio: float
    single_s: float
    single_ratio: float
    same_returns: bool


def time_evaluation(planner: Planner, dataset: DatasetName, episodes: int) -> EvaluationTimes:
    """Play ``episodes`` in the three ways, after some to build the environments."""
    policy, alone = make_policy(planner), make_policy(planner, lanes=1)
    seeds = range(episodes)
    evaluate(policy, dataset, seeds[:LANES])
    played: list[Evaluation] = []

    def timed(policy: Policy, batch: int) -> float:
        return seconds_of(
            lambda: played.append(evaluate(policy, dataset, seeds, batch=batch)), planner.device
        )

    batched, apart, single = timed(policy, LANES), timed(policy, 1), timed(alone, 1)
    return EvaluationTimes(
        episodes=episodes,
        steps=int(played[0].lengths.sum()),
        lanes=policy.lanes,
        score=played[0].score,
        batched_s=batched,
        apart_s=apart,
        apart_ratio=apart / batched,
        single_s=single,
        single_ratio=single / batched,
        same_returns=bool(np.array_equal(played[0].returns, played[1].returns)),
    )
