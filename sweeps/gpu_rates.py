"""Costs on GPUs that are not here: of finished stages in the store, else by an assumption."""

from __future__ import annotations

from collections.abc import Callable

from cluster import JobError
from ractd_core.config import Recipe
from ractd_core.tasks import Task
from sweeps.spec_parts import Resources
from sweeps.stage_store import StageStore
from sweeps.step_times import Rate, StepTimes, step_gflop

TFLOPS = {
    "T4": (8.1, 65.0),
    "V100": (15.7, 125.0),
    "A10": (62.5, 125.0),
    "A100": (156.0, 312.0),
    "L4": (60.0, 121.0),
    "L40S": (183.0, 362.0),
    "H100": (495.0, 989.0),
    "H200": (495.0, 989.0),
}
"""Dense matrix peaks in 10¹² operations a second as makers state them: in fp32 (TF32 where there
is one) and in 16 bits."""
EFFICIENCY = 0.3
LEAST_STEP = 0.01
"""What is assumed: the share of the peak that a step reaches, and seconds that none goes below,
since small networks wait for their kernels to be launched."""


class GpuTimes:
    """Costs of steps on a GPU of ``gpu``'s type; episodes are played at this machine's rate.

    Raises :class:`~cluster.JobError` for a type that :data:`TFLOPS` does not have.
    """

    def __init__(
        self, gpu: str, store: StageStore, resources: Resources, say: Callable[[str], None]
    ) -> None:
        if gpu not in TFLOPS:
            raise JobError(f"--gpu {gpu}: its peak is not known; there are {', '.join(TFLOPS)}")
        self._gpu = gpu
        self._here = StepTimes(store, _with(resources, lambda gpus: 0.0), say)

    def step(self, kind: str, recipe: Recipe, task: Task) -> Rate:
        """One training step of ``kind``."""
        known = self._here.known(kind, recipe, task, "cuda")
        if known is not None:
            return known
        peaks = TFLOPS[self._gpu]
        peak = peaks[getattr(recipe, kind).optim.precision == "bf16"]
        seconds = step_gflop(kind, recipe, task) / (1000 * peak * EFFICIENCY)
        return Rate(max(LEAST_STEP, seconds), "assumed from the GPU's peak")

    def episode(self, recipe: Recipe, task: Task) -> float | None:
        """Seconds of an episode of full length, on this machine's CPU."""
        return self._here.episode(recipe, task)


def on_gpus(resources: Resources) -> Resources:
    """``resources`` with a GPU for each worker where the spec gives none."""
    return _with(resources, lambda gpus: gpus or 1.0)


def _with(resources: Resources, gpus: Callable[[float], float]) -> Resources:
    stages = {kind: getattr(resources, kind) for kind in ("teacher", "reward", "student")}
    return resources.model_copy(
        update={
            kind: stage.model_copy(update={"gpus": gpus(stage.gpus)})
            for kind, stage in stages.items()
        }
    )
