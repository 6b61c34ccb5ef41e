"""The table that follows a sweep on a terminal, and the log where there is none."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from cluster import Job
from ractd_core.files import write_json
from sweeps.cli import main
from sweeps.jobs import backend_of
from sweeps.layout import SweepFolder
from sweeps.live import Screen, follow, table
from sweeps.spec import load_spec
from sweeps.status import StatusReader

pytestmark = pytest.mark.usefixtures("project_home")

Spec = Callable[..., Path]
UMAZE, LONG = "local/maze2d-umaze-v1", "minari/antmaze-large-diverse-v2"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
REPORT = ["", "| method | score |", "a report's line that is " + "long " * 30, "report: here"]


@pytest.fixture
def folder(tiny: Spec, tmp_path: Path) -> SweepFolder:
    """A sweep of two tasks with three records, one of them the best, and a trial under way."""
    rows: list[str] = []
    spec = load_spec(str(tiny(tasks=[UMAZE, LONG], trials=6, rows=rows)))
    made = SweepFolder(tmp_path / "storage", spec.name)
    made.freeze(spec)
    for index, (status, reason) in enumerate(
        [("completed", None), ("pruned", "low"), ("failed", "diverged: x")]
    ):
        made.trials.put(
            f"k{index}",
            {"dataset": UMAZE, "status": status, "number": index, "reason": reason}
            | {"selection": {"score": 61.5} if status == "completed" else None}
            | {"seconds": 60.0, "workers": 1, "finished": f"2026-03-01T12:0{index}:00+00:00"},
        )
    write_json(made.trials.folder("k3") / "trial.json", {"dataset": LONG, "number": 3})
    return made


def screen(folder: SweepFolder) -> Screen:
    return Screen(StatusReader(folder), lambda: "running, process 7")


def cells(text: str, task: str) -> list[str]:
    [line] = [line for line in text.splitlines() if task in line]
    return line.split()[1:]


def test_the_table_has_a_row_per_task_and_fits_100_columns(folder: SweepFolder) -> None:
    console = Console(file=io.StringIO(), record=True, width=100)
    console.print(table(StatusReader(folder).sweep("running")))
    text = console.export_text()
    assert "tiny: running" in text
    assert cells(text, UMAZE) == ["3/6", "0", "3", "1", "0", "1", "61.5"]
    assert LONG in text, "in one line"
    assert max(map(len, text.splitlines())) <= 100


def test_following_draws_the_last_messages_and_then_what_the_driver_left(
    folder: SweepFolder,
) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=40, _environ={})
    lines = [f"[00:{n:02d}] message {n}" for n in range(20)]
    follow([*lines[:19], "a warning of a library", lines[19], *REPORT], screen(folder), console)
    shown = ANSI.sub("", out.getvalue())
    last = shown[shown.rindex("tiny: running") :]
    assert cells(last, UMAZE)[0] == "3/6"
    assert "message 19" in last
    assert "message 5" not in last
    assert last.splitlines()[-len(REPORT) :] == REPORT, "whole, however long the lines"
    assert "a warning of a library" in last[: last.index("message 19")]
    assert last.count("report: here") == 1
    assert out.getvalue().count("tiny: running") < 5, "not drawn for each line"


def test_storage_that_is_away_for_a_moment_is_said_and_seen_again(folder: SweepFolder) -> None:
    seen = screen(folder)
    record = folder.trials.folder("k0") / "record.json"
    whole = record.read_text()
    record.write_text("{")
    console = Console(file=io.StringIO(), record=True, width=300)
    console.print(seen.draw())
    record.write_text(whole)
    seen.expire()
    console.print(seen.draw())
    text = console.export_text()
    assert f"cannot be read: {record}" in text
    assert cells(text, UMAZE)[0] == "3/6"


def test_a_burst_of_drawings_reads_the_storage_once(folder: SweepFolder) -> None:
    seen = screen(folder)
    console = Console(file=io.StringIO(), record=True, width=100)
    console.print(seen.draw())
    shutil.rmtree(folder.trials.root)
    console.print(seen.draw())
    assert [
        cells(line, UMAZE)[0] for line in console.export_text().splitlines() if UMAZE in line
    ] == [
        "3/6",
        "3/6",
    ]


# The command, on a pseudo-terminal and on a pipe, following a job that stands for the driver


@pytest.fixture
def driver(folder: SweepFolder) -> Iterator[SweepFolder]:
    """A job of the sweep's name that prints what a driver does, then waits for a file ``go``."""
    said = "".join(f"[00:0{n}] trial {n} scored\\n" for n in range(3))
    wait = f'printf "{said}"; while [ ! -e "{folder.path}/go" ]; do sleep 0.05; done; echo the end'
    backend = backend_of(folder)
    backend.submit(Job(folder.name, ("/bin/sh", "-c", wait)))
    yield folder
    (folder.path / "go").touch()
    backend.stop(folder.name, grace=5)


