"""``ractd bench``: how fast, and how fast the machine would allow."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tabulate import tabulate

from sweeps.cli_device import Device, Threads, chosen_device
from sweeps.cli_errors import user_errors
from sweeps.cli_progress import progress

if TYPE_CHECKING:
    from ractd_core.bench import Machine
    from ractd_core.config import Recipe
    from ractd_core.stages import Model

bench_app = typer.Typer(
    no_args_is_help=True, help="Measure decisions, training and evaluation beside the machine."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Task = Annotated[str, typer.Option(help="Without a model: the task whose shape it has.")]
Widths = Annotated[str, typer.Option(help="Without a model: channels per level of the U-Net.")]
Patch = Annotated[int, typer.Option(min=1, help="Without a model: steps per patch.")]
Horizon = Annotated[int, typer.Option(min=1, help="Without a model: steps per window.")]


@bench_app.command("latency")
def bench_latency(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL]...", help="A student's or regression's file, and perhaps a teacher's."
        ),
    ] = None,
    task: Task = "hopper-medium-v2",
    widths: Widths = "64-128-256",
    patch: Patch = 1,
    horizon: Horizon = 16,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long a row is timed.")] = 5.0,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="torch.compile and its AOT: minutes.")
    ] = True,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Time a decision: student, exported, compiled, and its teacher by four samplers."""
    from ractd_core.bench import measure_machine, time_plans, untrained_data, untrained_models
    from ractd_core.stages import load_model
    from ractd_core.tasks import get_task

    with user_errors(), tempfile.TemporaryDirectory() as scratch, progress() as say:
        where = chosen_device(device, threads)
        if models:
            files = models
        else:
            say("making untrained networks")
            data = untrained_data(get_task(task))
            made = untrained_models(_recipe(widths, patch, horizon), data, Path(scratch))
            files = [made["student"], made["teacher"]]
        student, teacher = _pair([load_model(file, device=where) for file in files], files)
        say("measuring the machine")
        machine = measure_machine(where)
        found = time_plans(
            student, teacher, where, machine, seconds=seconds, compiled=compiled, say=say
        )
    if as_json:
        typer.echo(json.dumps({"machine": asdict(machine), **asdict(found)}, indent=1))
        return
    typer.echo(f"{_machine(machine)}\nweights: {found.weights_mb:.1f} MB\n")
    columns = {
        "variant": "variant",
        "batch": "batch",
        "p50_ms": "p50 ms",
        "p95_ms": "p95 ms",
        "p99_ms": "p99 ms",
        "ms_per_action": "ms/action",
        "ratio": "ratio",
        "gflop": "GFLOP",
        "stream_share": "streaming",
        "rate_share": "fp32 rate",
        "repetitions": "calls timed",
    }
    typer.echo(_table([asdict(row) for row in found.rows], columns))
    typer.echo(
        "\nratio: to the first row of the same batch; streaming: reading the weights from memory "
        "once per network call, over the time; fp32 rate: over the machine's"
    )
    for name, why in found.failed.items():
        typer.echo(f"{name} does not work here: {why}")


