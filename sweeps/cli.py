"""The ``ractd`` command."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from filelock import Timeout
from rich.console import Console

from cluster import Job, JobState
from ractd_core.files import FileError
from sweeps.cli_bench import bench_app
from sweeps.cli_cluster import cluster_app
from sweeps.cli_data import data_app, tasks
from sweeps.cli_errors import INTERRUPTED, user_errors
from sweeps.cli_evaluate import evaluate
from sweeps.cli_export import export
from sweeps.cli_progress import progress
from sweeps.cli_recipe import recipe
from sweeps.cli_report import report_app
from sweeps.cli_track import track
from sweeps.cli_train import train
from sweeps.jobs import backend_of, check_undriven, goes_on, state_of, stop
from sweeps.layout import (
    StorageError,
    SweepFolder,
    check_storage,
    names,
    open_sweep,
    storage_path,
)
from sweeps.retry import retry_failed
from sweeps.spec import SpecError, SweepSpec, load_spec, presets
from sweeps.spec_schema import spec_schema

_LOOK, _WATCH = 0.5, 5.0
"""Seconds between two looks: at whether a sweep has ended, and at how far it is."""
_SIGNALLED = 128
"""Above it an exit code is of a signal."""
_ENDING = 15.0
"""Seconds that a driver takes to end its Ray."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sweeps of reward-aware consistency trajectory distillation (RACTD) on D4RL tasks.",
)
sweep_app = typer.Typer(no_args_is_help=True, help="Run, resume and watch sweeps.")
app.add_typer(data_app, name="data")
app.add_typer(sweep_app, name="sweep")
app.add_typer(bench_app, name="bench")
app.add_typer(cluster_app, name="cluster")
app.add_typer(report_app, name="report")

