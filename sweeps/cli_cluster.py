"""``ractd cluster``: a sweep as a job somewhere else."""

from __future__ import annotations

import hashlib
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
import yaml

from cluster import AnyPlace, Job, JobError, JobState, JobStatus, LocalPlace, RayPlace, Registry
from cluster import parse_place as _parse_place
from ractd_core.files import home
from sweeps.cli_errors import user_errors
from sweeps.layout import default_storage
from sweeps.spec import SweepSpec, dump_spec, load_spec

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
        where = storage or checked.storage or str(default_storage())
        place = _place(backend, address, cluster, Path(where))
        place.open().submit(job_of(checked, where))
        _registry().put(checked.name, place, where)
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
    grace: Annotated[float, typer.Option(min=0, help="Seconds to end by itself.")] = 20.0,
) -> None:
    """End a sweep's job; it can be resumed."""
    with user_errors():
        place, _ = _registry().get(name)
        status = place.open().stop(name, grace=grace)
    typer.echo(_line(name, status))


@cluster_app.command("resume")
def cluster_resume(name: Name) -> None:
    """Submit a sweep's job again; it goes on from its records."""
    with user_errors():
        place, _ = _registry().get(name)
        place.open().resume(name)
    typer.echo(name)


@cluster_app.command("render")
def cluster_render(
    spec: Spec,
    backend: Kind = None,
    address: Address = None,
    cluster: Cluster = None,
    storage: Storage = None,
) -> None:
    """Print what submitting would run, and run nothing."""
    with user_errors():
        checked = load_spec(spec)
        where = storage or checked.storage or str(default_storage())
        place = _place(backend, address, cluster, Path(where))
        typer.echo(place.open().render(job_of(checked, where)), nl=False)


def job_of(spec: SweepSpec, storage: str) -> Job:
    """The job that runs ``spec`` on ``storage``."""
    text = dump_spec(spec)
    root = Path(__file__).parent.parent
    return Job(
        spec.name,
        ("python", "-u", "-m", "sweeps.launch", "spec.yaml", storage),
        {"PYTHONUNBUFFERED": "1"},
        files={"spec.yaml": text},
        code=tuple(root / package for package in _PACKAGES),
        metadata={
            "ractd": version("ractd"),
            "spec_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "submitted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )


def _place(
    backend: str | None, address: str | None, cluster: Path | None, storage: Path
) -> AnyPlace:
    if cluster is not None:
        return _parse_place(yaml.safe_load(cluster.read_text(encoding="utf-8")), str(cluster))
    if backend == "local":
        return LocalPlace(root=storage / "sweeps")
    if backend == "ray" or (backend is None and address):
        if address is None:
            raise JobError("backend ray needs --address http://HOST:8265, the cluster's dashboard")
        return RayPlace(address=address)
    raise JobError(f"backend {backend} needs --cluster FILE" if backend else "give --backend")


def _registry() -> Registry:
    return Registry(home() / "jobs")


def _line(name: str, status: JobStatus) -> str:
    detail = f", {status.detail}" if status.detail else ""
    advice = "; `ractd cluster resume` goes on" if status.state is JobState.LOST else ""
    return f"{name}: {status.state}{detail}{advice}"
