"""A driver whose own files find no room: it pauses, and says what it can."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweeps.budget import Budget, when_there_is_room
from sweeps.progress import Progress
from sweeps.sweep_search import SweepSearch
from tests.sweeps.study import Start, open_search

pytestmark = [
    pytest.mark.usefixtures("project_home"),
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here"),
]
FULL = Path("/dev/full")


def test_asking_for_a_trial_on_a_full_storage_pauses_and_does_not_raise(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    context, progress = start(budget={"free_gb": 2}), Progress(FULL)
    search = SweepSearch([open_search(context)], Budget(context.folder), progress.say)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0.0))
    assert search.suggest("a") is None
    assert "paused: 0.00 GB are free" in capsys.readouterr().out


def test_a_log_that_is_full_too_does_not_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FULL.open("w", encoding="utf-8")
    monkeypatch.setattr("sys.stdout", log)
    progress = Progress(tmp_path / "events.jsonl")
    progress.say("as long as there is room here")
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space left"):
        log.close()
    assert "as long as there is room here" in (tmp_path / "events.jsonl").read_text()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_heartbeat_goes_on_after_what_it_looks_at_was_away(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "events.jsonl")
    looks: list[int] = []

    def line() -> list[str]:
        looks.append(len(looks))
        if len(looks) < 3:
            raise OSError("stale file handle")
        return ["there again"]

    with progress.every(0.01, line):
        deadline = time.monotonic() + 20
        while len(looks) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
    said = (tmp_path / "events.jsonl").read_text()
    assert said.count("cannot be used for now: stale file handle") == 1
    assert said.count("there again") == 1


def test_what_follows_the_search_waits_for_room_and_goes_on_where_it_was(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = start(budget={"free_gb": 2}).folder
    free, calls = [1e9, 1e9, 5e9, 5e9], list[int]()
    waited: list[float] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free.pop(0)))
    monkeypatch.setattr(time, "sleep", waited.append)

    def work() -> None:
        calls.append(len(waited))
        if len(calls) == 1:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    when_there_is_room(folder, work)
    assert calls == [2, 3], "twice too little, then a quota, then room"

    def broken() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    free.append(5e9)
    with pytest.raises(OSError, match="Input/output"):
        when_there_is_room(folder, broken)
