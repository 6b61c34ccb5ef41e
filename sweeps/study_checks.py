"""Settings of a spec that contradict each other: sampler, pruner, objectives, selection, search.

A setting that is left at its default is never a mistake: it says nothing about what is wanted.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ractd_core.config import Config, Positive
from sweeps.search_space import Choices, Parameter, Range
from sweeps.spec_parts import Objective, PrunerSpec, SamplerSpec, SelectionSpec
from sweeps.validation import entry, table

_ALWAYS = frozenset({"top", "retrain", "confirmation_episodes"})
_READ: dict[str, dict[str, frozenset[str]]] = {
    "sampler.kind": {
        **dict.fromkeys(("tpe", "gp", "nsga2"), frozenset({"startup_trials"})),
        **dict.fromkeys(("random", "grid"), frozenset()),
    },
    "pruner.kind": {
        "median": frozenset({"startup_trials", "warmup_steps"}),
        "asha": frozenset({"warmup_steps", "reduction"}),
        **dict.fromkeys(("diverged", "none"), frozenset()),
    },
    "selection.rule": {
        **dict.fromkeys(("last", "best"), _ALWAYS),
        "mean-of-last": _ALWAYS | {"last"},
    },
}
"""Which settings beside the one that decides are read."""


def part(raw: dict[str, Any], model: type[Config], key: str) -> Any:
    """The file's settings at ``key``, the defaults where they are absent or invalid."""
    return entry(model, raw.get(key, {})) or model()


def study_checks(raw: dict[str, Any], searched: dict[str, tuple[str, Any]]) -> list[str]:
    """What contradicts; ``searched`` is the valid part of the search by the names in the file."""
    sampler = part(raw, SamplerSpec, "sampler")
    pruner = part(raw, PrunerSpec, "pruner")
    selection = part(raw, SelectionSpec, "selection")
    default: tuple[Objective, ...] = ("score",)
    objectives = entry(tuple[Objective, ...], raw.get("objectives", default)) or default
    return [
        *_unread("sampler.kind", sampler),
        *_unread("pruner.kind", pruner),
        *_unread("selection.rule", selection),
        *_sampler(sampler, {name: each for name, (_, each) in searched.items()}),
        *_objectives(objectives, pruner),
        *_counts(raw, pruner, selection),
        *_seeds(raw, searched),
    ]


def _unread(switch: str, settings: Config) -> list[str]:
    key, _, decides = switch.partition(".")
    kind = getattr(settings, decides)
    return [
        f"{key}.{name}: {decides} {kind} does not read it; leave it out"
        for name, info in type(settings).model_fields.items()
        if name not in {decides} | _READ[switch][kind] and getattr(settings, name) != info.default
    ]


def _sampler(sampler: SamplerSpec, search: dict[str, Any]) -> list[str]:
    if sampler.kind == "grid":
        return [
            f"search.{name}: a grid is made of choices; name them, or take another sampler"
            for name, parameter in search.items()
            if isinstance(parameter, Range)
        ]
    if sampler.kind == "gp":
        return [
            f"search.{name}.only_if: gp draws conditional parameters at random; take tpe"
            for name, parameter in search.items()
            if isinstance(parameter, Choices | Range) and parameter.only_if
        ]
    return []


def _objectives(objectives: tuple[Objective, ...], pruner: PrunerSpec) -> list[str]:
    problems = []
    if "score" not in objectives:
        problems.append("objectives: the winner is chosen by its score; add it")
    if len(set(objectives)) < len(objectives):
        problems.append("objectives: one is named twice")
    elif len(objectives) > 1 and pruner.kind not in ("diverged", "none"):
        problems.append(
            f"pruner.kind: {pruner.kind} ranks trials by one objective, of which there are "
            f"{len(objectives)}; write diverged or none"
        )
    return problems


def _counts(raw: dict[str, Any], pruner: PrunerSpec, selection: SelectionSpec) -> list[str]:
    problems = []
    if pruner.kind == "asha" and not pruner.warmup_steps:
        problems.append(
            "pruner.warmup_steps: asha first compares trials after this many student steps, "
            "then after each `reduction` times as many; write 1 or more, such as evaluation.every"
        )
    trials = entry(Positive, raw.get("trials"))
    if trials is None:
        return problems
    points = len(table(raw, "first_trials", ["default"]))
    if points > trials:
        problems.append(f"first_trials: {points} points, but trials is {trials}")
    if selection.top > trials and selection.top != SelectionSpec().top:
        problems.append(f"selection.top: the best {selection.top} of {trials} trials")
    if pruner.kind == "median" and trials <= pruner.startup_trials != PrunerSpec().startup_trials:
        problems.append(
            f"pruner.startup_trials: nothing is stopped before {pruner.startup_trials} trials "
            f"have finished, and trials is {trials}; write less, or kind: diverged"
        )
    return problems


def _seeds(raw: dict[str, Any], searched: dict[str, tuple[str, Any]]) -> list[str]:
    seeds = entry(Annotated[int, Field(ge=1)], raw.get("training_seeds", 1)) or 1
    if seeds == 1:
        return []
    return [
        f"search.{name}: each trial trains the {seeds} seeds that follow student.seed, so that "
        "trials would share some; search another field, or write training_seeds: 1"
        for name, (path, each) in searched.items()
        if path == "student.seed" and isinstance(each, Parameter)
    ]
