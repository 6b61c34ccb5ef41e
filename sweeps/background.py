"""Work beside a block: a thread for as long as the block runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


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


def repeatedly(work: Callable[[], None], seconds: float) -> Callable[[threading.Event], None]:
    """For :func:`beside`: ``work()`` every ``seconds``, whatever one call of it raises.

    That is logged, unless the call before raised the same.
    """

    def repeat(over: threading.Event) -> None:
        before = ""
        while not over.wait(seconds):
            try:
                work()
                before = ""
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                if said != before:
                    known = isinstance(error, OSError)
                    _log.warning("%s; going on", said, exc_info=None if known else error)
                before = said

    return repeat
