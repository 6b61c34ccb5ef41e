"""Mistakes of the user are one message and exit code 2, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

CLEAR_LINE = "\r\x1b[K"


@contextmanager
def user_errors() -> Iterator[None]:
    """Print an error that the user can do something about, and exit with 2."""
    from analysis import RecordError
    from cluster import JobError
    from ractd_core.data.flat import DataError
    from ractd_core.files import FileError
    from ractd_core.tasks import TaskError
    from sweeps.layout import StorageError
    from sweeps.spec import SpecError

    known = (SpecError, StorageError, JobError, TaskError, DataError, RecordError, FileError)
    try:
        yield
    except (*known, OSError) as error:
        # A line of progress may be under way.
        typer.echo(f"{CLEAR_LINE if sys.stderr.isatty() else ''}error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("\ninterrupted", err=True)
        raise typer.Exit(130) from None
