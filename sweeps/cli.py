"""The ``ractd`` command."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cluster import Job, JobState, LocalBackend
from sweeps.cli_bench import bench_app
from sweeps.cli_data import data_app, tasks
from sweeps.cli_errors import user_errors
from sweeps.cli_evaluate import evaluate
from sweeps.cli_export import export
from sweeps.cli_progress import progress
from sweeps.cli_recipe import recipe
from sweeps.cli_train import train
from sweeps.layout import SweepFolder, check_storage, names, storage_path
from sweeps.spec import SpecError, SweepSpec, load_spec, presets
from sweeps.spec_schema import spec_schema

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sweeps of reward-aware consistency trajectory distillation (RACTD) on D4RL tasks.",
)
sweep_app = typer.Typer(no_args_is_help=True, help="Run, resume and watch sweeps.")
app.add_typer(data_app, name="data")
app.add_typer(sweep_app, name="sweep")
app.add_typer(bench_app, name="bench")

Storage = Annotated[
    str | None, typer.Option(help="Folder of stages and sweeps; default RACTD_HOME/storage.")
]
Name = Annotated[str, typer.Argument(help="The sweep's name.")]


app.command()(tasks)
app.command()(recipe)
app.command()(train)
app.command()(evaluate)
app.command()(export)


@sweep_app.command("run")
def sweep_run(
    spec: Annotated[str, typer.Argument(help=f"A YAML file, or one of: {', '.join(presets())}.")],
    storage: Storage = None,
    detach: Annotated[bool, typer.Option(help="Leave it running and return at once.")] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print what it would take, stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The dry run as JSON.")] = False,
) -> None:
    """Run a sweep on this machine. An interrupted or finished one goes on from where it is."""
    from ractd_core.data.acquire import check_obtainable

    with user_errors():
        checked = load_spec(spec)
        if dry or as_json:
            raise typer.Exit(_dry_run(checked, storage_path(storage), as_json))
        folder = SweepFolder(check_storage(storage), checked.name)
        for name in checked.datasets():
            check_obtainable(name, checked.data.recipe())
        folder.freeze(checked)
        raise typer.Exit(_drive(folder, detach))


@sweep_app.command("schema")
def sweep_schema() -> None:
    """Print the JSON Schema of specs, for editors that complete and check YAML."""
    typer.echo(json.dumps(spec_schema(), indent=1))


@sweep_app.command("resume")
def sweep_resume(
    name: Name,
    storage: Storage = None,
    detach: Annotated[bool, typer.Option(help="Leave it running and return at once.")] = False,
) -> None:
    """Go on with a sweep after anything; if it is running, follow it."""
    with user_errors():
        folder = SweepFolder(storage_path(storage), name)
        folder.spec_to_run()
        raise typer.Exit(_drive(folder, detach))


@sweep_app.command("status")
def sweep_status(name: Name, storage: Storage = None) -> None:
    """Say how far a sweep is, from its records; works while it runs."""
    from sweeps.status import building, report_page, task_status

    with user_errors():
        folder = SweepFolder(storage_path(storage), name)
        spec = folder.spec()
        job = _backend(folder).status(name)
        lines = [f"{name}: {job.state}{f', {job.detail}' if job.detail else ''}"]
        lines += [task_status(folder, dataset).line() for dataset in spec.tasks]
        lines += building(folder) if job.state is JobState.RUNNING else []
        lines += [f"report: {report_page(folder)}"] if report_page(folder).exists() else []
    typer.echo("\n".join(lines))


@sweep_app.command("list")
def sweep_list(storage: Storage = None) -> None:
    """List the sweeps of a storage and how far they are."""
    from sweeps.status import task_status

    with user_errors():
        root = storage_path(storage)
        found = names(root)
        if not found:
            typer.echo(f"no sweeps in {root}; `ractd sweep run quickstart` starts one")
        for name in found:
            folder = SweepFolder(root, name)
            state = _backend(folder).status(name).state
            try:
                for dataset in folder.spec().tasks:
                    typer.echo(f"{name} [{state}] {task_status(folder, dataset).line()}")
            except SpecError as error:
                # One damaged sweep must not hide the others.
                typer.echo(f"{name} [{state}] {error}", err=True)


@sweep_app.command("stop")
def sweep_stop(name: Name, storage: Storage = None) -> None:
    """Interrupt a running sweep; it can be resumed."""
    with user_errors():
        folder = SweepFolder(storage_path(storage), name)
        folder.spec()
        status = _backend(folder).stop(name)
    typer.echo(f"{name}: {status.state}{f', {status.detail}' if status.detail else ''}")


@app.command()
def report(name: Name, storage: Storage = None) -> None:
    """Write a sweep's table (Markdown, CSV), figures and page from its records."""
    from analysis import write_report

    with user_errors():
        folder = SweepFolder(storage_path(storage), name)
        written = write_report(folder.storage, name)
    typer.echo(written.table)
    typer.echo("")
    for line in written.headlines:
        typer.echo(line)
    typer.echo(f"\nreport: {written.page}")


def _dry_run(spec: SweepSpec, storage: Path, as_json: bool) -> int:
    """Print what a sweep would take; 2 if something would keep it from running."""
    from sweeps.dry_run import dry_run
    from sweeps.dry_run_table import table
    from sweeps.step_times import StepTimes

    with progress() as say:
        folder = SweepFolder(storage, spec.name)
        plan = dry_run(spec, folder, StepTimes(folder.store, spec.resources, say))
    typer.echo(json.dumps(asdict(plan), indent=1) if as_json else table(plan))
    for problem in plan.problems:
        typer.echo(f"error: {problem}", err=True)
    return 2 if plan.problems else 0


def _backend(folder: SweepFolder) -> LocalBackend:
    return LocalBackend(folder.storage / "sweeps")


def _drive(folder: SweepFolder, detach: bool) -> int:
    """Submit the driver to the local backend unless it runs, and follow it to its end."""
    backend, name = _backend(folder), folder.name
    ours = backend.status(name).state is not JobState.RUNNING
    if not ours:
        typer.echo(f"sweep {name} is running already; following it")
    else:
        backend.submit(
            Job(
                name,
                (sys.executable, "-u", "-m", "sweeps.drive", str(folder.storage), name),
                {"PYTHONUNBUFFERED": "1"},
            )
        )
    if detach:
        typer.echo(f"`ractd sweep status {name}` says how far it is")
        return 0
    try:
        for line in backend.logs(name, follow=True):
            typer.echo(line)
    except KeyboardInterrupt:
        if not ours:
            typer.echo(f"\nsweep {name} goes on; `ractd sweep stop {name}` ends it")
            return 0
        typer.echo("\nstopping the sweep ...")
        backend.stop(name)
        typer.echo(f"interrupted; `ractd sweep resume {name}` goes on from here")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; the sweep itself goes on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    status = backend.status(name)
    if status.state is JobState.LOST or (status.exit_code or 0) > 128:
        typer.echo(f"the driver was killed; `ractd sweep resume {name}` goes on from here")
    return 0 if status.exit_code == 0 else (status.exit_code or 1)


def main() -> None:
    """Entry point."""
    app()
