"""What a sweep would do, before anything of it is done: trials, shared stages, hours, disk.

Nothing is written. Stages are counted by the same requests that the driver makes. Hours are worker
time (a GPU's where a stage has one); episodes are counted in full length. Models that final rows
train beside the search are in the hours, and not in the disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ractd_core.config import Recipe
from ractd_core.data.acquire import check_obtainable
from ractd_core.data.flat import DataError
from ractd_core.data.store import folder_of, is_present, origin_of
from ractd_core.tasks import LOCAL, DatasetName
from sweeps.costs import CostError, Costs, Times
from sweeps.embedded_ray import ResourceError, check_resources, usable_cpus
from sweeps.layout import StorageError, SweepFolder, TaskContext
from sweeps.requests import stage_parameters, stage_requests
from sweeps.sample import sample
from sweeps.search_space import (
    Scalar,
    finite,
    label,
)
from sweeps.shared_storage import check_shared
from sweeps.spec import SweepSpec
from sweeps.stage_store import StageRequest
from sweeps.step_times import parameters_of

_BYTES = 4
_KINDS = ("teacher", "reward")
_GB = 1e9


@dataclass(frozen=True)
class StagePlan:
    """The stages of one kind that a task's search can ask for.

    ``distinct`` is None where every trial may build one, ``at_most`` in all: some fields it depends
    on, those ``unlisted``, are ranges of real numbers, or there are more choices than trials.
    """

    kind: str
    distinct: int | None
    in_store: int
    at_most: int
    unlisted: list[str]


@dataclass(frozen=True)
class TaskPlan:
    """One task's share of a sweep.

    ``hours`` and ``hours_alone`` are device-hours with shared stages and if every trial built its
    own; None where a stage wants a GPU that this machine has not. ``disk_gb`` and
    ``disk_gb_alone`` are what stays. ``sources`` says how the times are known.
    """

    dataset: str
    data: str
    trials: int
    first_trials: list[dict[str, Scalar]]
    stages: list[StagePlan]
    students: int
    hours: float | None
    hours_alone: float | None
    disk_gb: float
    disk_gb_alone: float
    sources: list[str]


@dataclass(frozen=True)
class DryRun:
    """A plan of every task, and whatever would keep the sweep from running."""

    name: str
    tasks: list[TaskPlan] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def dry_run(
    spec: SweepSpec, folder: SweepFolder, times: Times, check: Callable[[SweepSpec], None]
) -> DryRun:
    """Plan ``spec`` on the storage of ``folder``, at the costs of ``times``.

    ``check`` raises StorageError if the sweep cannot begin, or go on, with it.
    """
    problems: list[str] = []
    try:
        check(spec)
    except StorageError as error:
        problems += str(error).splitlines()
    for dataset in spec.datasets():
        try:
            check_obtainable(dataset, spec.data.recipe())
        except DataError as error:
            problems.append(f"tasks: {error}")
    try:
        address = os.environ.get("RAY_ADDRESS")
        check_resources(spec.resources, available(address, folder.storage))
    except (ResourceError, StorageError, ConnectionError) as error:
        problems += str(error).splitlines()
    tasks = [plan_task(spec, folder, dataset, times) for dataset in spec.datasets()]
    problems += _storage(spec, folder.storage, sum(task.disk_gb for task in tasks))
    return DryRun(spec.name, tasks, problems)


def available(address: str | None, storage: Path) -> dict[str, float]:
    """What the Ray at ``address`` has, or this machine would give to a Ray of its own.

    Raises ConnectionError if nobody answers there, and :class:`~sweeps.layout.StorageError` if a
    ``storage`` that is there is not the same on all its nodes.
    """
    if not address:
        return {"CPU": usable_cpus(), "GPU": torch.cuda.device_count()}
    import ray

    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"RAY_ADDRESS {address}: no Ray answers ({str(error).splitlines()[0]}); correct it, or "
            "unset it to run on this machine"
        ) from error
    try:
        found: dict[str, float] = ray.cluster_resources()
        if storage.is_dir() and os.access(storage, os.W_OK):
            check_shared(storage)
        return found
    finally:
        ray.shutdown()


def _storage(spec: SweepSpec, storage: Path, needed_gb: float) -> list[str]:
    """Whether the storage, or the folder it would be made in, can be written and has room."""
    there = next(path for path in (storage, *storage.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return [f"storage {storage} cannot be written; give another with --storage"]
    free = shutil.disk_usage(there).free / _GB
    if free < needed_gb + spec.budget.free_gb:
        return [
            f"storage {storage}: {free:.1f} GB free, but the sweep keeps about {needed_gb:.1f} and "
            f"budget.free_gb is {spec.budget.free_gb:g}; free some, give another with --storage, "
            "or write budget.keep: top"
        ]
    return []


def plan_task(spec: SweepSpec, folder: SweepFolder, dataset: DatasetName, times: Times) -> TaskPlan:
    """One task's share of ``spec``."""
    fingerprint = origin_of(dataset).get("fingerprint", "") if is_present(dataset) else ""
    context = TaskContext(folder, spec, dataset, fingerprint)
    trials, first = spec.planned_trials(dataset), spec.first_points(dataset)
    recipe = context.recipe
    recipes = [
        context.trial(values).recipe
        for values in sample(recipe, spec.search, first, trials, spec.seed)
    ]
    stages = {kind: distinct_stages(context, kind, recipes) for kind in _KINDS}
    costs = Costs(context, times)
    built = [
        request
        for _, requests in stages.values()
        for request in requests
        if folder.store.find(request.name) is None
    ]
    alone = [context.request(kind, recipe) for recipe in recipes for kind in _KINDS]
    top = min(spec.selection.top, trials)
    kept = top if spec.budget.keep == "top" else trials
    students = trials * spec.training_seeds + top * spec.selection.retrain
    stayed = kept * spec.training_seeds + top * spec.selection.retrain
    each = _size("student", context.recipe, dataset) * (2 if spec.selection.rule == "best" else 1)
    student_gb = stayed * each
    played = [
        _hours(map(costs.trial, recipes)),
        _hours(map(costs.confirmation, recipes[:top])),
        _hours(map(costs.rows, recipes[:1])),
    ]

    def built_in(requests: list[StageRequest]) -> float | None:
        return _hours(costs.training(each.kind, each.recipe) for each in requests)

    return TaskPlan(
        dataset=str(dataset),
        data=_data(spec, dataset),
        trials=trials,
        first_trials=[
            {label(path): value for path, value in point.items()} for point in first[:trials]
        ],
        stages=[plan for plan, _ in stages.values()],
        students=students,
        hours=total([*played, built_in(built)]),
        hours_alone=total([*played, built_in(alone)]),
        disk_gb=student_gb + sum(_size(r.kind, r.recipe, dataset) for r in built),
        disk_gb_alone=student_gb + sum(_size(r.kind, r.recipe, dataset) for r in alone),
        sources=sorted(costs.sources),
    )


