"""``ractd cluster``: which job is where, over the local backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import LocalBackend, LocalPlace, Registry
from ractd_core.files import home
from sweeps.cli import app
from sweeps.cli_cluster import _see_off
from tests.cluster.jobs import python, shell, wait_for_line


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["cluster", *arguments])
    return done.exit_code, done.output


@pytest.fixture
def running(tmp_path: Path, project_home: Path) -> Iterator[LocalPlace]:
    """A place where a job called tiny runs, which nobody here has submitted."""
    backend = LocalBackend(tmp_path / "first" / "sweeps")
    backend.submit(shell("tiny", "echo begun; exec sleep 60"))
    wait_for_line(backend, "tiny", "begun")
    yield LocalPlace(root=backend.root)
    backend.stop("tiny", grace=0.1)


def test_a_sweep_that_runs_at_one_place_is_not_submitted_to_another(
    tiny: Callable[..., Path], tmp_path: Path, running: LocalPlace
) -> None:
    registry = Registry(home() / "jobs")
    registry.put("tiny", running, str(tmp_path / "first"))
    other = str(tmp_path / "second")
    code, said = call("submit", str(tiny()), "--backend", "local", "--storage", other)
    assert code == 2
    assert "tiny is already running elsewhere (backend local, process " in said
    assert not (tmp_path / "second").exists()
    assert registry.get("tiny") == (running, str(tmp_path / "first"))
    assert call("stop", "tiny", "--grace", "0.1")[0] == 0


def test_a_job_that_another_machine_submitted_is_known_once_it_is_met(
    tiny: Callable[..., Path], tmp_path: Path, running: LocalPlace
) -> None:
    assert "no job 'tiny' was submitted from here" in call("status", "tiny")[1]
    first = str(tmp_path / "first")
    code, said = call("submit", str(tiny()), "--backend", "local", "--storage", first)
    assert (code, "tiny is already running" in said) == (2, True)
    assert "tiny: running, process " in call("status", "tiny")[1]


def test_a_job_that_waits_is_told_of_soon_and_once(
    running: LocalPlace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweeps.cli_cluster._SOON", 0.1)
    monkeypatch.setattr("sweeps.cli_cluster._PATIENCE", 2.0)
    _see_off(running.open(), "tiny")
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("tiny: running, process ")
    assert "its preflight is not over yet" in last


def test_a_job_has_as_long_to_stop_as_its_spec_says(
    tiny: Callable[..., Path], tmp_path: Path, project_home: Path
) -> None:
    backend = LocalBackend(tmp_path / "first" / "sweeps")
    slow = (
        "import signal, sys, time\n"
        "def end(*_): time.sleep(1); print('saved'); sys.exit(130)\n"
        "signal.signal(2, end); print('begun'); time.sleep(60)\n"
    )
    backend.submit(python("tiny", slow))
    wait_for_line(backend, "tiny", "begun")
    spec, first = str(tiny(resources={"grace": 60})), str(tmp_path / "first")
    assert call("submit", spec, "--backend", "local", "--storage", first)[0] == 2
    assert Registry(home() / "jobs").grace("tiny") == 75
    assert "tiny: stopped" in call("stop", "tiny")[1]
    assert list(backend.logs("tiny")) == ["begun", "saved"]
