"""``ractd cluster plan``: what a sweep would take on a cluster."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer
from tabulate import tabulate

from sweeps.cli_errors import user_errors
from sweeps.cli_progress import progress
from sweeps.spec import SweepSpec

SCALES = (10, 100, 1000)


@dataclass(frozen=True)
class _Plan:
    """What is printed."""

    name: str
    trials: int
    storage_gb: float
    estimates: list[dict[str, Any]] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)


def plan(
    spec: Annotated[str, typer.Argument(help="A YAML file or a preset.")],
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    gpu: Annotated[str | None, typer.Option(help="Type of their GPUs, such as A100.")] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of each machine.")] = 8,
    cpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="CPUs of each; default this machine's, or enough.")
    ] = None,
    pruned: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of trials that the pruner ends.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Folder of stages; what is built there is not built again.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say how long a sweep takes on a cluster, and on others, and what holds it up."""
    from sweeps.costs import Times
    from sweeps.dry_run import plan_task
    from sweeps.embedded_ray import usable_cpus
    from sweeps.gpu_rates import GpuTimes, on_gpus
    from sweeps.layout import SweepFolder, storage_path
    from sweeps.plan import Nodes, PlanError, estimate, workload
    from sweeps.spec import load_spec
    from sweeps.step_times import StepTimes

    with user_errors():
        checked = load_spec(spec)
        folder = SweepFolder(storage_path(storage or checked.storage), checked.name)
        gpus = gpus_per_node if gpu else 0
        cpus = cpus_per_node or (None if gpu else usable_cpus())
        with progress() as say:
            times: Times
            if gpu is None:
                times = StepTimes(folder.store, checked.resources, say)
            else:
                checked = checked.model_copy(update={"resources": on_gpus(checked.resources)})
                times = GpuTimes(gpu, folder.store, checked.resources, say)
            work = workload(checked, folder, times, pruned)
            tasks = [plan_task(checked, folder, each, times) for each in checked.datasets()]
        unit = gpu or "CPU"
        per_node = Nodes(1, gpus, cpus).devices
        counts = [nodes, *(math.ceil(scale / per_node) for scale in SCALES)]
        clusters = {
            f"{count * per_node} {unit} on {count} node{'s' * (count != 1)}": count
            for count in counts
        }
        found, refused = [], []
        for name, count in clusters.items():
            try:
                found.append(asdict(estimate(checked, work, Nodes(count, gpus, cpus), name)))
            except PlanError as error:
                refused.append(f"{name}: {error}")
        result = _Plan(
            checked.name,
            len(work.trials),
            sum(task.disk_gb for task in tasks),
            found,
            _assumptions(checked, {s for task in tasks for s in task.sources}, gpu, work.pruned),
        )
    typer.echo(json.dumps(asdict(result), indent=1) if as_json else _table(result))
    for line in refused:
        typer.echo(f"error: {line}", err=True)
    if refused and refused[0].startswith(next(iter(clusters))):
        raise typer.Exit(2)


def _assumptions(spec: SweepSpec, sources: set[str], gpu: str | None, pruned: float) -> list[str]:
    from sweeps.gpu_rates import EFFICIENCY, LEAST_STEP, TFLOPS
    from sweeps.plan import OVERHEAD

    lines = [f"steps: {' and '.join(sorted(sources))}"]
    if gpu is not None and any(source.startswith("assumed") for source in sources):
        full, half = TFLOPS[gpu]
        lines.append(
            f"ASSUMPTION, not measured: no finished stage here ran on a GPU; a {gpu} is taken to "
            f"reach {EFFICIENCY:.0%} of its stated matrix peak ({full:g} TFLOP/s in fp32, {half:g} "
            f"in bf16) and no step to be shorter than {1000 * LEAST_STEP:.0f} ms"
        )
    if gpu is not None:
        lines.append("episodes: at the rate of this machine's CPU")
        if any(getattr(spec.resources, k).gpus == 1.0 for k in ("teacher", "reward", "student")):
            lines.append("stages to which the spec gives no GPU have one for each worker here")
    lines.append(f"{pruned:.0%} of the trials are pruned ({spec.pruner.kind}); --pruned says else")
    lines.append(f"the driver takes {1000 * OVERHEAD:.0f} ms for each trial; workers scale evenly")
    return lines


def _table(result: _Plan) -> str:
    rows = [
        {
            "cluster": each["cluster"],
            "hours": _hours(each["hours"]),
            "at least": _hours(each["at_least"]),
            **{name: _hours(hours) for name, hours in each["phases"].items()},
            "device-hours": f"{each['device_hours']:.1f}",
            "busy": f"{each['busy']:.0%}",
            "bottleneck": each["bottleneck"],
        }
        for each in result.estimates
    ]
    return "\n".join(
        [
            f"{result.name}: {result.trials} trials, {result.storage_gb:.2f} GB of storage",
            "",
            tabulate(rows, headers="keys", disable_numparse=True),
            "",
            *result.assumptions,
        ]
    )


def _hours(hours: float) -> str:
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:.1f} h"
