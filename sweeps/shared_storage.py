"""Whether all nodes of a cluster see the same storage."""

from __future__ import annotations

import uuid
from pathlib import Path

from ractd_core.files import write_text
from sweeps.layout import StorageError

_SECONDS = 60.0


def check_shared(storage: Path) -> None:
    """Write a file into ``storage`` and look for it from every node of the Ray that is joined.

    Raises :class:`StorageError` naming the nodes that do not find it, or do not answer in a minute.
    The file is removed again.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(_sees)
    marker = storage / f".seen-{uuid.uuid4().hex[:8]}"
    write_text(marker, "a sweep looks for this from every node\n")
    try:
        looks = {
            look.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(str(marker)): node["NodeManagerAddress"]
            for node in ray.nodes()
            if node["Alive"]
        }
        ready, late = ray.wait(list(looks), num_returns=len(looks), timeout=_SECONDS)
        blind = [looks[each] for each in late] + [looks[r] for r in ready if not ray.get(r)]
    finally:
        marker.unlink(missing_ok=True)
    if blind:
        raise StorageError(
            f"storage {storage} is not the same on every node of the cluster: "
            f"{', '.join(sorted(blind))} {'do' if len(blind) > 1 else 'does'} not see what was "
            "written there; give a folder that all of them mount with --storage"
        )


def _sees(marker: str) -> bool:
    return Path(marker).exists()
