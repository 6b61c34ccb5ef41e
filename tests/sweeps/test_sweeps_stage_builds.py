"""What becomes of a sweep when one of its stages cannot be built."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayTaskError, WorkerCrashedError

from ractd_core.data.flat import DataError
from ractd_core.files import write_text
from ractd_core.training import DivergedError
from sweeps.budget import Budget
from sweeps.interruption import PreemptedError
from sweeps.layout import TaskContext
from sweeps.progress import Progress
from sweeps.stage_builds import StageBuilds
from sweeps.stage_store import CHECKPOINT, BusyError, StageRequest
from tests.sweeps.study import Start

pytestmark = pytest.mark.usefixtures("project_home")


class Building:
    """A build of one teacher whose task has ended with an ``error``, as Ray raises it."""

    def __init__(self, context: TaskContext, monkeypatch: pytest.MonkeyPatch) -> None:
        self.request: StageRequest = context.request("teacher", context.recipe)
        self.budget = Budget(context.folder)
        self.checkpoint = context.folder.store.building(self.request.name) / CHECKPOINT
        progress = Progress(context.folder.path / "events.jsonl")
        self._builds = StageBuilds(context.folder, {"CPU": 2.0}, self.budget, progress)
        self._monkeypatch = monkeypatch

    def again(self, error: Exception, *, got_on: bool = False) -> bool:
        """Whether the stage is to be asked for again."""
        if not isinstance(error, WorkerCrashedError):
            error = RayTaskError("_ensure", "its traceback", error).as_instanceof_cause()
        self._builds._saved[self.request.name] = self._builds._checkpoint(self.request)
        if got_on:
            write_text(self.checkpoint, "further")

        def get(reference: Any) -> Any:
            raise error

        self._monkeypatch.setattr(ray, "get", get)
        return self._builds._unfinished(None, self.request)


@pytest.fixture
def building(start: Start, monkeypatch: pytest.MonkeyPatch) -> Building:
    return Building(start(), monkeypatch)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DivergedError("loss not finite at step 3"), "diverged: loss not finite at step 3"),
        (DataError("no data"), "DataError: no data"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory: CUDA out of memory"),
        (RuntimeError("shapes do not fit"), "RuntimeError: shapes do not fit"),
        (WorkerCrashedError(), "WorkerCrashedError: The worker died unexpectedly"),
    ],
)
def test_an_error_of_one_build_is_told_and_left_to_the_trials_that_need_it(
    building: Building, capsys: pytest.CaptureFixture[str], error: Exception, told: str
) -> None:
    assert not building.again(error)
    said = capsys.readouterr().out
    assert f"({building.request.name}) cannot be built: {told}" in said


def test_a_build_that_got_on_or_had_to_make_room_is_asked_for_again(building: Building) -> None:
    assert building.again(RuntimeError("its node went"), got_on=True)
    assert building.again(WorkerCrashedError(), got_on=True)
    assert building.again(PreemptedError("made room"))
    assert building.again(BusyError(building.request.name))
    assert not building.again(DivergedError("for everybody"), got_on=True)


def test_a_full_storage_pauses_building(building: Building) -> None:
    assert building.budget.crowded() is None
    assert building.again(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert "is full, by its size or by a quota" in (building.budget.crowded() or "")


def test_other_trouble_with_the_storage_ends_the_driver(building: Building) -> None:
    with pytest.raises(RuntimeError, match=r"teacher-\w+ could not be built: .*stale"):
        building.again(OSError(errno.ESTALE, "stale file handle"))