def distinct_stages(
    context: TaskContext, kind: str, recipes: list[Recipe]
) -> tuple[StagePlan, list[StageRequest]]:
    """How many stages of ``kind`` there can be, and those that ``recipes`` or all choices need."""
    own = stage_parameters(
        context.spec.search, kind, rewarded=bool(context.recipe.teacher.reward_weight)
    )
    requests = stage_requests(context, kind)
    if requests:
        there = sum(context.folder.store.find(request.name) is not None for request in requests)
        return StagePlan(kind, len(requests), there, len(requests), []), requests
    unlisted = [label(p) for p, each in own.items() if finite(context.recipe, p, each) is None]
    drawn = {r.name: r for r in (context.request(kind, recipe) for recipe in recipes)}
    there = sum(context.folder.store.find(name) is not None for name in drawn)
    return StagePlan(kind, None, there, len(recipes), unlisted), list(drawn.values())


def _hours(seconds: Iterable[float]) -> float | None:
    """The sum in hours, None if one is not known."""
    try:
        return sum(seconds) / 3600
    except CostError:
        return None


def _size(kind: str, recipe: Recipe, dataset: DatasetName) -> float:
    """GB of one model file."""
    return _BYTES * parameters_of(kind, recipe, dataset.task) / _GB


def _data(spec: SweepSpec, dataset: DatasetName) -> str:
    """Whether the data are here, how they are got, and how large they are."""
    task = dataset.task
    if is_present(dataset):
        size = sum(file.stat().st_size for file in folder_of(dataset).rglob("*") if file.is_file())
        return f"here, {size / _GB:.2f} GB"
    rows = spec.data.transitions if dataset.source == LOCAL else task.hdf5_rows
    about = rows * _BYTES * (task.obs_dim + task.act_dim + 1) / _GB
    how = "generated" if dataset.source == LOCAL and task.generated else "downloaded"
    if dataset.source not in ("d4rl", "minari") and how != "generated":
        return "missing"
    return f"to be {how}, about {about:.2f} GB"


def total(found: list[float | None]) -> float | None:
    """The sum, None if one is not known."""
    known = [each for each in found if each is not None]
    return sum(known) if len(known) == len(found) else None
