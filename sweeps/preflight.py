"""What would keep a sweep from running on the cluster that its job has landed on.

Asked in the job's first seconds, before data, stages or trials, and told all at once.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cluster.settings import CAPACITY
from sweeps.embedded_ray import (
    ResourceError,
    capacity,
    check_resources,
    ray_session,
    reachable,
)
from sweeps.nodes import Answers
from sweeps.shared_storage import survey, unshared
from sweeps.spec_parts import Resources
from sweeps.versions import differences, versions

PASSED = "preflight passed"
"""How the line begins that says so."""
_SECONDS = 20.0
"""For the nodes' answers: the user hears of a silent one within half a minute."""
_KINDS = ("teacher", "reward", "student")


class PreflightError(RuntimeError):
    """The cluster cannot run the sweep; the message has every reason."""


def preflight(resources: Resources, storage: Path, expected: dict[str, str]) -> list[str]:
    """Look at the cluster at ``RAY_ADDRESS``; returns what to tell, the last line beginning PASSED.

    ``expected`` are the versions that the sweep was submitted with. Raises
    :class:`PreflightError` for versions that differ, a storage that a node does not see or cannot
    write, resources that nobody can ever have, and a State API that does not answer.
    """
    here = differences(expected, versions())
    if here:
        # Another Ray or Python could not even join.
        raise PreflightError(_told([f"the job's own node has {', '.join(here)}"], versions=True))
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_session())
        except (RuntimeError, ConnectionError) as error:
            raise PreflightError(f"the cluster cannot be joined: {error}") from error
        return _look(resources, storage, expected)


def _look(resources: Resources, storage: Path, expected: dict[str, str]) -> list[str]:
    import ray

    answers = survey(storage, _SECONDS)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    different = _different(answers, expected)
    problems = [
        *different,
        *unshared(storage, answers),
        *_unplaceable(resources, nodes),
        *_state_api(),
    ]
    if problems:
        raise PreflightError(_told(problems, versions=bool(different)))
    now = ray.cluster_resources()
    return [
        *_waits(resources, ray.available_resources(), now),
        f"{PASSED}: {_count(len(nodes), 'node')}, {_has(now)}, storage {storage} on all of them",
    ]


def _told(problems: list[str], *, versions: bool) -> str:
    count = _count(len(problems), "reason")
    lines = [f"this cluster cannot run the sweep: {count}", *problems]
    if versions:
        lines.append(
            "install the same versions where you submit and on every node: in a checkout `pip "
            "install -c constraints.txt .`"
        )
    return "\n  ".join(lines)


def _different(answers: Answers, expected: dict[str, str]) -> list[str]:
    return [
        f"{address} has {', '.join(found)}"
        for address, view in answers
        if view and (found := differences(expected, view.versions))
    ]


def _unplaceable(resources: Resources, nodes: list[dict[str, float]]) -> list[str]:
    """Stages that never fit, and workers that no single node has room for."""
    try:
        check_resources(resources, reachable())
    except ResourceError as error:
        return str(error).split("\n")
    if CAPACITY in os.environ:
        return []  # an autoscaler knows larger nodes than those there
    return [
        f"resources.{kind}: no node has {_wanted(stage)}, which every worker takes on one node"
        for kind in _KINDS
        if (stage := getattr(resources, kind))
        and not any(
            node.get("CPU", 0) >= stage.cpus and node.get("GPU", 0) >= stage.gpus for node in nodes
        )
    ]


def _waits(resources: Resources, free: dict[str, float], now: dict[str, float]) -> list[str]:
    """That the cluster is full, if it is, and what is waited for."""
    waiting = [kind for kind in _KINDS if capacity(getattr(resources, kind), free) < 1]
    if not waiting:
        return []
    kind = waiting[0]
    stage: Any = getattr(resources, kind)
    larger = capacity(stage, now) < 1
    return [
        f"the cluster is {'too small yet' if larger else 'full'} ({_has(free)} free of "
        f"{_has(now)}): the sweep waits until a {kind} fits, {_count(stage.workers, 'worker')} "
        f"with {_wanted(stage)} each"
    ]


def _state_api() -> list[str]:
    """Ray Train asks it which of a stopped trial's workers are left."""
    from ray.util.state import list_nodes

    try:
        list_nodes(limit=1, timeout=10)
    except Exception as error:  # whatever kind, it does not answer
        return [
            f"the State API does not answer ({type(error).__name__}); start the head node with its "
            "dashboard, from `ray[default]`"
        ]
    return []


def _has(resources: dict[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def _wanted(stage: Any) -> str:
    return f"{stage.cpus:g} CPUs and {stage.gpus:g} GPUs"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
