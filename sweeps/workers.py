"""A stage on Ray Train workers, or in the caller's own process when there is one worker.

What runs is a plain function of a JSON-like payload. Its results and checkpoints lie on storage, so
a worker group that is started again goes on where the last one was.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ractd_core.files import write_text
from ractd_core.training import DivergedError, TrainingInterrupted
from sweeps.jsonl import Row
from sweeps.mirror import address_of, fetch, join, share
from sweeps.spec_parts import StageResources


class WorkersLostError(RuntimeError):
    """Workers died again and again, through no fault of what they ran as far as is known."""


Report = Callable[[Row], None]
Payload = dict[str, Any]
Work = Callable[[Payload, Report], None]

_NO_MEMORY = ("out of memory", "can't allocate memory")
"""What torch's allocators say, on an accelerator and on the CPU."""
_REASON_LENGTH = 300

TRAIN_ENVIRONMENT = {
    # Every report waits for the controller's next look at its workers; 2 s is the default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
}


def device() -> torch.device:
    """The accelerator given to this process, else its CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def use_threads(cpus: float) -> None:
    """Let torch use the CPUs that were asked for, not all of the machine's."""
    torch.set_num_threads(max(1, int(cpus)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, an accelerator's or the machine's."""
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)


def failure_reason(error: BaseException) -> str:
    """One line for people, at most 300 characters."""
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, DivergedError):
        return f"diverged: {text}"
    kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
    return f"{kind}: {text}"[:_REASON_LENGTH]


def run_on_workers(
    work: Work,
    payload: Payload,
    resources: StageResources,
    scratch: Path,
    report: Report | None = None,
) -> None:
    """Call ``work(payload, report)`` on ``resources``' workers and wait for its end.

    Rank 0's rows reach ``report``, which must be Tune's own when given and there are several
    workers. ``scratch`` takes Ray Train's files. Raises what ``work`` raised; from several workers
    DivergedError, MemoryError and TrainingInterrupted, Ray's own errors for all others, and
    WorkersLostError when workers have died three times.
    """
    if resources.alone:
        use_threads(resources.cpus)
        work(payload, report or (lambda row: None))
        return
    _run_train(work, payload, resources, scratch, forward=report is not None)


def _run_train(
    work: Work, payload: Payload, resources: StageResources, scratch: Path, *, forward: bool
) -> None:
    from ray import train
    from ray.exceptions import RayActorError
    from ray.train.torch import TorchConfig, TorchTrainer, get_device
    from ray.tune.integration.ray_train import TuneReportCallback

    from sweeps.ray_signals import HeedSigterm

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.update(TRAIN_ENVIRONMENT)
    gpus = resources.gpus > 0
    # Resuming is our checkpoints' business: a name of its own keeps Train from restoring.
    name = f"train-{uuid.uuid4().hex[:8]}"
    diverged, memory, interrupted = (
        scratch / f"{name}.{why}" for why in ("diverged", "memory", "interrupted")
    )
    address = address_of(scratch)

    def loop(config: Payload) -> None:
        use_threads(resources.cpus)
        if gpus:
            # A worker sees all GPUs that the job holds on its node; this one is its own.
            torch.cuda.set_device(get_device())
        join(address)
        if fetch(memory):
            return  # Started again, which would only end as before.
        # Every worker must report, so that none runs ahead; rank 0's rows are the ones kept.
        try:
            work(config, (lambda row: train.report(row)) if forward else (lambda row: None))
        except DivergedError as error:
            # All workers see it at the same step. Raised here, it would only be tried again.
            write_text(diverged, str(error))
            share(diverged)
        except TrainingInterrupted as error:
            write_text(interrupted, str(error))  # All workers end at this step.
            share(interrupted)
        except Exception as error:
            # One worker may be alone with it: raised, it ends the others, who would wait for ever.
            if is_out_of_memory(error):
                write_text(memory, str(error))
                share(memory)
            raise

    elastic = resources.fewest < resources.most
    trainer = TorchTrainer(
        loop,
        train_loop_config=payload,
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=(resources.fewest, resources.most) if elastic else resources.most,
            use_gpu=gpus,
            resources_per_worker={"CPU": resources.cpus, "GPU": resources.gpus}
            if gpus
            else {"CPU": resources.cpus},
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=str(scratch),
            callbacks=[HeedSigterm(), *([TuneReportCallback()] if forward else [])],
            failure_config=train.FailureConfig(max_failures=2, controller_failure_limit=2),
        ),
    )
    try:
        trainer.fit()
    except train.WorkerGroupError as error:
        if all(isinstance(each, RayActorError) for each in error.worker_failures.values()):
            raise WorkersLostError(failure_reason(error)) from error
        raise
    if fetch(interrupted):
        raise TrainingInterrupted(interrupted.read_text())
    if fetch(diverged):
        raise DivergedError(diverged.read_text())
    if fetch(memory):
        raise MemoryError(memory.read_text())
