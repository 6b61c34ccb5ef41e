"""The stages that a search will ask for, as far as that is known before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeps.layout import TaskContext
from sweeps.search_space import Parameter, apply, parameters, whole_space
from sweeps.stage_store import StageRequest

_POINTS = 2000
"""Points of a space that are looked at, at most: many can ask for one stage."""


def stage_requests(context: TaskContext, kind: str) -> list[StageRequest]:
    """The distinct stages of ``kind`` that the search can ask for; none if that is left open.

    A field searched over a continuous range has no list of choices, and of more choices than there
    are trials most would be built for nothing: such stages are left to the trials that need them.
    """
    search, base = context.spec.search, context.recipe
    own = stage_parameters(search, kind, rewarded=bool(base.teacher.reward_weight))
    found: dict[str, StageRequest] = {}
    for count, point in enumerate(whole_space(base, own)):
        request = context.request(kind, apply(base, point))
        found[request.name] = request
        if len(found) > context.spec.trials or count == _POINTS:
            return []
    return list(found.values())


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
