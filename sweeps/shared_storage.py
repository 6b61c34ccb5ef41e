"""Whether all nodes of a cluster see the same storage, and can write to it."""

from __future__ import annotations

import uuid
from pathlib import Path

from ractd_core.files import write_text
from sweeps.layout import StorageError
from sweeps.mirror import address_of, mirror_of
from sweeps.nodes import Answers, ask_every_node, look

_SECONDS = 60.0


def check_shared(storage: Path) -> None:
    """Look at ``storage`` from every node of the Ray that is joined.

    An object store every node must reach with what its environment has. Raises
    :class:`StorageError` naming the nodes that do not find what is written there, cannot write, or
    do not answer in a minute.
    """
    problems = unshared(storage, survey(storage, _SECONDS))
    if problems:
        raise StorageError("\n".join(problems))


def survey(storage: Path, seconds: float) -> Answers:
    """Write a file into ``storage``, have every node look for it, and remove it again."""
    marker = storage / f".seen-{uuid.uuid4().hex[:8]}"
    mirror = mirror_of(storage)
    if mirror is None:
        write_text(marker, "a sweep looks for this from every node\n")
    else:
        mirror.store.write(marker.name, b"")
    try:
        return ask_every_node(look, f"{address_of(storage)}/{marker.name}", seconds)
    finally:
        marker.unlink(missing_ok=True)
        if mirror is not None:
            mirror.store.delete(marker.name)


def unshared(storage: Path, answers: Answers) -> list[str]:
    """What is wrong with the storage according to the nodes."""
    silent = sorted(address for address, view in answers if view is None)
    blind = sorted(address for address, view in answers if view and not view.sees)
    barred = sorted(address for address, view in answers if view and view.sees and not view.writes)
    where, mirrored = address_of(storage), mirror_of(storage) is not None
    problems = []
    if silent:
        problems.append(f"no answer from {', '.join(silent)}: cut off, or starting no processes")
    if blind:
        advice = (
            "the Ray of each must have the store's credentials, endpoint and region in its "
            "environment"
            if mirrored
            else "give a folder that all of them mount with --storage"
        )
        problems.append(
            f"storage {where} is not the same on every node of the cluster: "
            f"{', '.join(blind)} {'do' if len(blind) > 1 else 'does'} not see what was "
            f"written there; {advice}"
        )
    if barred:
        advice = (
            "give its credentials the right to write"
            if mirrored
            else "mount it for writing by the user that runs Ray there"
        )
        problems.append(f"storage {where} cannot be written on {', '.join(barred)}; {advice}")
    return problems
