"""``ractd cluster``: a sweep as a job somewhere else."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
import yaml

from cluster import (
    AnyPlace,
    Backend,
    Job,
    JobError,
    JobState,
    JobStatus,
    LocalPlace,
    Registry,
)
from cluster import parse_place as _parse_place
from ractd_core.files import home, write_text
from sweeps.cli_errors import user_errors
from sweeps.cli_plan import plan
from sweeps.layout import default_storage
from sweeps.object_store import StoreUri, StoreUriError
from sweeps.preflight import PASSED
from sweeps.spec import SweepSpec, dump_spec, load_spec
from sweeps.versions import versions

cluster_app = typer.Typer(
    no_args_is_help=True, help="Submit a sweep to a cluster; watch, stop and resume it there."
)

Name = Annotated[str, typer.Argument(help="The sweep's name.")]
Spec = Annotated[str, typer.Argument(help="A YAML file or a preset.")]
Kind = Annotated[str | None, typer.Option("--backend", help="local, ray, slurm, kuberay or vm.")]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster's dashboard, http://HOST:8265 (backend ray).")
]
Cluster = Annotated[
    Path | None, typer.Option("--cluster", help="A YAML file that describes the cluster.")
]
Storage = Annotated[
    str | None, typer.Option(help="Folder or URI that every node sees; default: the spec's.")
]
_PACKAGES = ("ractd_core", "sweeps", "cluster", "analysis")
_ENDING = 15.0
"""Seconds that a driver takes to end its Ray, and to bring its last records to the storage."""
_PATIENCE, _SOON, _LOOK = 60.0, 10.0, 0.5
"""Seconds for a job to come through its preflight, until it is said where it is, between looks."""


cluster_app.command("plan")(plan)


@cluster_app.command("submit")
def cluster_submit(
    spec: Spec,
    backend: Kind = None,
    address: Address = None,
    cluster: Cluster = None,
    storage: Storage = None,
) -> None:
    """Submit a sweep and print its name. One that ended goes on from where it is."""
    with user_errors():
        checked = load_spec(spec)
        place, where = _place(backend, address, cluster, storage or checked.storage)
        registry = _registry()
        known = registry.find(checked.name)
        if known is not None and known != place:
            _check_idle(known, checked.name)
        there = place.open()
        job = job_of(checked, where, _python(place))
        try:
            there.submit(job)
        except JobError:
            if known is None and _runs(there, checked.name):
                # Submitted from another machine: it can be watched and stopped from here too.
                registry.put(checked.name, place, where, job.grace)
            raise
        registry.put(checked.name, place, where, job.grace)
        _see_off(there, checked.name)
    typer.echo(checked.name)


@cluster_app.command("status")
def cluster_status(name: Name) -> None:
    """Say what the backend knows of a sweep's job."""
    with user_errors():
        place, storage = _registry().get(name)
        status = place.open().status(name)
    typer.echo(_line(name, status))
    typer.echo(f"`ractd sweep status {name} --storage {storage}` says how far the sweep is")


@cluster_app.command("logs")
def cluster_logs(
    name: Name, follow: Annotated[bool, typer.Option(help="Wait for more until it ends.")] = False
) -> None:
    """Print a sweep's output."""
    with user_errors():
        place, _ = _registry().get(name)
        for line in place.open().logs(name, follow=follow):
            typer.echo(line)


@cluster_app.command("stop")
def cluster_stop(
    name: Name,
    grace: Annotated[
        float | None, typer.Option(min=0, help="Seconds to end by itself; default what it needs.")
    ] = None,
) -> None:
    """End a sweep's job; it can be resumed."""
    with user_errors():
        registry = _registry()
        place, _ = registry.get(name)
        needed = registry.grace(name) if grace is None else grace
        status = place.open().stop(name, grace=needed)
    typer.echo(_line(name, status))


@cluster_app.command("resume")
def cluster_resume(name: Name) -> None:
    """Submit a sweep's job again; it goes on from its records."""
    with user_errors():
        place, _ = _registry().get(name)
        there = place.open()
        there.resume(name)
        _see_off(there, name)
    typer.echo(name)


@cluster_app.command("render")
def cluster_render(
    spec: Spec,
    backend: Kind = None,
    address: Address = None,
    cluster: Cluster = None,
    storage: Storage = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the files, with a README.md.")
    ] = None,
) -> None:
    """Print what submitting would run, or write it with --out, and run nothing."""
    with user_errors():
        checked = load_spec(spec)
        place, where = _place(backend, address, cluster, storage or checked.storage)
        job = job_of(checked, where, _python(place))
        if out is None:
            typer.echo(place.open().render(job), nl=False)
            return
        out.mkdir(parents=True, exist_ok=True)
        for name, text in place.rendered(job).items():
            write_text(out / name, text)
            typer.echo(str(out / name))


