"""Build a shared stage: training on its workers, metrics and checkpoint in the build folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ractd_core.config import Recipe
from ractd_core.data.normalizer import Normalizers
from ractd_core.data.store import load
from ractd_core.files import write_text
from ractd_core.stages import StageModule, make_stage
from ractd_core.tasks import parse_dataset_name
from ractd_core.training import Metrics, Trainer
from sweeps.interruption import Notices
from sweeps.jsonl import Row, append_row, read_rows, spent
from sweeps.memory import micro_batch, with_one_retry
from sweeps.mirror import address_of, fetch, join, pull, push
from sweeps.mirrored_sweep import want
from sweeps.shared_data import bring_data
from sweeps.spec_parts import StageResources
from sweeps.stage_store import CHECKPOINT, MODEL, StageRequest, StageStore
from sweeps.workers import Payload, Report, device, run_on_workers

_REPORTS = 10
METRICS = "metrics.jsonl"
BUILDER = ".builder"
"""Which sweep builds a stage, while it does."""


def ensure_stage(
    store: StageStore,
    request: StageRequest,
    resources: StageResources,
    scratch: Path,
    *,
    wait: bool = True,
) -> dict[str, Any]:
    """The stage's manifest, after building it on ``resources`` if nobody has.

    If memory does not suffice it is tried once more, with half the rows at a time. While somebody
    else builds it this waits, or raises :class:`~sweeps.stage_store.BusyError` if ``wait`` is
    False.
    """

    def train(folder: Path) -> None:
        payload = {
            "kind": request.kind,
            "recipe": request.recipe.model_dump(mode="json"),
            "dataset": request.dataset,
            "fingerprint": request.fingerprint,
            "parents": {kind: str(store.path(name)) for kind, name in request.parents.items()},
            "folder": str(folder),
            "storage": address_of(store.root),
            "name": request.name,
            "micro_batch": micro_batch(folder, resources),
            "compile": resources.compile,
            "sweep": str(scratch.parent),
        }
        run_on_workers(train_stage, payload, resources, scratch)

    def build(folder: Path) -> dict[str, Any]:
        trained = "student" if request.kind == "joint" else request.kind
        batch = getattr(request.recipe, trained).optim.batch_size
        write_text(folder / BUILDER, scratch.parent.name)
        with_one_retry(lambda: train(folder), folder, resources, batch)
        (folder / BUILDER).unlink()
        rows = read_rows(folder / METRICS)
        seconds, workers = spent(rows)
        return {
            "steps": rows[-1]["step"],
            "loss": rows[-1]["loss"],
            "seconds": round(seconds, 3),
            "workers": workers,
            "device": rows[-1]["device"],
            "device_seconds": round(seconds * workers, 3),
            "sweep": scratch.parent.name,
        }

    want(scratch.parent, [request.name])
    return store.ensure(request, build, wait=wait)


@dataclass(frozen=True)
class Outputs:
    """Where training leaves its result, a row per report, and what it goes on from."""

    model: Path
    metrics: Path
    checkpoint: Path


def train_stage(payload: Payload, report: Report) -> None:
    """Train the payload's stage to its end, from its checkpoint if there is one.

    Runs on every worker; worker 0 writes ``metrics.jsonl`` and ``model.safetensors``.
    """
    folder, where = Path(payload["folder"]), device()
    join(payload["storage"])
    pull(folder)
    recipe = Recipe.model_validate(payload["recipe"])
    dataset, fingerprint = parse_dataset_name(payload["dataset"]), payload["fingerprint"]
    bring_data(folder, dataset, fingerprint)
    data = load(dataset, fingerprint)
    parents = {kind: Path(path) for kind, path in payload["parents"].items()}
    for path in parents.values():
        fetch(path)
    stage, normalizers = make_stage(payload["kind"], recipe, data, parents, where)
    with Notices(Path(payload["sweep"])) as interrupted:
        train_to_end(
            stage,
            normalizers,
            Outputs(folder / MODEL, folder / METRICS, folder / CHECKPOINT),
            where,
            report,
            identity=payload["name"],
            reports=_REPORTS,
            micro_batch=payload["micro_batch"],
            compile=payload["compile"],
            interrupted=interrupted,
            saved=lambda: push(folder),
        )
    push(folder, patient=True)


def train_to_end(
    stage: StageModule,
    normalizers: Normalizers,
    outputs: Outputs,
    where: torch.device,
    report: Report,
    *,
    identity: str,
    reports: int,
    micro_batch: int | None,
    compile: bool,
    interrupted: Callable[[], bool],
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Train ``stage``, from its checkpoint if it has ``identity``, and write its model.

    It is reported, and a checkpoint written, about ``reports`` times. Every worker calls this,
    worker 0 writes. Raises what :meth:`~ractd_core.training.Trainer.run` does, to which
    ``interrupted`` goes.
    """
    trainer = Trainer(
        stage,
        stage.optim,
        seed=stage.seed,
        device=where,
        checkpoint=outputs.checkpoint,
        identity=identity,
        micro_batch=micro_batch,
        compile=compile,
        saved=saved,
    )

    def log(trainer: Trainer, metrics: Metrics) -> None:
        row: Row = {"step": trainer.step, "total": stage.optim.steps, **metrics}
        row |= {**trainer.lap(), "device": where.type}
        if trainer.rank == 0:
            append_row(outputs.metrics, row)
        report(row)

    every = max(1, stage.optim.steps // reports)
    trainer.run(every=every, callback=log, interrupted=interrupted)
    if trainer.rank == 0:
        stage.result(trainer.ema, normalizers).save(outputs.model)
