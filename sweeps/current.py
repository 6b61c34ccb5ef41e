"""Which confirmations and rows are those of the present spec: an extended sweep has others too."""

from __future__ import annotations

from collections.abc import Iterable

from ractd_core.files import read_json, write_json
from sweeps.confirmation import candidates, confirmation_key, to_confirm, winner
from sweeps.finals import wanted
from sweeps.layout import SweepFolder, TaskContext


def point_out(folder: SweepFolder, contexts: Iterable[TaskContext]) -> None:
    """Write ``current.json``: the keys of confirmations and rows by task.

    Of rows nothing is said as long as candidates are still to be confirmed.
    """
    path = folder.path / "current.json"
    current = read_json(path) if path.exists() else {}
    for context in contexts:
        best = winner(context)
        keys = {"confirmations": [confirmation_key(context, t) for t in candidates(context)]}
        if not to_confirm(context):
            keys["rows"] = list(wanted(context, best).values()) if best else []
        current[str(context.dataset)] = keys
    write_json(path, current)
