"""A driver seen from another machine that shares its storage."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from cluster import Job
from sweeps import budget as budgets
from sweeps.budget import Budget
from sweeps.jobs import backend_of, goes_on, state_of
from sweeps.layout import SweepFolder
from sweeps.spec import load_spec
from tests.sweeps.command import ractd

pytestmark = pytest.mark.usefixtures("project_home")


@pytest.fixture
def folder(tiny: Callable[..., Path], tmp_path: Path) -> SweepFolder:
    spec = load_spec(str(tiny()))
    folder = SweepFolder(tmp_path / "storage", spec.name)
    folder.freeze(spec)
    return folder


@pytest.fixture
def driven(folder: SweepFolder) -> Iterator[SweepFolder]:
    """A job that stands for a driver: it runs, its lock is held, and its clock ticks."""
    backend = backend_of(folder)
    backend.submit(Job(folder.name, ("/bin/sh", "-c", "echo at work; exec sleep 60")))
    with FileLock(folder.path / "driver.lock"):
        Budget(folder).tick()
        yield folder
    backend.stop(folder.name, grace=5)


def from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")


def test_another_machine_sees_a_driver_and_can_neither_follow_up_nor_stop_it(
    driven: SweepFolder,
) -> None:
    here, job = socket.gethostname(), driven.path / "job"
    before = {path.name: path.read_bytes() for path in job.iterdir()}
    with pytest.MonkeyPatch.context() as monkeypatch:
        from_elsewhere(monkeypatch)
        storage = ("--storage", str(driven.storage))
        for command in ("resume", "stop"):
            said = ractd("sweep", command, "tiny", *storage, code=2)
            assert f"is already being driven on {here} (process {os.getpid()})" in said
        assert ractd("sweep", "run", str(driven.storage.parent / "tiny.yaml"), *storage, code=2)
        assert f"tiny: running, process {os.getpid()} on {here}" in ractd(
            "sweep", "status", "tiny", *storage
        )
        assert goes_on(driven)
    after = {path.name: path.read_bytes() for path in job.iterdir()}
    assert after.keys() == before.keys()
    assert after == before
    assert state_of(driven, short=True) == "running"
    assert state_of(driven) != state_of(driven, short=True)


def test_a_driver_that_is_not_heard_of_any_more_is_lost(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(folder)
    budget.tick()
    assert state_of(folder, short=True) == "running"
    monkeypatch.setattr(budgets, "_runs", lambda pid: False)
    assert state_of(folder, short=True) == "unknown", "its process has gone from this machine"
    from_elsewhere(monkeypatch)
    assert state_of(folder, short=True) == "running", "who knows, from another one"
    clock = folder.path / "clock.json"
    long_ago = clock.stat().st_mtime - 3600
    os.utime(clock, (long_ago, long_ago))
    assert state_of(folder, short=True) == "unknown"
    monkeypatch.undo()
    with Budget(folder).ticking():
        assert state_of(folder, short=True) == "running"
    assert state_of(folder, short=True) == "unknown"
    assert json.loads(clock.read_text()).keys() == {"seconds"}
