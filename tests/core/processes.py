"""Workers that train or play together, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


def run_workers(work: Callable[..., None], *arguments: Any, count: int = 2) -> list[int | None]:
    """Call ``work(rank, *arguments)`` in ``count`` processes; their exit codes, None if hung."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(rank, *arguments), daemon=True) for rank in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    ends = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    return ends
