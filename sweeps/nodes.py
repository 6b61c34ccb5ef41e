"""Questions to every node of the Ray that is joined.

This module stays light: nodes import it before anything has run on them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.versions import versions


@dataclass(frozen=True)
class View:
    """What a node has installed, and whether it sees ``marker`` and can write beside it."""

    versions: dict[str, str]
    sees: bool
    writes: bool


Answers = list[tuple[str, View | None]]
"""Every node's address, and what it says; None from one that did not answer in time."""


def ask_every_node(question: Callable[[str], View], about: str, seconds: float) -> Answers:
    """The answers to ``question(about)`` of all nodes of the Ray that is joined.

    Nodes that are full answer too: asking takes none of their CPUs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(question)
    asked = {
        ask.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        ).remote(about): node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"]
    }
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
    return [(address, _answer(each) if each in ready else None) for each, address in asked.items()]


def look(marker: str) -> View:
    """What this node sees of the storage, a folder or a URI, that has ``marker`` in it."""
    if "://" in marker:
        return View(versions(), *_look_into_store(*marker.rsplit("/", 1)))
    try:
        with tempfile.TemporaryFile(dir=Path(marker).parent):
            writes = True
    except OSError:
        writes = False
    return View(versions(), Path(marker).exists(), writes)


def _look_into_store(uri: str, name: str) -> tuple[bool, bool]:
    """Whether the store has ``name``, and takes what is written."""
    from sweeps.layout import storage_path
    from sweeps.mirror import mirror_of

    mirror = mirror_of(storage_path(uri))
    assert mirror is not None
    try:
        if mirror.store.read(name) is None:
            return False, False
    except OSError:
        return False, False
    try:
        mirror.check()
    except OSError:
        return True, False
    return True, True


def _answer(reference: Any) -> View | None:
    import ray
    from ray.exceptions import RayError

    try:
        view: View = ray.get(reference)
    except RayError:
        return None  # the node went away
    return view