@bench_app.command("train")
def bench_train(
    task: Task = "hopper-medium-v2",
    widths: Widths = "64-128-256",
    patch: Patch = 1,
    horizon: Horizon = 16,
    batch: Annotated[int, typer.Option(min=1, help="Windows per step.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long a precision is timed.")] = 10.0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Time a student's training step in fp32 and bf16."""
    from ractd_core.bench import measure_machine, time_training, untrained_data, untrained_models
    from ractd_core.tasks import get_task

    with user_errors(), tempfile.TemporaryDirectory() as scratch, progress() as say:
        where = chosen_device(device, threads)
        recipe, data = _recipe(widths, patch, horizon, batch), untrained_data(get_task(task))
        say("making untrained networks")
        parents = untrained_models(recipe, data, Path(scratch))
        say("measuring the machine")
        machine = measure_machine(where)
        rows = []
        for precision in ("fp32", "bf16"):
            say(f"training in {precision}")
            rows.append(
                asdict(
                    time_training(recipe, data, parents, where, machine, precision, seconds=seconds)
                )
            )
    if as_json:
        typer.echo(json.dumps({"machine": asdict(machine), "rows": rows}, indent=1))
        return
    columns = {
        "precision": "precision",
        "batch": "batch",
        "ms_per_step": "ms/step",
        "gflop": "GFLOP/step",
        "gflops": "GFLOP/s",
        "fp32_share": "of fp32 rate",
        "bf16_share": "of bf16 rate",
        "steps": "steps timed",
    }
    typer.echo(f"{_machine(machine)}\n\n{_table(rows, columns)}")


@bench_app.command("evaluate")
def bench_evaluate(
    model: Annotated[Path, typer.Argument(help="A student's or regression's model.safetensors.")],
    episodes: Annotated[int, typer.Option(min=1)] = 100,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Time an evaluation's episodes side by side and one after the other."""
    from ractd_core.bench import time_evaluation
    from ractd_core.policy import Planner
    from ractd_core.stages import load_model
    from ractd_core.tasks import parse_dataset_name

    with user_errors(), progress() as say:
        where = chosen_device(device, threads)
        loaded = load_model(model, "student", "regression", device=where)
        planner = Planner(loaded, where)
        dataset = parse_dataset_name(loaded.about["dataset"])
        say(f"playing {episodes} episodes of {dataset.task.name} three times")
        times = time_evaluation(planner, dataset, episodes)
    if as_json:
        typer.echo(json.dumps(asdict(times), indent=1))
        return
    typer.echo(
        f"{episodes} episodes ({times.steps:,} steps), {times.lanes} at once: "
        f"{times.batched_s:.2f} s\n"
        f"one at a time by the same calls: {times.apart_s:.2f} s ({times.apart_ratio:.1f} x), "
        f"{'the same returns' if times.same_returns else 'OTHER RETURNS'}\n"
        f"one at a time by calls of one row: {times.single_s:.2f} s ({times.single_ratio:.1f} x)"
    )


def _recipe(widths: str, patch: int, horizon: int, batch: int = 64) -> Recipe:
    """The defaults with a network of this shape; SpecError says what does not fit."""
    from pydantic import ValidationError

    from ractd_core.config import Recipe
    from sweeps.spec import SpecError

    network = {"widths": widths.split("-"), "patch": patch}
    try:
        return Recipe.model_validate(
            {
                "window": {"horizon": horizon},
                "teacher": {"network": network},
                "regression": {"network": network},
                "student": {"optim": {"batch_size": batch}},
            }
        )
    except ValidationError as error:
        problems = "; ".join(problem["msg"] for problem in error.errors())
        raise SpecError(
            f"--widths {widths} --patch {patch} --horizon {horizon}: {problems}"
        ) from error


def _pair(models: Sequence[Model], files: Sequence[Path]) -> tuple[Model, Model | None]:
    """The model to time and its teacher, in any order."""
    from ractd_core.files import FileError

    kinds = [model.about["kind"] for model in models]
    quick = [model for model in models if model.about["kind"] in ("student", "regression")]
    teachers = [model for model in models if model.about["kind"] == "teacher"]
    if len(quick) != 1 or len(teachers) > 1 or len(models) != len(quick) + len(teachers):
        raise FileError(
            f"expected a student's or regression's file and perhaps a teacher's, found "
            f"{', '.join(f'{file} ({kind})' for file, kind in zip(files, kinds, strict=True))}"
        )
    return quick[0], teachers[0] if teachers else None


def _machine(machine: Machine) -> str:
    return (
        f"machine: {machine.device}, {machine.threads} CPU thread"
        f"{'s' if machine.threads > 1 else ''}; matrix products {machine.fp32_gflops:,.0f} GFLOP/s "
        f"in fp32 and {machine.bf16_gflops:,.0f} in bf16; memory {machine.bandwidth_gbs:.1f} GB/s"
    )


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    cells = [
        [f"{row[key]:.3g}" if isinstance(row[key], float) else row[key] for key in columns]
        for row in rows
    ]
    align = ["left", *["right"] * (len(columns) - 1)]
    return tabulate(cells, list(columns.values()), colalign=align, disable_numparse=True)
