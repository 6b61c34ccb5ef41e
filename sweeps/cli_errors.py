"""Mistakes of the user are one message and exit code 2, not a traceback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

CLEAR_LINE = "\r\x1b[K"
INTERRUPTED = 130
"""The exit code after Ctrl-C."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Print an error that the user can do something about, and exit with 2."""
    from analysis import RecordError
    from analysis.pictures import PicturesError
    from cluster import JobError
    from ractd_core.data.flat import DataError
    from ractd_core.files import FileError
    from ractd_core.tasks import TaskError
    from sweeps.layout import StorageError
    from sweeps.lease import LeaseHeldError
    from sweeps.object_store import StoreUriError
    from sweeps.preflight import PreflightError
    from sweeps.spec import SpecError
    from sweeps.trackers.protocol import TrackerError

    known = (
        *(SpecError, StorageError, JobError, TaskError),
        *(DataError, RecordError, PicturesError, FileError, TrackerError),
        *(LeaseHeldError, PreflightError, StoreUriError),
    )
    try:
        with _interrupts_arrive():
            yield
    except (*known, OSError) as error:
        # A line of progress may be under way.
        typer.echo(f"{CLEAR_LINE if sys.stderr.isatty() else ''}error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("\ninterrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _interrupts_arrive() -> Iterator[None]:
    """Send Ctrl-C again where Python dropped it: what a finalizer raises is only printed."""
    default = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            # Later, or it would be raised, and dropped, in here.
            main = threading.main_thread().ident
            threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGINT)).start()
        else:
            default(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = default
