"""``ractd report``: one sweep, several, two compared, one that still runs."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from sweeps import cli_report
from tests.analysis.conftest import SweepBuilder
from tests.sweeps.command import ractd


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    for name, score in (("one", 100.0), ("two", 90.0)):
        builder = SweepBuilder(tmp_path / "storage", name)
        builder.trial(0, curve=[score])
        builder.row("ractd", [score, score + 2])
    return tmp_path / "storage"


def test_a_name_alone_is_a_report_on_it(storage: Path) -> None:
    told = ractd("report", "one", "--storage", str(storage))
    assert "RACTD scores 101.0" in told
    assert (storage / "sweeps" / "one" / "report" / "index.html").is_file()


def test_several_names_need_a_folder_of_their_own(storage: Path, tmp_path: Path) -> None:
    told = ractd("report", "one", "two", "--storage", str(storage), code=2)
    assert "a report on several sweeps needs a folder of its own: --out DIR" in told
    out = tmp_path / "both"
    told = ractd("report", "--storage", str(storage), "--out", str(out), "one", "two")
    assert "one: local/maze2d-umaze-v1: RACTD scores 101.0" in told
    assert "two: local/maze2d-umaze-v1: RACTD scores 91.0" in told
    assert (out / "index.html").is_file()


def test_two_sweeps_are_compared(storage: Path, tmp_path: Path) -> None:
    told = ractd("report", "diff", "one", "two", "--storage", str(storage))
    assert re.search(r"\| ractd +\| +101\.0 \| +91\.0 \| +-10\.0 \[-10\.0, -10\.0\]", told)
    written = tmp_path / "diff.md"
    ractd("report", "diff", "one", "two", "--storage", str(storage), "--out", str(written))
    assert written.read_text().startswith("# one and two")


def test_options_may_stand_before_diff(storage: Path) -> None:
    told = ractd("report", "--storage", str(storage), "diff", "one", "two")
    assert told == ractd("report", "diff", "one", "two", "--storage", str(storage))
    SweepBuilder(storage, "diff")
    told = ractd("report", "--storage", str(storage), "diff", "one", "two", code=2)
    assert "a report on several sweeps needs a folder of its own" in told


def test_a_name_twice_is_one_sweep(storage: Path) -> None:
    told = ractd("report", "one", "one", "--storage", str(storage))
    assert f"report: {storage / 'sweeps' / 'one' / 'report' / 'index.html'}" in told


def test_a_sweep_may_be_called_diff(storage: Path) -> None:
    SweepBuilder(storage, "diff")
    ractd("report", "--storage", str(storage), "diff")
    assert (storage / "sweeps" / "diff" / "report" / "index.html").is_file()


def test_a_report_is_written_again_until_the_sweep_has_ended(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = storage / "sweeps" / "one" / "report" / "index.html"
    looks = iter([True, True, False])
    pages = []
    monkeypatch.setattr(cli_report, "goes_on", lambda _: next(looks))
    monkeypatch.setattr(time, "sleep", lambda _: pages.append(page.read_text()))
    ractd("report", "one", "--watch", "--storage", str(storage))
    refresh = '<meta http-equiv="refresh"'
    assert [refresh in each for each in pages] == [True, True]
    assert refresh not in page.read_text()


def test_an_interrupted_watch_leaves_a_page_that_stands_still(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = storage / "sweeps" / "one" / "report" / "index.html"
    seen = []

    def interrupt(_: float) -> None:
        seen.append("this page with it" in page.read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_report, "goes_on", lambda _: True)
    monkeypatch.setattr(time, "sleep", interrupt)
    ractd("report", "one", "--watch", "--storage", str(storage), code=130)
    assert seen == [True]
    assert "this page with it" not in page.read_text()
    assert 'http-equiv="refresh"' not in page.read_text()


def test_a_lost_driver_ends_the_watch_and_one_that_is_heard_of_does_not(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = storage / "sweeps" / "one"
    run = {"host": "elsewhere", "pid": 1, "started": 1.0}
    (folder / "job").mkdir()
    (folder / "job" / "run.json").write_text(json.dumps(run))
    clock = folder / "clock.json"
    clock.write_text(json.dumps({"seconds": 1.0, "host": "elsewhere", "pid": 1}))
    looks: list[int] = []

    def hours_pass(_: float) -> None:
        looks.append(len(looks))
        os.utime(clock, (0, 0) if len(looks) == 2 else None)

    monkeypatch.setattr(time, "sleep", hours_pass)
    told = ractd("report", "one", "--watch", "--storage", str(storage))
    assert looks == [0, 1]
    assert "one: lost, last seen on elsewhere; `ractd sweep resume one --storage " in told


def test_help_and_no_name() -> None:
    assert "--watch" in ractd("report", "--help")
    assert "NAME..." in ractd("report", code=2)
