"""``ractd sweep track``: a sweep in TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from sweeps.cli_errors import user_errors
from sweeps.jobs import goes_on
from sweeps.layout import open_sweep
from sweeps.trackers.choose import Kind

_LOOK = 5.0
"""Seconds between two looks at the storage."""


def track(
    name: Annotated[str, typer.Argument(help="The sweep's name.")],
    to: Annotated[Kind, typer.Option(help="Where to; each is an extra of that name.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of its files; default: the sweep's trackers/TO.")
    ] = None,
    uri: Annotated[
        str | None, typer.Option(help="MLflow's server; default a database in --out.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Go on until the sweep has ended.")] = False,
    storage: Annotated[str | None, typer.Option(help="Folder of stages and sweeps.")] = None,
) -> None:
    """Mirror a sweep's curves and records; run again, it adds what is new."""
    from sweeps.trackers.choose import make_tracker
    from sweeps.trackers.mirror import Mirror
    from sweeps.trackers.protocol import TrackerError

    with user_errors():
        folder = open_sweep(storage, name)
        folder.spec()
        where = (out or folder.path / "trackers" / to).expanduser().absolute()
        tracker = make_tracker(to, where, name, uri)
        where.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(where / ".lock", timeout=0):
                mirror = Mirror(folder, tracker)
                while True:
                    # Asked before the look: what is written until then is not missed.
                    more = follow and goes_on(folder)
                    # The address of a server may hold a password.
                    place = f"in {where}" if uri is None else "on the server"
                    typer.echo(f"{to}: {mirror.update()} runs brought up to date {place}")
                    if not more:
                        return
                    time.sleep(_LOOK)
        except Timeout:
            raise TrackerError(f"another `ractd sweep track` is writing to {where}") from None
