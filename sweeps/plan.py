"""How long a sweep takes on a given cluster, what it uses, and what holds it up.

Every stage, trial and row of the spec becomes a job of so many seconds; :mod:`sweeps.schedule`
puts them on the cluster's slots in the driver's order. Nothing is started or written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cluster import JobError
from sweeps.costs import Costs, Times
from sweeps.dry_run import distinct_stages
from sweeps.layout import SweepFolder, TaskContext
from sweeps.sample import sample
from sweeps.schedule import Phase, bounds, simulate
from sweeps.search_space import apply
from sweeps.spec import SweepSpec
from sweeps.spec_parts import StageResources

OVERHEAD = 0.1
"""Seconds of the driver for each trial, as measured (docs/sweeps.md: 77 to 110 ms)."""
PRUNED = {"median": 0.3, "asha": 0.5, "diverged": 0.0, "none": 0.0}
"""The share of trials taken to be pruned, all of them at ``pruner.warmup_steps``."""
_WARMUP = 0.6
_KINDS = ("reward", "teacher")
_HOUR = 3600.0


class PlanError(JobError):
    """A cluster on which the spec cannot run."""


@dataclass(frozen=True)
class Nodes:
    """``nodes`` equal machines with ``gpus`` and ``cpus`` each; None is as many as are needed."""

    nodes: int
    gpus: int = 0
    cpus: int | None = None

    def slots(self, stage: StageResources) -> int:
        """How many runs of a stage fit at once, as :func:`sweeps.embedded_ray.capacity` counts."""
        workers = self.workers(stage)
        return max(workers // stage.most, int(workers >= stage.fewest))

    @property
    def devices(self) -> int:
        """GPUs, or where there are none CPUs."""
        return self.nodes * (self.gpus or self.cpus or 1)

    def held(self, stage: StageResources) -> float:
        """Devices that one worker of a stage holds."""
        return stage.gpus if self.gpus else stage.cpus

    def workers(self, stage: StageResources) -> int:
        """Workers of a stage that fit in all."""
        fits = [] if self.cpus is None else [self.cpus / stage.cpus]
        fits += [self.gpus / stage.gpus] if stage.gpus else []
        return self.nodes * int(min(fits) + 1e-9)


@dataclass(frozen=True)
class Work:
    """Seconds that everything of a sweep takes one worker, in the driver's order.

    ``confirmations`` and ``rows`` have a job per task. ``pruned`` is the share of trials that end
    early.
    """

    rewards: list[float]
    teachers: list[float]
    trials: list[float]
    confirmations: list[float]
    rows: list[float]
    pruned: float


@dataclass(frozen=True)
class Estimate:
    """A sweep on one cluster. ``at_least`` hours no order of its jobs can beat.

    ``device_hours`` are those of GPUs, or where there are none of CPUs, that workers hold; ``busy``
    is their share of what the cluster has in that time.
    """

    cluster: str
    devices: int
    hours: float
    at_least: float
    phases: dict[str, float]
    device_hours: float
    busy: float
    bottleneck: str


def workload(
    spec: SweepSpec, folder: SweepFolder, times: Times, pruned: float | None = None
) -> Work:
    """The jobs of ``spec`` at the costs of ``times``; stages in the store are there already.

    ``pruned`` is the share of trials that end early, None :data:`PRUNED`. Raises
    :class:`~sweeps.costs.CostError` where a cost is not known.
    """
    share = PRUNED[spec.pruner.kind] if pruned is None else pruned
    work = Work([], [], [], [], [], share)
    for dataset in spec.datasets():
        context = TaskContext(folder, spec, dataset, _fingerprint(dataset))
        costs = Costs(context, times)
        count = spec.planned_trials(dataset)
        points = sample(context.recipe, spec.search, spec.first_points(dataset), count, spec.seed)
        recipes = [apply(context.recipe, point) for point in points]
        for kind, found in zip(_KINDS, (work.rewards, work.teachers), strict=True):
            _, requests = distinct_stages(context, kind, recipes)
            missing = [r for r in requests if folder.store.find(r.name) is None]
            found += [costs.training(kind, request.recipe) for request in missing]
        trials = [costs.trial(recipe) for recipe in recipes]
        work.trials.extend(_pruned(trials, work, _shown(spec, context.recipe.student.optim.steps)))
        top = min(spec.selection.top, count)
        work.confirmations.append(sum(costs.confirmation(recipe) for recipe in recipes[:top]))
        work.rows.append(costs.rows(recipes[0]))
    return work


def _fingerprint(dataset: object) -> str:
    from ractd_core.data.store import is_present, origin_of
    from ractd_core.tasks import DatasetName

    assert isinstance(dataset, DatasetName)
    return origin_of(dataset).get("fingerprint", "") if is_present(dataset) else ""


def _shown(spec: SweepSpec, steps: int) -> float:
    """The share of a trial's steps that it has done at the pruner's first look."""
    warmup = spec.pruner.warmup_steps
    return _WARMUP if warmup is None else min(1.0, warmup / (spec.training_seeds * steps))


def _pruned(trials: list[float], work: Work, shown: float) -> list[float]:
    """Evenly over the sweep, ``work.pruned`` of the trials end with ``shown`` of their steps."""
    return [
        seconds * shown if int((index + 1) * work.pruned) > int(index * work.pruned) else seconds
        for index, seconds in enumerate(trials, len(work.trials))
    ]


def estimate(spec: SweepSpec, work: Work, nodes: Nodes, name: str) -> Estimate:
    """``work`` on ``nodes``, in the driver's order; PlanError if a stage does not fit there."""
    resources = spec.resources
    after = resources.student.model_copy(
        update={"workers": 1, "gpus": min(resources.student.gpus, 1.0)}
    )
    searched = _phase("search", work.trials, resources.student, nodes, OVERHEAD)
    most = resources.concurrent_trials or searched.slots
    phases = [
        _phase("rewards", work.rewards, resources.reward, nodes),
        _phase("teachers", work.teachers, resources.teacher, nodes),
        replace(searched, slots=min(most, searched.slots)),
        _phase("confirmation", work.confirmations, after, nodes),
        _phase("rows", work.rows, after, nodes),
    ]
    taken = {phase.name: simulate(phase) for phase in phases}
    seconds = sum(taken.values())
    worked = (
        sum(work.rewards) * nodes.held(resources.reward)
        + sum(work.teachers) * nodes.held(resources.teacher)
        + sum(work.trials) * nodes.held(resources.student)
        + (sum(work.confirmations) + sum(work.rows)) * nodes.held(after)
    )
    return Estimate(
        cluster=name,
        devices=nodes.devices,
        hours=seconds / _HOUR,
        at_least=sum(bounds(phase).most for phase in phases) / _HOUR,
        phases={key: value / _HOUR for key, value in taken.items()},
        device_hours=worked / _HOUR,
        busy=worked / (seconds * nodes.devices) if seconds else 0.0,
        bottleneck=_bottleneck(max(phases, key=lambda phase: taken[phase.name])),
    )


