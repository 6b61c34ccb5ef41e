"""What a command is doing, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from sweeps.cli_errors import CLEAR_LINE


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Says on stderr what is being done: on one line that is wiped, or in a log line by line."""
    live = sys.stderr.isatty()

    def say(line: str) -> None:
        typer.echo(f"{CLEAR_LINE}{line}" if live else line, nl=not live, err=True)

    yield say
    if live:
        typer.echo(CLEAR_LINE, nl=False, err=True)
