"""SIGTERM in Ray's processes that train in another thread: only the main one takes signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.tune.trainable.function_trainable import wrap_function

from sweeps.interruption import heed_sigterm


class HeedSigterm(WorkerGroupCallback):
    """For Ray Train's workers."""

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called when a group has started, and again when it has been replaced."""
        worker_group.execute(heed_sigterm)


def heeding_sigterm(function: Callable[[dict[str, Any]], None]) -> type:
    """Tune's trainable of ``function``."""
    trainable: Any = wrap_function(function)

    class Trial(trainable):
        def setup(self, config: dict[str, Any]) -> None:
            heed_sigterm()
            super().setup(config)

    return Trial
