"""What happens where memory does not suffice: once more, with half the rows at a time.

The batch of a step stays what it is, and training goes on from its last checkpoint.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from ractd_core.files import read_json, write_json
from sweeps.mirror import push
from sweeps.spec_parts import StageResources
from sweeps.workers import failure_reason, is_out_of_memory

RETRY = "retry.json"


def micro_batch(folder: Path, resources: StageResources) -> int | None:
    """Rows that go through the networks at a time: the spec's, or what a retry has left of them."""
    retry = folder / RETRY
    if retry.exists():
        rows: int = read_json(retry)["micro_batch"]
        return rows
    return resources.micro_batch


def with_one_retry(
    run: Callable[[], None], folder: Path, resources: StageResources, batch: int
) -> None:
    """Call ``run``, which trains in ``folder`` on batches of ``batch`` rows over all workers.

    Raises what it raises; if memory does not suffice, then only the second time.
    """
    try:
        run()
    except Exception as error:
        share = -(-batch // resources.fewest)
        half = min(micro_batch(folder, resources) or share, share) // 2
        if not is_out_of_memory(error) or half == 0 or (folder / RETRY).exists():
            raise
        write_json(folder / RETRY, {"micro_batch": half, "reason": failure_reason(error)})
        push(folder, patient=True)
    else:
        return
    # Out here nothing holds on to the frames in which memory was short.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    run()
