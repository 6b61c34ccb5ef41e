"""What a person who watches a sweep sees: an event a line, and a line of state now and then."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path


class Progress:
    """Prints lines with the time since the start, and keeps them in ``events.jsonl``."""

    def __init__(self, events: Path) -> None:
        self._events = events
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """One event."""
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock:
            print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)
            with self._events.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": now, "event": text}) + "\n")

    @contextmanager
    def every(self, seconds: float, line: Callable[[], list[str]]) -> Iterator[None]:
        """While the block runs, say ``line()`` every ``seconds`` if it has changed."""
        over = threading.Event()
        said: list[str] = []

        def look() -> None:
            nonlocal said
            lines = line()
            for text in lines:
                if text not in said:
                    self.say(text)
            said = lines

        def watch() -> None:
            while not over.wait(seconds):
                look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            look()