class Child:
    """``ractd sweep ...`` in a process of its own, on a terminal of 100 columns or on a pipe.

    Forked, because starting Python with all its imports takes longer than everything tested here.
    ``text`` is what it has shown so far.
    """

    def __init__(self, folder: SweepFolder, *arguments: str, terminal: bool = True) -> None:
        self.text = ""
        if terminal:
            self._pid, self._own = pty.fork()
        else:
            self._own, given = os.pipe()
            self._pid = os.fork()
            if self._pid == 0:
                os.dup2(given, 1)
            else:
                os.close(given)
        if self._pid == 0:
            os.environ |= {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
            sys.stdout = sys.stderr = os.fdopen(1, "w")
            sys.argv = ["ractd", "sweep", *arguments, "--storage", str(folder.storage)]
            code = 70
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                os._exit(code)

    def until(self, expected: str) -> None:
        end = time.monotonic() + 60
        while expected not in self.text and time.monotonic() < end and self._read():
            pass
        assert expected in self.text, self.text

    def type(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def end(self) -> int:
        while self._read():
            pass
        os.close(self._own)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self._own], [], [], 60)[0]:
            return False
        try:
            found = os.read(self._own, 65536)
        except OSError:  # The other end is closed.
            return False
        self.text += found.decode(errors="replace")
        return bool(found)


def test_a_terminal_gets_a_table_and_at_the_end_what_the_driver_left(driver: SweepFolder) -> None:
    child = Child(driver, "resume", "tiny")
    child.until("trial 2 scored")
    (driver.path / "go").touch()
    code = child.end()
    shown = ANSI.sub("", child.text)
    assert cells(shown[shown.rindex("tiny: ") :], UMAZE)[:2] == ["3/6", "0"]
    assert shown.rstrip().endswith("the end")
    assert SHOW_CURSOR in child.text[-200:]
    assert code == 0


def test_ctrl_c_leaves_the_terminal_as_it_was_and_the_sweep_running(driver: SweepFolder) -> None:
    child = Child(driver, "resume", "tiny")
    child.until("trial 2 scored")
    child.type("\x03")
    code = child.end()
    assert "sweep tiny goes on" in child.text
    assert "Traceback" not in child.text
    assert SHOW_CURSOR in child.text[child.text.index(HIDE_CURSOR) :]
    assert code == 0
    assert backend_of(driver).status("tiny").state == "running"


@pytest.mark.parametrize("plain", [False, True])
def test_without_a_terminal_or_when_asked_there_are_lines_and_nothing_else(
    driver: SweepFolder, plain: bool
) -> None:
    expected = [f"[00:0{n}] trial {n} scored" for n in range(3)]
    options = ["--plain"] if plain else []
    child = Child(driver, "resume", "tiny", *options, terminal=plain)
    child.until(expected[-1])
    (driver.path / "go").touch()
    assert child.end() == 0
    assert child.text.splitlines()[1:] == [*expected, "the end"]
    assert "\x1b" not in child.text


def test_watching_the_status_on_a_terminal_ends_with_the_sweep(driver: SweepFolder) -> None:
    child = Child(driver, "status", "tiny", "--watch")
    child.until("61.5")
    (driver.path / "go").touch()
    assert child.end() == 0
    assert "tiny: succeeded" in ANSI.sub("", child.text)
