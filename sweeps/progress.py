"""What a person who watches a sweep sees, a line an event, and the same for programs.

``events.jsonl`` has a JSON object per event: ``time`` (ISO 8601, UTC), ``kind``, ``text`` where it
was printed, and the fields of :data:`FIELDS`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from ractd_core.files import FileError, lacks_room
from sweeps.background import beside
from sweeps.search_space import Scalar

Kind = Literal["sweep", "stage", "trial", "row", "message"]
FIELDS: Mapping[Kind, frozenset[str]] = {
    "sweep": frozenset({"state"}),
    "stage": frozenset({"state", "name", "steps", "seconds", "device_seconds", "loss"}),
    "trial": frozenset({"state", "dataset", "key", "number", "steps", "seconds", "score"}),
    "row": frozenset({"state", "dataset", "key", "method", "score", "episodes"}),
    "message": frozenset(),
}
"""What an event of each kind may say; ``state`` and what names the subject are always there."""
_NAMES = frozenset({"state", "name", "dataset", "key", "number", "method"})


@contextmanager
def _if_there_is_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not lacks_room(error):
            raise


class Progress:
    """Prints lines with the time since the start, and keeps them in ``events.jsonl``."""

    def __init__(self, events: Path) -> None:
        self._events = events
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """A message that is no fact for programs."""
        self.event("message", text)

    def event(self, kind: Kind, text: str | None = None, **fields: Scalar | None) -> None:
        """One fact with the ``fields`` of its kind, printed if there is a ``text`` for people.

        ValueError for a field that the kind does not have, and for one that names its subject and
        is missing. A number that is not known, or not finite, is None. Where there is no room, for
        the log or for the file, it is lost: it may be the very one that says so.
        """
        allowed = FIELDS[kind]
        wrong = (fields.keys() - allowed) | ((allowed & _NAMES) - fields.keys())
        if wrong:
            raise ValueError(f"event {kind!r}: {', '.join(sorted(wrong))} unknown or missing")
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        said = {} if text is None else {"text": text}
        line = json.dumps({"time": now, "kind": kind, **said, **fields}, allow_nan=False)
        with self._lock:
            if text is not None:
                with _if_there_is_room():
                    print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)
            with _if_there_is_room(), self._events.open("a+b") as file:
                file.write(_mended(file) + line.encode() + b"\n")

    @contextmanager
    def session(self) -> Iterator[None]:
        """A driver at work: that it started, and how it ended, are events."""
        self.event("sweep", state="started")
        state = "failed"
        try:
            yield
            state = "succeeded"
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            self.event("sweep", state=state)

    @contextmanager
    def every(self, seconds: float, line: Callable[[], list[str]]) -> Iterator[None]:
        """While the block runs, say ``line()`` every ``seconds`` if it has changed.

        Where the storage fails ``line``, or a file of it is damaged, that is said, and ``line`` is
        called again in its turn.
        """
        said: list[str] = []

        def look() -> None:
            nonlocal said
            try:
                lines = line()
            except (OSError, FileError) as error:
                lines = [f"the storage cannot be used for now: {error}"]
            for text in lines:
                if text not in said:
                    self.say(text)
            said = lines

        def watch(over: threading.Event) -> None:
            while not over.wait(seconds):
                with suppress(OSError):  # One look less.
                    look()

        try:
            with beside(watch):
                yield
        finally:
            look()


def _mended(file: BinaryIO) -> bytes:
    """The end of a last line that a crash or a full disk tore, so that the next one is whole."""
    if not file.tell():
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"