Storage = Annotated[
    str | None, typer.Option(help="Folder of stages and sweeps; default RACTD_HOME/storage.")
]
Plain = Annotated[bool, typer.Option(help="Lines instead of a table, also on a terminal.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Name = Annotated[str, typer.Argument(help="The sweep's name.")]


app.command()(tasks)
app.command()(recipe)
app.command()(train)
app.command()(evaluate)
app.command()(export)
sweep_app.command()(track)


@sweep_app.command("run")
def sweep_run(
    spec: Annotated[str, typer.Argument(help=f"A YAML file, or one of: {', '.join(presets())}.")],
    storage: Storage = None,
    detach: Annotated[bool, typer.Option(help="Leave it running and return at once.")] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print what it would take, stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The dry run as JSON.")] = False,
    plain: Plain = False,
) -> None:
    """Run a sweep on this machine. An interrupted or finished one goes on from where it is."""
    from ractd_core.data.acquire import check_obtainable

    with user_errors():
        checked = load_spec(spec)
        if dry or as_json:
            planned = SweepFolder(storage_path(storage or checked.storage), checked.name)
            raise typer.Exit(_dry_run(checked, planned, planned.check_same, as_json))
        folder = SweepFolder(check_storage(storage or checked.storage), checked.name)
        for name in checked.datasets():
            check_obtainable(name, checked.data.recipe())
        folder.freeze(checked)
        raise typer.Exit(_drive(folder, detach, plain))


@sweep_app.command("schema")
def sweep_schema() -> None:
    """Print the JSON Schema of specs, for editors that complete and check YAML."""
    typer.echo(json.dumps(spec_schema(), indent=1))


@sweep_app.command("resume")
def sweep_resume(
    name: Name,
    spec: Annotated[
        str | None,
        typer.Option(help="Go on as this YAML file says: more trials or tasks, a wider search."),
    ] = None,
    retry: Annotated[
        bool,
        typer.Option("--retry-failed", help="Run failed trials again, but for diverged ones."),
    ] = False,
    storage: Storage = None,
    detach: Annotated[bool, typer.Option(help="Leave it running and return at once.")] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Print what the sweep would take in all, stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The dry run as JSON.")] = False,
    plain: Plain = False,
) -> None:
    """Go on with a sweep after anything; if it is running, follow it."""
    with user_errors():
        folder = open_sweep(storage, name)
        frozen = folder.spec_to_run()
        if dry or as_json:
            changed = frozen if spec is None else load_spec(spec)
            raise typer.Exit(_dry_run(changed, folder, folder.check_extension, as_json))
        if spec is not None:
            _extend(folder, spec)
        if retry:
            _retry(folder)
        raise typer.Exit(_drive(folder, detach, plain))


@sweep_app.command("status")
def sweep_status(
    name: Name,
    storage: Storage = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Again when it changes, until it has ended.")] = False,
) -> None:
    """Say how far a sweep is, from its records; works while it runs, on any machine."""
    from sweeps.live import Screen, drawn
    from sweeps.status import StatusReader
    from sweeps.status_text import to_json, to_text

    with user_errors():
        folder = open_sweep(storage, name)
        folder.spec()
        reader, said = StatusReader(folder), ""
        if watch and not as_json and _draws(Console()):
            with drawn(Screen(reader, lambda: state_of(folder)), Console()):
                while goes_on(folder):
                    time.sleep(_LOOK)
            return
        while True:
            last = not (watch and goes_on(folder))
            status = reader.sweep(state_of(folder))
            text = json.dumps(to_json(status)) if as_json else to_text(status)
            if text != said:
                typer.echo(text)
            said = text
            if last:
                return
            time.sleep(_WATCH)


@sweep_app.command("list")
def sweep_list(storage: Storage = None, as_json: AsJson = False) -> None:
    """List the sweeps of a storage and how far they are."""
    from sweeps.status import StatusReader
    from sweeps.status_text import to_json

    with user_errors():
        root = storage_path(storage)
        found = names(root)
        listed = []
        if not found and not as_json:
            typer.echo(f"no sweeps in {root}; `ractd sweep run quickstart` starts one")
        for name in found:
            folder = SweepFolder(root, name)
            state = state_of(folder, short=True)
            try:
                status = StatusReader(folder).sweep(state)
            except (SpecError, FileError, StorageError, OSError) as error:
                # One damaged sweep must not hide the others.
                typer.echo(f"{name} [{state}] {error}", err=True)
                continue
            listed.append(to_json(status))
            for task in () if as_json else status.tasks:
                typer.echo(f"{name} [{state}] {task.line()}")
        if as_json:
            typer.echo(json.dumps(listed))


@sweep_app.command("stop")
def sweep_stop(name: Name, storage: Storage = None) -> None:
    """Interrupt a running sweep; it can be resumed."""
    with user_errors():
        folder = open_sweep(storage, name)
        folder.spec()
        ended = stop(folder, grace=_grace(folder))
    typer.echo(f"{name}: {ended}")


def _extend(folder: SweepFolder, source: str) -> None:
    from ractd_core.data.acquire import check_obtainable

    spec = load_spec(source)
    for name in spec.datasets():
        check_obtainable(name, spec.data.recipe())
    with _while_stopped(folder):
        folder.extend(spec)


def _retry(folder: SweepFolder) -> None:
    with _while_stopped(folder):
        numbers = ", ".join(map(str, retry_failed(folder)))
    typer.echo(f"trials {numbers} are run again" if numbers else "no failed trial to run again")


@contextmanager
def _while_stopped(folder: SweepFolder) -> Iterator[None]:
    try:
        yield
    except Timeout as error:
        raise StorageError(
            f"sweep {folder.name!r} is running; `{folder.command('stop')}` first, then "
            "resume it in another way"
        ) from error


def _dry_run(
    spec: SweepSpec, folder: SweepFolder, check: Callable[[SweepSpec], None], as_json: bool
) -> int:
    """Print what a sweep would take; 2 if something would keep it from running."""
    from sweeps.dry_run import dry_run
    from sweeps.dry_run_table import table
    from sweeps.step_times import StepTimes

    with progress() as say:
        plan = dry_run(spec, folder, StepTimes(folder.store, spec.resources, say), check)
    typer.echo(json.dumps(asdict(plan), indent=1) if as_json else table(plan))
    for problem in plan.problems:
        typer.echo(f"error: {problem}", err=True)
    return 2 if plan.problems else 0


def _draws(console: Console) -> bool:
    """Whether a table can be drawn again in the same place."""
    return console.is_terminal and not console.is_dumb_terminal


def _drive(folder: SweepFolder, detach: bool, plain: bool) -> int:
    """Submit the driver to the local backend unless it runs, and follow it to its end."""
    backend, name = backend_of(folder), folder.name
    ours = backend.status(name).state is not JobState.RUNNING
    if not ours:
        typer.echo(f"sweep {name} is running already; following it")
    else:
        check_undriven(folder)
        backend.submit(
            Job(
                name,
                (sys.executable, "-u", "-m", "sweeps.drive", str(folder.storage), name),
                {"PYTHONUNBUFFERED": "1"},
            )
        )
    if detach:
        typer.echo(f"`{folder.command('status')}` says how far it is")
        return 0
    try:
        _follow(folder, plain)
    except KeyboardInterrupt:
        if not ours:
            typer.echo(f"\nsweep {name} goes on; `{folder.command('stop')}` ends it")
            return 0
        typer.echo("\nstopping the sweep ...")
        backend.stop(name, grace=_grace(folder))
        typer.echo(f"interrupted; `{folder.command('resume')}` goes on from here")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; the sweep itself goes on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    status = backend.status(name)
    killed = status.state is JobState.FAILED and (status.exit_code or 0) > _SIGNALLED
    if status.state is JobState.LOST or killed:
        typer.echo(f"the driver was killed; `{folder.command('resume')}` goes on from here")
    return 0 if status.exit_code == 0 else (status.exit_code or 1)


def _grace(folder: SweepFolder) -> float:
    """Seconds that a driver may take to end: its trials' and its own."""
    return folder.spec().resources.grace + _ENDING


def _follow(folder: SweepFolder, plain: bool) -> None:
    """Show the driver's log to its end: as a table on a terminal, else line by line."""
    lines = backend_of(folder).logs(folder.name, follow=True)
    console = Console()
    if plain or not _draws(console):
        for line in lines:
            typer.echo(line)
        return
    from sweeps.live import Screen, follow
    from sweeps.status import StatusReader

    follow(lines, Screen(StatusReader(folder), lambda: state_of(folder)), console)


def main() -> None:
    """Entry point."""
    app()
