"""The stages that a search can ask for, known before it starts."""

from __future__ import annotations

import itertools

from sweeps.layout import TaskContext
from sweeps.search_space import Choices, apply, misfit
from sweeps.stage_store import StageRequest


def stage_requests(context: TaskContext, kind: str) -> list[StageRequest]:
    """The distinct stages of ``kind`` that the search can ask for.

    A field searched over a continuous range has no list of choices: such stages are left to the
    trials that need them.
    """
    search, base = context.spec.search, context.recipe
    rewarded = base.teacher.reward_weight or "teacher.reward_weight" in search
    read = ("window", kind, *(("reward",) if kind == "teacher" and rewarded else ()))
    own = {p: v for p, v in search.items() if p.split(".")[0] in read}
    choices = {p: v.choices for p, v in own.items() if isinstance(v, Choices)}
    if len(choices) < len(own):
        return []
    points = [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]
    recipes = [apply(base, point) for point in points if misfit(base, point) is None]
    requests = [context.request(kind, recipe) for recipe in recipes]
    return list({request.name: request for request in requests}.values())


def describe(request: StageRequest) -> str:
    """A stage for people."""
    horizon = "" if request.kind == "reward" else f" for horizon {request.recipe.window.horizon}"
    return f"{request.kind}{horizon} ({request.name})"
