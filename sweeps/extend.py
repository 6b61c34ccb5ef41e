"""What of a sweep's spec may change once it has begun, and what may not.

A record stands for the trial it was run as. So what defines trials and their scores stays, and what
says how many, which and with what means may change: the sweep then goes on as if it had always been
so.
"""

from __future__ import annotations

from typing import Any

from sweeps.search_space import Choices, Parameter, Range, contains, fixed, label, parameters
from sweeps.spec import SweepSpec

_DEFINING = {
    "name": "it is how the sweep is found",
    "data": "other data would be another dataset",
    "family": "earlier trials were of these recipes",
    "recipe": "earlier trials were of these recipes",
    "training_seeds": "scores over other training seeds do not compare",
    "objectives": "earlier trials were not measured by others",
    "seed": "it would change nothing but make suggestions irreproducible",
}
_SELECTION = ("rule", "last")


def refusals(old: SweepSpec, new: SweepSpec) -> list[str]:
    """Why a sweep of spec ``old`` cannot go on as ``new``, a line each; none if it can."""
    problems = [
        f"{key}: was {_short(getattr(old, key))}, is {_short(getattr(new, key))}; {why}"
        for key, why in _DEFINING.items()
        if getattr(old, key) != getattr(new, key)
    ]
    played = {"final_episodes": old.evaluation.final_episodes}
    if new.evaluation.model_copy(update=played) != old.evaluation:
        problems.append(
            f"evaluation: was {old.evaluation}, is {new.evaluation}; scores over other episodes do "
            "not compare, only final_episodes can change"
        )
    gone = [task for task in old.tasks if task not in new.tasks]
    if gone:
        problems.append(f"tasks: {', '.join(gone)} left out; tasks can be added only")
    if new.trials < old.trials:
        problems.append(f"trials: was {old.trials}, is {new.trials}; they can become more only")
    for key in _SELECTION:
        was, now = getattr(old.selection, key), getattr(new.selection, key)
        if was != now:
            problems.append(
                f"selection.{key}: was {was}, is {now}; what a trial keeps depends on it"
            )
    if (old.pruner.kind == "none") != (new.pruner.kind == "none"):
        problems.append(
            f"pruner.kind: was {old.pruner.kind}, is {new.pruner.kind}; trials that may collapse "
            "and trials that may not do not compare"
        )
    if old.budget.keep == "top" and (
        new.budget.keep != "top" or new.selection.top > old.selection.top
    ):
        problems.append(
            f"budget.keep: the students of all but the {old.selection.top} best trials are gone"
        )
    if fixed(old.search) != fixed(new.search):
        problems.append(
            f"search: fixed values were {_short(fixed(old.search))}, are "
            f"{_short(fixed(new.search))}; all trials have the same"
        )
    return problems + _search(parameters(old.search), parameters(new.search))


def _search(old: dict[str, Parameter], new: dict[str, Parameter]) -> list[str]:
    problems = [
        f"search.{label(path)}: {'left out' if path in old else 'new'}; all trials have the same"
        for path in [*old, *new]
        if path not in old or path not in new
    ]
    for path in old.keys() & new.keys():
        was, now = old[path], new[path]
        ends = was.choices if isinstance(was, Choices) else (was.low, was.high)
        if was.only_if != now.only_if:
            problems.append(f"search.{label(path)}: only_if changed; all trials have the same")
        if isinstance(was, Choices) != isinstance(now, Choices):
            problems.append(f"search.{label(path)}: choices and ranges do not become each other")
        elif not all(contains(now, value) for value in ends) or _coarser(was, now):
            problems.append(f"search.{label(path)}: narrower than before; it can only be widened")
    return problems


def _coarser(was: Parameter, now: Parameter) -> bool:
    """Whether ``now``, a range that reaches as far, leaves out some of ``was``."""
    if not isinstance(was, Range) or not isinstance(now, Range) or now.step is None:
        return False
    return was.step is None or not contains(now, was.low + was.step)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
