"""Work beside a block: a thread for as long as the block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def beside(
    work: Callable[[threading.Event], None], *, patience: float | None = None
) -> Iterator[None]:
    """Run ``work(over)`` in a thread while the block runs; it has to return once ``over`` is set.

    Leaving the block waits for it, at most ``patience`` seconds if given.
    """
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(patience)
