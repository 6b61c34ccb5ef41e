"""A Ray of the driver's own, on the loopback interface, that ends with it.

Or, where ``RAY_ADDRESS`` is set, the cluster that is there already.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.settings import CAPACITY
from sweeps.spec_parts import Resources, StageResources
from sweeps.workers import TRAIN_ENVIRONMENT

_OBJECT_STORE_BYTES = 256 * 2**20
_ENVIRONMENT = {
    # Tune's own loggers and reporter write what the ledger and progress lines already say.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    # A trial that fails before its first score reports nothing; its record says why.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Its snapshot is never restored, and writing it takes longer with every trial.
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",
    # Ctrl-C is the driver's to handle: Tune would take it as "finish gracefully".
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A stage that asks for no GPU sees none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # A job's environment reaches its driver, which passes it on: Ray takes the same name twice for
    # a conflict otherwise.
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
    **TRAIN_ENVIRONMENT,
}


_PASSED = ("RACTD_HOME", "MINARI_DATASETS_PATH")
"""Where data lie, which every node must see under the same path."""


class ResourceError(RuntimeError):
    """The spec asks for more than the cluster has."""


def set_environment() -> None:
    """Set what Ray reads from the environment; only before the first import of Ray has it effect.

    The token is this process's own: another user of the machine cannot join its Ray, and a token
    file left by another Ray does not matter. A cluster that is there already has its own way.
    """
    os.environ.update(_ENVIRONMENT)
    if "RAY_ADDRESS" not in os.environ:
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})


@contextmanager
def embedded_ray(resources: Resources) -> Iterator[dict[str, float]]:
    """Start Ray, yield what it has (``{"CPU": 2.0, ...}``), and shut it down.

    Where ``RAY_ADDRESS`` is set, that cluster is joined and left instead. Raises
    :class:`ResourceError` before anything runs if a stage could never be placed.
    """
    with ray_session():
        available = reachable()
        check_resources(resources, available)
        yield available


@contextmanager
def ray_session() -> Iterator[None]:
    """A Ray of this process's own, or the cluster at ``RAY_ADDRESS``, until the end of the block.

    What cannot be joined raises Ray's own errors.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS")
    own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    # Processes of a cluster that was there before have its environment, not the driver's.
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    joined = {"runtime_env": {"env_vars": {**_ENVIRONMENT, **passed}}}
    ray.init(
        address=address or "local",
        log_to_driver=False,
        logging_level=logging.ERROR,
        **(joined if address else own),
    )
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def usable_cpus() -> int:
    """Processors that this process may use, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def reachable() -> dict[str, float]:
    """What the cluster has, or an autoscaler that was told of can bring it to."""
    import ray

    grown: dict[str, float] = json.loads(os.environ.get(CAPACITY, "{}"))
    now: dict[str, float] = ray.cluster_resources()
    return {name: max(now.get(name, 0), grown.get(name, 0)) for name in {**now, **grown}}


def capacity(stage: StageResources, available: dict[str, float]) -> int:
    """How many runs of a stage fit at once, with the most workers; one also with the fewest."""
    fits = [available.get("CPU", 0) / stage.cpus]
    if stage.gpus:
        fits.append(available.get("GPU", 0) / stage.gpus)
    workers = int(min(fits) + 1e-9)
    return max(workers // stage.most, int(workers >= stage.fewest))


def idle_gpus(resources: Resources, available: dict[str, float]) -> list[str]:
    """What to tell who has GPUs and asks for none of them: a line, or none."""
    count = available.get("GPU", 0)
    stages = (resources.teacher, resources.reward, resources.student)
    if not count or any(stage.gpus for stage in stages):
        return []
    return [
        f"{count:g} GPU{'s' * (count != 1)} not used: the spec asks for none; a stage takes one or "
        "a share by resources.teacher.gpus, resources.reward.gpus and resources.student.gpus"
    ]


def check_resources(resources: Resources, available: dict[str, float]) -> None:
    """Raise :class:`ResourceError` naming every stage that cannot be placed."""
    problems: list[str] = []
    for kind in ("teacher", "reward", "student"):
        stage: Any = getattr(resources, kind)
        if capacity(stage, available) < 1:
            problems.append(
                f"resources.{kind}: {stage.fewest} workers with {stage.cpus:g} CPUs and "
                f"{stage.gpus:g} GPUs each do not fit; Ray has {available.get('CPU', 0):g} CPUs "
                f"and {available.get('GPU', 0):g} GPUs"
            )
    if problems:
        raise ResourceError("\n".join(problems))