def job_of(spec: SweepSpec, storage: str, python: str = "python") -> Job:
    """The job that runs ``spec`` on ``storage`` by the interpreter ``python``."""
    text = dump_spec(spec)
    root = Path(__file__).parent.parent
    return Job(
        spec.name,
        (python, "-u", "-m", "sweeps.launch", "spec.yaml", storage),
        {"PYTHONUNBUFFERED": "1"},
        files={"spec.yaml": text, "versions.json": json.dumps(versions()) + "\n"},
        code=tuple(root / package for package in _PACKAGES),
        metadata={
            "ractd": version("ractd"),
            "spec_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "submitted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
        grace=spec.resources.grace + _ENDING,
    )


def _check_idle(place: AnyPlace, name: str) -> None:
    """JobError if the job that was submitted to ``place`` still runs there."""
    try:
        status = place.open().status(name)
    except JobError as error:
        typer.echo(f"whether {name} still runs where it was submitted to: {error}", err=True)
        return
    if status.state is JobState.RUNNING:
        raise JobError(
            f"{name} is already running elsewhere (backend {place.backend}, {status.detail}); "
            f"`ractd cluster stop {name}` ends it there"
        )


def _runs(there: Backend, name: str) -> bool:
    with suppress(JobError):
        return there.status(name).state is JobState.RUNNING
    return False


def _see_off(there: Backend, name: str) -> None:
    """Wait until the job has come through its preflight; JobError with its output if it fails.

    One that waits for room, in a queue perhaps, is told of soon and left to itself after a minute.
    """
    begin = time.monotonic()
    told = False
    while time.monotonic() < begin + _PATIENCE:
        # Before the output: what a job wrote is there once it has ended.
        status = there.status(name)
        lines: list[str] = []
        with suppress(JobError):  # no output yet
            lines = list(there.logs(name))
        if status.state in (JobState.FAILED, JobState.LOST, JobState.STOPPED):
            raise JobError("\n".join([_line(name, status), *lines]))
        for line in lines:
            if line.startswith(PASSED):
                typer.echo("\n".join(lines[: lines.index(line) + 1]), err=True)
                return
        if status.state is JobState.SUCCEEDED:
            return
        if not told and time.monotonic() > begin + _SOON:
            typer.echo(_line(name, status), err=True)
            told = True
        time.sleep(_LOOK)
    status = there.status(name)
    typer.echo(
        f"{_line(name, status)}; its preflight is not over yet: `ractd cluster logs {name} "
        "--follow` shows it",
        err=True,
    )


def _place(
    backend: str | None, address: str | None, cluster: Path | None, storage: str | None
) -> tuple[AnyPlace, str]:
    """The place, and the storage: as told, else the place's, else this machine's."""
    place = _described(backend, address, cluster, _absolute(storage or str(default_storage())))
    where = _absolute(storage or place.storage or str(default_storage()))
    _check_uri(where)
    place.check_storage(where)
    return place, where


def _check_uri(storage: str) -> None:
    """Raise StoreUriError for a URI that cannot be one, or holds credentials.

    A job's command is written down and shown.
    """
    if "://" in storage:
        StoreUri.parse(storage)


def _described(
    backend: str | None, address: str | None, cluster: Path | None, storage: str
) -> AnyPlace:
    if cluster is not None:
        try:
            raw = yaml.safe_load(cluster.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise JobError(f"{cluster} is not YAML: {error}") from error
        if isinstance(raw, dict) and raw.get("backend") in ("ray", "vm"):
            raw = {"root": _submitted(), **raw}
        place = _parse_place(raw, str(cluster))
        if place.storage is not None:
            try:
                _check_uri(place.storage)
            except StoreUriError as error:
                raise JobError(f"{cluster}: storage: {error}") from error
        if backend not in (None, place.backend):
            raise JobError(f"{cluster} is for backend {place.backend}, --backend says {backend}")
        return place
    if backend == "local":
        # A job's folder is this machine's, wherever its records go.
        root = home() / "jobs" / "local" if "://" in storage else Path(storage) / "sweeps"
        return LocalPlace(root=root)
    if backend == "ray" or (backend is None and address):
        if address is None:
            raise JobError("backend ray needs --address http://HOST:8265, the cluster's dashboard")
        return _parse_place(
            {"backend": "ray", "root": _submitted(), "address": address}, "--address"
        )
    raise JobError(f"backend {backend} needs --cluster FILE" if backend else "give --backend")


def _absolute(storage: str) -> str:
    """As it is from anywhere: a job runs in a folder of its own. Nodes may have links of theirs."""
    return storage if "://" in storage else os.path.normpath(Path(storage).expanduser().absolute())


def _python(place: AnyPlace) -> str:
    return sys.executable if isinstance(place, LocalPlace) else "python"


def _submitted() -> Path:
    """Where jobs are remembered that a place does not remember itself."""
    return home() / "jobs" / "submitted"


def _registry() -> Registry:
    return Registry(home() / "jobs")


def _line(name: str, status: JobStatus) -> str:
    detail = f", {status.detail}" if status.detail else ""
    advice = "; `ractd cluster resume` goes on" if status.state is JobState.LOST else ""
    return f"{name}: {status.state}{detail}{advice}"
