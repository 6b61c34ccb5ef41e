"""The ``ractd`` command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from cluster import Job, JobError, JobState, LocalBackend
from sweeps.layout import StorageError, SweepFolder, check_storage, names, storage_path
from sweeps.spec import SpecError, load_spec, presets

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Sweeps of reward-aware consistency trajectory distillation (RACTD) on D4RL tasks.",
)
data_app = typer.Typer(no_args_is_help=True, help="Generate and list datasets.")
sweep_app = typer.Typer(no_args_is_help=True, help="Run, resume and watch sweeps.")
app.add_typer(data_app, name="data")
app.add_typer(sweep_app, name="sweep")

Storage = Annotated[
    str | None, typer.Option(help="Folder of stages and sweeps; default RACTD_HOME/storage.")
]
Name = Annotated[str, typer.Argument(help="The sweep's name.")]


@contextmanager
def _errors() -> Iterator[None]:
    """Mistakes of the user are one message and exit code 2, not a traceback."""
    from analysis import RecordError
    from ractd_core.data.flat import DataError
    from ractd_core.files import FileError
    from ractd_core.tasks import TaskError

    known = (SpecError, StorageError, JobError, TaskError, DataError, RecordError, FileError)
    try:
        yield
    except (*known, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def tasks(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """List the D4RL tasks, their reference returns, and the datasets that are here."""
    from ractd_core.data.store import is_present
    from ractd_core.tasks import SOURCES, DatasetName, all_tasks

    def here(task_name: str) -> list[str]:
        candidates = [DatasetName(source, all_tasks()[task_name]) for source in SOURCES]
        return [str(name) for name in candidates if is_present(name)]

    if as_json:
        rows = [
            {
                "task": task.name,
                "domain": task.domain,
                "ref_min": task.ref_min,
                "ref_max": task.ref_max,
                "max_episode_steps": task.max_episode_steps,
                "supported": task.supported,
                "datasets": here(task.name),
            }
            for task in all_tasks().values()
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    typer.echo(f"{'task':29} {'random':>8} {'expert':>9} {'steps':>5}  datasets")
    for task in all_tasks().values():
        state = ", ".join(here(task.name)) or ("none here" if task.supported else "later release")
        typer.echo(
            f"{task.name:29} {task.ref_min:8.2f} {task.ref_max:9.2f} "
            f"{task.max_episode_steps:5d}  {state}"
        )


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(help="Such as local/maze2d-umaze-v1.")],
    transitions: Annotated[int, typer.Option(min=1000, help="Environment steps.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    noisy: Annotated[bool, typer.Option(help="N(0, 0.5) action noise.")] = False,
) -> None:
    """Generate a dataset by D4RL's own recipe and store it as a Minari dataset."""
    from ractd_core.data.store import LocalRecipe, datasets_root, load, make_local
    from ractd_core.tasks import parse_dataset_name

    with _errors():
        dataset = parse_dataset_name(name)
        made = make_local(
            dataset,
            LocalRecipe(transitions, seed, noisy),
            progress=lambda done: typer.echo(f"\r{done:,} of {transitions:,}", nl=False, err=True),
        )
        data = load(dataset)
    if made:
        typer.echo("", err=True)
    typer.echo(
        f"{name}: {'made' if made else 'already there'}, {data.transitions:,} transitions in "
        f"{data.episodes:,} episodes, fingerprint {data.fingerprint[:12]}, "
        f"{datasets_root() / name}"
    )


@data_app.command("list")
def data_list() -> None:
    """List the datasets that are here."""
    from ractd_core.data.store import is_present, load
    from ractd_core.tasks import SOURCES, DatasetName, all_tasks

    found = [
        name
        for task in all_tasks().values()
        for name in (DatasetName(source, task) for source in SOURCES)
        if is_present(name)
    ]
    if not found:
        typer.echo("no datasets here; `ractd data make local/maze2d-umaze-v1` generates one")
    with _errors():
        for name in found:
            data = load(name)
            typer.echo(
                f"{name}: {data.transitions:,} transitions, {data.episodes:,} episodes, "
                f"fingerprint {data.fingerprint[:12]}"
            )


@sweep_app.command("run")
def sweep_run(
    spec: Annotated[str, typer.Argument(help=f"A YAML file, or one of: {', '.join(presets())}.")],
    storage: Storage = None,
    detach: Annotated[bool, typer.Option(help="Leave it running and return at once.")] = False,
) -> None:
    """Run a sweep on this machine. An interrupted or finished one goes on from where it is."""
    from ractd_core.data.store import check_recipe

    with _errors():
        checked = load_spec(spec)
        folder = SweepFolder(check_storage(storage), checked.name)
        for name in checked.datasets():
            check_recipe(name, checked.data.recipe())
        folder.freeze(checked)
        raise typer.Exit(_drive(folder, detach))


@sweep_app.command("resume")
def sweep_resume(
    name: Name,
    storage: Storage = None,
    detach: Annotated[bool, typer.Option(help="Leave it running and return at once.")] = False,
) -> None:
    """Go on with a sweep after anything; if it is running, follow it."""
    with _errors():
        folder = SweepFolder(storage_path(storage), name)
        folder.spec()
        raise typer.Exit(_drive(folder, detach))


@sweep_app.command("status")
def sweep_status(name: Name, storage: Storage = None) -> None:
    """Say how far a sweep is, from its records; works while it runs."""
    from sweeps.status import building, report_page, task_status

    with _errors():
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

    with _errors():
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
    with _errors():
        folder = SweepFolder(storage_path(storage), name)
        folder.spec()
        status = _backend(folder).stop(name)
    typer.echo(f"{name}: {status.state}{f', {status.detail}' if status.detail else ''}")


@app.command()
def report(name: Name, storage: Storage = None) -> None:
    """Write a sweep's table (Markdown, CSV), figures and page from its records."""
    from analysis import write_report

    with _errors():
        folder = SweepFolder(storage_path(storage), name)
        written = write_report(folder.storage, name)
    typer.echo(written.table)
    typer.echo("")
    for line in written.headlines:
        typer.echo(line)
    typer.echo(f"\nreport: {written.page}")


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