def _phase(
    name: str,
    worker_seconds: list[float],
    stage: StageResources,
    nodes: Nodes,
    overhead: float = 0.0,
) -> Phase:
    slots = nodes.slots(stage)
    if slots < 1:
        raise PlanError(
            f"{name}: {stage.fewest} workers with {stage.cpus:g} CPUs and {stage.gpus:g} GPUs each "
            f"do not fit on {nodes.nodes} nodes with {nodes.gpus} GPUs"
            + ("" if nodes.cpus is None else f" and {nodes.cpus} CPUs")
        )
    workers = min(stage.most, nodes.workers(stage))
    return Phase(name, [each / workers for each in worker_seconds], slots, overhead)


def _bottleneck(phase: Phase) -> str:
    """What the longest phase waits for."""
    found, jobs = bounds(phase), len(phase.seconds)
    if not jobs:
        return "nothing is left to do"
    if jobs * phase.overhead > found.most / 2:
        return f"{phase.name}: the driver, {1000 * phase.overhead:.0f} ms for each of {jobs} trials"
    if jobs <= phase.slots:
        what = {"search": "trials", "confirmation": "tasks", "rows": "tasks"}.get(
            phase.name, f"distinct {phase.name}"
        )
        return f"{phase.name}: {jobs} {what} on {phase.slots} slots, so the longest one"
    if found.longest == found.most:
        return f"{phase.name}: the longest of {jobs} jobs"
    idle = 1 - found.work / simulate(phase)
    rounds = jobs / phase.slots
    if idle > 0.2:
        return f"{phase.name}: stragglers, {jobs} jobs in {rounds:.1f} rounds of {phase.slots}"
    return f"{phase.name}: work, {jobs} jobs in {rounds:.1f} rounds of {phase.slots}"
