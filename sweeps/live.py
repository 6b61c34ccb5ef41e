"""One table that follows a running sweep on a terminal, in place of a log that scrolls."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ractd_core.files import FileError
from sweeps.layout import StorageError
from sweeps.spec import SpecError
from sweeps.status import StatusReader, SweepStatus
from sweeps.status_text import interval, pace

_MESSAGES = 6
_REDRAWS = 2.0
"""Per second, at most."""
_SHARE = 0.05
"""Of the time at most, spent on reading the storage."""
_COLUMNS = ("done", "run", "wait", "pruned", "failed", "diverged", "best [95 %]", "stages")
_STAMPED = re.compile(r"\[\d+:\d\d\] ")


def table(status: SweepStatus) -> Table:
    """One row per task."""
    made = Table(
        title=f"{status.name}: {status.state}", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    made.add_column("task", overflow="fold")
    for name in _COLUMNS:
        made.add_column(name, justify="right", no_wrap=True)
    for task in status.tasks:
        stages = task.stages
        made.add_row(
            task.dataset,
            f"{task.done}/{task.trials}",
            str(task.running),
            str(task.waiting),
            str(task.pruned),
            str(task.failed),
            str(task.diverged),
            interval(task.best) if task.best else "",
            f"{stages.built}/{stages.built + stages.building + stages.to_come}" if stages else "",
        )
    return made


class Screen:
    """What is drawn: the status, read now and then, and the last messages."""

    def __init__(self, reader: StatusReader, state: Callable[[], str]) -> None:
        self._reader = reader
        self._state = state
        self._messages: deque[str] = deque(maxlen=_MESSAGES)
        self._table: RenderableType = Text("")
        self._due = 0.0

    def say(self, message: str) -> None:
        """Add a message below the table."""
        self._messages.append(message)

    def expire(self) -> None:
        """Read the storage at the next drawing, however recently it was read."""
        self._due = 0.0

    def draw(self) -> RenderableType:
        """The table and the messages; the storage is read again if that is due."""
        begun = time.monotonic()
        if begun >= self._due:
            self._table = self._read()
            now = time.monotonic()
            self._due = now + max(1 / _REDRAWS, (now - begun) / _SHARE)
        messages = (Text(line, no_wrap=True, overflow="ellipsis") for line in self._messages)
        return Group(self._table, *messages)

    def _read(self) -> RenderableType:
        try:
            status = self._reader.sweep(self._state())
        except (OSError, FileError, SpecError, StorageError) as error:
            # Storage that is away for a moment must not end the watching.
            return Text(f"the status cannot be read: {error}")
        return Group(table(status), Text(pace(status)), *map(Text, status.building))


@contextmanager
def drawn(screen: Screen, console: Console) -> Iterator[None]:
    """While the block runs, draw ``screen`` again and again in the same place."""
    with Live(
        get_renderable=screen.draw,
        console=console,
        refresh_per_second=_REDRAWS,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield
        screen.expire()


def follow(lines: Iterable[str], screen: Screen, console: Console) -> None:
    """Draw ``screen`` while ``lines`` of the driver's log come, which become its messages.

    What the driver printed last without a time (its report, an error) follows the table whole.
    """
    held: list[str] = []
    with drawn(screen, console):
        for line in lines:
            held.append(line)
            if _STAMPED.match(line):
                for message in filter(str.strip, held):
                    screen.say(message)
                held.clear()
    for line in held:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
