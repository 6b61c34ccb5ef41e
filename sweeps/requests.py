"""The stages that a search can ask for, known before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeps.layout import TaskContext
from sweeps.search_space import Parameter, apply, parameters, whole_space
from sweeps.stage_store import StageRequest


def stage_requests(context: TaskContext, kind: str) -> list[StageRequest]:
    """The distinct stages of ``kind`` that the search can ask for.

    A field searched over a continuous range has no list of choices: such stages are left to the
    trials that need them.
    """
    search, base = context.spec.search, context.recipe
    own = stage_parameters(search, kind, rewarded=bool(base.teacher.reward_weight))
    recipes = [apply(base, point) for point in whole_space(base, own)]
    requests = [context.request(kind, recipe) for recipe in recipes]
    return list({request.name: request for request in requests}.values())


def stage_parameters(
    search: Mapping[str, Any], kind: str, *, rewarded: bool = False
) -> dict[str, Parameter]:
    """The parameters that decide which stage of ``kind`` a trial asks for, with their conditions.

    ``rewarded``: whether teachers have a reward weight though none is searched.
    """
    ordered = parameters(search)
    rewarded = rewarded or "teacher.reward_weight" in ordered
    read = ("window", kind, *(("reward",) if kind == "teacher" and rewarded else ()))
    own = {path for path in ordered if path.split(".")[0] in read}
    for path in reversed(ordered):
        if path in own:
            own |= ordered[path].only_if.keys()
    return {path: parameter for path, parameter in ordered.items() if path in own}


def describe(request: StageRequest) -> str:
    """A stage for people."""
    horizon = "" if request.kind == "reward" else f" for horizon {request.recipe.window.horizon}"
    return f"{request.kind}{horizon} ({request.name})"
