"""Teachers and reward models of a sweep, built side by side as Ray tasks before its trials.

So no trial holds resources while it waits for a stage. One that somebody else builds, another
sweep of the same storage perhaps, is asked for again until it is there or its builder has died.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray.exceptions import RayError

from ractd_core.data.flat import DataError
from ractd_core.files import lacks_room
from ractd_core.training import DivergedError
from sweeps.budget import Budget
from sweeps.build import ensure_stage
from sweeps.embedded_ray import capacity
from sweeps.interruption import PreemptedError, heed_sigterm, making_room
from sweeps.layout import SweepFolder, storage_path
from sweeps.messages import log_to
from sweeps.mirror import address_of, refresh
from sweeps.mirrored_sweep import want
from sweeps.progress import Progress
from sweeps.requests import describe
from sweeps.stage_store import CHECKPOINT, BusyError, StageRequest
from sweeps.workers import failure_reason

_AGAIN = 2.0
"""Seconds until a stage that somebody else builds is asked for again."""


class StageBuilds:
    """Builds what is missing of ``requests`` on what Ray has ``available``.

    Nothing begins once the driver is ``ending``.
    """

    def __init__(
        self,
        folder: SweepFolder,
        available: dict[str, float],
        budget: Budget,
        progress: Progress,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder, self._available, self._budget = folder, available, budget
        self._ending = ending
        self._progress, self._say = progress, progress.say
        self._resources = folder.spec().resources
        self._waits: set[str] = set()
        self._saved: dict[str, int] = {}
        self._told: str | None = None

    def build(self, kind: str, requests: Iterable[StageRequest]) -> None:
        """Build those of one ``kind`` that are not in the store, as many at once as fit.

        What cannot be built, because it diverges, its data are gone or its training fails, is left
        to the trials that need it, which fail with that reason: those of other tasks can go on. On
        a full storage building pauses, and once the budget is spent nothing begins. Raises
        RuntimeError for other trouble with the storage.
        """
        find = self._folder.store.find
        wanted = {request.name: request for request in requests}
        want(self._folder.path, wanted)
        missing = [request for request in wanted.values() if find(request.name) is None]
        if len(missing) < len(wanted):
            self._say(f"{kind}: {len(wanted) - len(missing)} of {len(wanted)} in the store")
        # A stage whose parent could not be built is left to the trials too.
        todo = deque(r for r in missing if all(map(find, r.parents.values())))
        resources = getattr(self._resources, kind)
        alone = resources.alone
        # Ray Train's workers take their own resources; the task that waits for them takes none.
        task = ray.remote(_ensure).options(
            num_cpus=resources.cpus if alone else 0,
            num_gpus=resources.gpus if alone else 0,
            max_retries=2,
        )
        slots = capacity(resources, self._available)
        running: dict[Any, StageRequest] = {}
        again: dict[str, float] = {}
        while todo or running:
            if self._ending():
                todo.clear()
            if todo and self._budget.spent():
                self._say(f"{self._budget.spent()}: {len(todo)} stages are not built")
                todo.clear()
            crowded = self._budget.crowded()
            if crowded and crowded != self._told:
                self._say(crowded)
            self._told = crowded
            for _ in range(0 if crowded else len(todo)):
                request = todo.popleft()
                if len(running) >= slots or again.get(request.name, 0.0) > time.monotonic():
                    todo.append(request)
                    continue
                workers = "" if alone else f" on {resources.how_many} Ray Train workers"
                if request.name not in self._waits:
                    self._progress.event(
                        "stage",
                        f"building {describe(request)}{workers}",
                        state="building",
                        name=request.name,
                    )
                reference = task.remote(
                    address_of(self._folder.storage), self._folder.name, request
                )
                running[reference] = request
                self._saved[request.name] = self._checkpoint(request)
            if not running:
                time.sleep(_AGAIN if todo else 0)
                continue
            ready, _ = ray.wait(list(running), num_returns=1, timeout=_AGAIN)
            for reference in ready:
                request = running.pop(reference)
                if self._unfinished(reference, request):
                    again[request.name] = time.monotonic() + _AGAIN
                    todo.append(request)

    def _checkpoint(self, request: StageRequest) -> int:
        """When the last checkpoint of a stage was written, 0 without one."""
        path = self._folder.store.building(request.name) / CHECKPOINT
        return path.stat().st_mtime_ns if path.exists() else 0

    def _unfinished(self, ready: Any, request: StageRequest) -> bool:
        """Take a task's result; whether somebody else is at its stage, or it was interrupted."""
        try:
            manifest = ray.get(ready)
        except BusyError:
            if request.name not in self._waits:
                self._waits.add(request.name)
                self._say(f"waiting for {request.name}, which another process is building")
            return True
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            if lacks_room(cause):
                self._budget.lacked_room()
                return True
            # Its processes may go as often as they like, as long as it gets on.
            got_on = self._checkpoint(request) != self._saved[request.name]
            given_up = isinstance(cause, DivergedError | DataError)
            if not given_up and (got_on or isinstance(cause, PreemptedError)):
                return True
            if isinstance(cause, OSError):
                raise RuntimeError(f"{request.name} could not be built: {cause}") from error
            # The trials that need it fail with this reason, and the sweep goes on.
            self._say(f"{describe(request)} cannot be built: {failure_reason(cause)}")
            return False
        if manifest is None:
            return False  # The driver is ending.
        self._progress.event(
            "stage",
            f"built {manifest['name']}: {manifest['steps']} steps in {manifest['seconds']:.0f} s, "
            f"loss {manifest['loss']:.3g}",
            state="built",
            **{
                key: manifest[key] for key in ("name", "steps", "seconds", "device_seconds", "loss")
            },
        )
        return False


def _ensure(storage: str, name: str, request: StageRequest) -> dict[str, Any] | None:
    folder = SweepFolder(storage_path(storage), name)
    log_to(folder.path / "messages")
    refresh(folder.path / "spec.yaml")
    resources = getattr(folder.spec().resources, request.kind)
    heed_sigterm()
    with making_room(folder.path):
        return ensure_stage(folder.store, request, resources, folder.scratch, wait=False)
