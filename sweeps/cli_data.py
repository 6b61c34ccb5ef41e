"""``ractd tasks`` and ``ractd data``: what there is, and getting it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from tabulate import tabulate

from sweeps.cli_errors import CLEAR_LINE, user_errors

if TYPE_CHECKING:
    from ractd_core.data.check import DataReport, Spread
    from ractd_core.data.flat import FlatDataset
    from ractd_core.tasks import DatasetName

_LOG_SECONDS = 30.0

data_app = typer.Typer(
    no_args_is_help=True, help="Generate, import, download, check and list datasets."
)

TaskName = Annotated[
    str, typer.Option("--task", help="The D4RL task that it is for, such as hopper-medium-v2.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def tasks(
    pattern: Annotated[
        str, typer.Argument(help="A group, such as gym-mujoco-9, or a glob, such as 'hopper-*'.")
    ] = "all",
    domain: Annotated[
        str | None, typer.Option(help="mujoco, maze2d, antmaze, kitchen or adroit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the D4RL tasks, their reference returns, and the datasets that are here."""
    from ractd_core.data.store import present_datasets
    from ractd_core.tasks import TaskError, all_domains, find_tasks, near, task_groups

    with user_errors():
        if domain is not None and domain not in all_domains():
            raise TaskError(
                f"unknown domain {domain!r}{near(domain, list(all_domains()))}; there are "
                f"{', '.join(all_domains())}"
            )
        found = [task for task in find_tasks(pattern) if domain in (None, task.domain)]
        if not found:
            raise TaskError(f"no {domain} task matches {pattern!r}")
        here = present_datasets()
    datasets = {task.name: [str(n) for n in here if n.task == task] for task in found}
    if as_json:
        rows = [
            {"task": task.name, **{k: v for k, v in asdict(task).items() if k != "name"}}
            | {"protocol": task.protocol, "data_licence": task.data_licence}
            | {"generated": task.generated, "datasets": datasets[task.name]}
            for task in found
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    table = [
        (
            task.name,
            f"{task.ref_min:.2f}",
            f"{task.ref_max:.2f}",
            task.max_episode_steps,
            f"{task.obs_dim}/{task.act_dim}",
            ", ".join(datasets[task.name]) or "-",
        )
        for task in found
    ]
    headers = ("task", "random", "expert", "steps", "obs/act", "datasets here")
    align = ("left", "right", "right", "right", "right", "left")
    typer.echo(tabulate(table, headers, colalign=align, disable_numparse=True))
    if pattern == "all":
        sizes = [f"{name} ({len(group)})" for name, group in task_groups().items()]
        typer.echo(f"\ngroups: {', '.join(sizes)}")


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(help="Such as local/maze2d-umaze-v1.")],
    transitions: Annotated[int, typer.Option(min=1000, help="Environment steps.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    noisy: Annotated[bool, typer.Option(help="Mazes: N(0, 0.5) action noise.")] = False,
    training_steps: Annotated[
        int, typer.Option(min=1000, help="Gym-MuJoCo: the longest SAC may train.")
    ] = 200_000,
) -> None:
    """Generate a dataset by D4RL's own recipe and store it as a Minari dataset."""
    from ractd_core.data.generate import LocalRecipe, make_local
    from ractd_core.tasks import parse_dataset_name

    with user_errors():
        dataset = parse_dataset_name(name)
        recipe = LocalRecipe(transitions, seed, noisy, training_steps)
        _tell(dataset, "made", make_local(dataset, recipe, progress=_progress()))


@data_app.command("import")
def data_import(
    what: Annotated[
        str,
        typer.Argument(help="A D4RL-layout .hdf5 file, an .npz file, or a local Minari dataset."),
    ],
    task: TaskName,
    source: Annotated[
        str | None,
        typer.Option(
            help="Where the data come from: a label of yours, or local. An HDF5 file of D4RL's own "
            "size is d4rl's unless you say otherwise."
        ),
    ] = None,
    clip_actions: Annotated[
        bool, typer.Option(help="Clip actions to [-1, 1] instead of refusing them.")
    ] = False,
) -> None:
    """Check data of one's own or a D4RL file and store it as SOURCE/TASK."""
    from ractd_core.data.acquire import import_file, import_minari
    from ractd_core.tasks import D4RL

    with user_errors():
        dataset = _name(task, source or D4RL)
        if _is_minari(what):
            made = import_minari(dataset, what)
        else:
            made = import_file(
                dataset, Path(what), clip_actions=clip_actions, insist=source == D4RL
            )
        _tell(dataset, "imported", made)


@data_app.command("download")
def data_download(
    task: Annotated[str, typer.Argument(help="A task, a group or a glob, such as kitchen.")],
    source: Annotated[
        Literal["d4rl", "minari"], typer.Option(help="D4RL's own server, or Minari's.")
    ] = "d4rl",
    mirror: Annotated[
        str | None,
        typer.Option(
            envvar="RACTD_D4RL_MIRROR", help="Base URL with D4RL's folders (gym_mujoco_v2, ...)."
        ),
    ] = None,
) -> None:
    """Fetch D4RL's files, or Minari's datasets, for a task or a group of tasks."""
    from ractd_core.data.acquire import download
    from ractd_core.data.flat import DataError
    from ractd_core.tasks import DatasetName, expand_datasets, find_tasks, task_groups

    with user_errors():
        if source == "minari" and task in task_groups():
            # Minari has not all of them.
            datasets = tuple(DatasetName(source, t) for t in find_tasks(task) if t.minari_id)
        else:
            whole = task.startswith(("d4rl/", "minari/"))
            datasets = expand_datasets(task if whole else f"{source}/{task}")
        failed = []
        for dataset in datasets:
            try:
                made = download(dataset, mirror=mirror, progress=_progress())
                _tell(dataset, "downloaded", made)
            except DataError as error:
                failed.append(f"{dataset}: {error}" if len(datasets) > 1 else str(error))
        if failed:
            raise DataError("\n".join(failed))


@data_app.command("check")
def data_check(
    what: Annotated[
        str, typer.Argument(help="A dataset (SOURCE/TASK), a file, or a local Minari dataset.")
    ],
    task: Annotated[
        str | None, typer.Option("--task", help="For files and Minari ids: the task.")
    ] = None,
    clip_actions: Annotated[
        bool, typer.Option(help="Files: clip actions to [-1, 1] instead of refusing them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Validate a dataset and describe it: counts, lengths, returns, ranges, score."""
    from ractd_core.data.check import check
    from ractd_core.data.store import load, origin_of
    from ractd_core.tasks import TaskError, parse_dataset_name

    with user_errors():
        if task is not None:
            data = _read(what, _name(task, "file"), clip_actions)
            report = replace(check(data, {}), dataset=f"{what} as {task}")
        elif Path(what).exists() or not _is_minari(what):
            raise TaskError(f"say which task {what} is for: --task, such as hopper-medium-v2")
        else:
            name = parse_dataset_name(what)
            report = check(load(name), origin_of(name))
    typer.echo(json.dumps(asdict(report), indent=1) if as_json else _described(report))


@data_app.command("list")
def data_list() -> None:
    """List the datasets that are here."""
    from ractd_core.data.flat import DataError
    from ractd_core.data.store import load, present_datasets

    with user_errors():
        found = present_datasets()
        if not found:
            typer.echo("no datasets here; `ractd data make local/maze2d-umaze-v1` generates one")
        damaged = False
        for name in found:
            try:
                data = load(name)
            except DataError as error:
                # One damaged dataset must not hide the others.
                typer.echo(f"{name}: {error}", err=True)
                damaged = True
                continue
            typer.echo(f"{name}: {_size(data)}")
        if damaged:
            raise typer.Exit(2)


def _name(task: str, source: str) -> DatasetName:
    from ractd_core.tasks import check_source, get_task, parse_dataset_name

    return parse_dataset_name(f"{check_source(source)}/{get_task(task).name}")


def _is_minari(what: str) -> bool:
    """Whether ``what`` is meant as a Minari id: no file or folder, nor the name of one."""
    return not Path(what).exists() and "." not in what and not Path(what).is_absolute()


def _read(what: str, name: DatasetName, clip_actions: bool) -> FlatDataset:
    from ractd_core.data.d4rl_files import read_rows
    from ractd_core.data.minari_io import read_minari
    from ractd_core.data.rows import from_rows

    if _is_minari(what):
        return read_minari(name, what)
    return from_rows(name, read_rows(Path(what)), clip_actions=clip_actions)


def _progress() -> Callable[[str], None]:
    """Shows one line that changes; in a log, a line now and then."""
    if sys.stderr.isatty():
        return lambda line: typer.echo(f"{CLEAR_LINE}{line}", nl=False, err=True)
    shown = time.monotonic()

    def log(line: str) -> None:
        nonlocal shown
        if time.monotonic() - shown >= _LOG_SECONDS:
            shown = time.monotonic()
            typer.echo(line, err=True)

    return log


def _tell(name: DatasetName, verb: str, made: bool) -> None:
    from ractd_core.data.store import folder_of, load

    data = load(name)
    if made and sys.stderr.isatty():
        typer.echo("", err=True)
    typer.echo(f"{name}: {verb if made else 'already there'}, {_size(data)}, {folder_of(name)}")


def _size(data: FlatDataset) -> str:
    return (
        f"{data.transitions:,} transitions in {data.episodes:,} episodes, fingerprint "
        f"{data.fingerprint[:12]}"
    )


def _described(report: DataReport) -> str:
    coverage = ", ".join(f"{100 * share:.0f}" for share in report.coverage)
    score = _spread(report.score) if report.score else f"none: no {report.counted}"
    returns = _spread(report.returns) if report.returns else f"none: no {report.counted}"
    ended = f"{report.terminated:,} terminated, {report.episodes - report.terminated:,} cut"
    lines = {
        "dataset": f"{report.dataset}, fingerprint {report.fingerprint[:12]}",
        "from": ", ".join(f"{key} {value}" for key, value in report.origin.items()) or "unrecorded",
        "size": f"{report.transitions:,} transitions in {report.episodes:,} episodes ({ended})",
        "lengths": _spread(report.lengths),
        "rewards": _spread(report.rewards),
        f"returns ({report.counted})": returns,
        "normalized score": score,
        "observations": f"{report.observation_range[0]:.4g} to {report.observation_range[1]:.4g}",
        "actions": (
            f"{report.action_range[0]:.4g} to {report.action_range[1]:.4g}, "
            f"{100 * report.saturated:.1f} % beyond 0.99"
        ),
        "coverage of [-1, 1], %": coverage,
    }
    text = tabulate(list(lines.items()), tablefmt="plain", disable_numparse=True)
    return "\n".join([text, *(f"note: {note}" for note in report.notes)])


def _spread(spread: Spread) -> str:
    return (
        f"mean {spread.mean:.4g}, min {spread.min:.4g}, quartiles {spread.q25:.4g} "
        f"{spread.median:.4g} {spread.q75:.4g}, max {spread.max:.4g}"
    )
