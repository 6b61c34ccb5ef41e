"""Whole sweeps on a real Ray, through the command that users type."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cluster import JobState, LocalBackend
from ractd_core.data.store import load
from ractd_core.tasks import parse_dataset_name

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DATASET = "local/maze2d-umaze-v1"


def ractd(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweeps", *arguments], capture_output=True, text=True, check=False
    )


def records(home: Path, kind: str = "trials", name: str = "tiny") -> dict[str, dict[str, Any]]:
    folder = home / "storage" / "sweeps" / name / kind
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/record.json")}


def study_states(home: Path, name: str = "tiny", *, whole: int = 0) -> dict[str, int]:
    """How many trials of the study, of those with ``whole`` parameters or more, are in a state."""
    path = home / "storage" / "sweeps" / name / "studies" / "maze2d-umaze-v1.journal"
    # The only one there.
    study = optuna.load_study(
        study_name=None, storage=JournalStorage(JournalFileBackend(str(path)))
    )
    states = [trial.state.name for trial in study.get_trials() if len(trial.params) >= whole]
    return {state: states.count(state) for state in set(states)}


def driver_pid(home: Path, name: str = "tiny") -> int:
    """The driver itself, not the shell that waits for it."""
    run = json.loads((home / "storage" / "sweeps" / name / "job" / "run.json").read_text())
    children = Path(f"/proc/{run['pid']}/task/{run['pid']}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def wait_for(moment: Callable[[], bool], backend: LocalBackend, name: str = "tiny") -> None:
    """Until ``moment`` has come, or the sweep has ended without it (an error)."""
    deadline = time.monotonic() + 120
    while not moment():
        if backend.status(name).state is not JobState.RUNNING or time.monotonic() > deadline:
            log = "\n".join(backend.logs(name))
            pytest.fail(f"the moment did not come; the driver said:\n{log}")
        time.sleep(0.02)


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="finds the driver's process through /proc"
)
def test_a_sweep_killed_at_five_moments_ends_as_if_it_had_not_been(
    project_home: Path, tiny: Callable[..., Path]
) -> None:
    """Data, teacher, student, between trials, report: kill -9 and resume, five times over."""
    spec = tiny(
        # Long enough that every moment can be met.
        data={"transitions": 40_000},
        pruner={"kind": "none"},
        resources={"concurrent_trials": 1},
    )
    storage = project_home / "storage"
    sweep = storage / "sweeps" / "tiny"
    backend = LocalBackend(storage / "sweeps")
    datasets = Path(os.environ["MINARI_DATASETS_PATH"])

    def begun(kind: str) -> bool:
        return any((storage / "stages" / ".building").glob(f"{kind}-*"))

    moments: dict[str, Callable[[], bool]] = {
        "data": lambda: any(datasets.glob(".*lock")),
        "teacher": lambda: begun("teacher"),
        "student": lambda: any(sweep.glob("trials/*/curve.jsonl")),
        "between trials": lambda: len(records(project_home)) >= 2,
        "report": lambda: len(records(project_home, "rows")) == 3,
    }
    finished: dict[str, float] = {}
    assert ractd("sweep", "run", str(spec), "--detach").returncode == 0
    for moment, reached in moments.items():
        wait_for(reached, backend)
        os.kill(driver_pid(project_home), signal.SIGKILL)
        while backend.status("tiny").state is JobState.RUNNING:
            time.sleep(0.05)
        assert "signal 9" in backend.status("tiny").detail, moment
        now = {
            str(path): path.stat().st_mtime_ns
            for pattern in ("sweeps/tiny/*/*/record.json", "stages/*-*/manifest.json")
            for path in storage.glob(pattern)
        }
        assert finished.items() <= now.items(), f"finished work was done again ({moment})"
        finished |= now
        if moment == "data":
            assert not any(datasets.glob("local/*/data/metadata.json"))
        assert ractd("sweep", "resume", "tiny", "--detach").returncode == 0

    list(backend.logs("tiny", follow=True))
    assert backend.status("tiny").state is JobState.SUCCEEDED
    done = records(project_home)
    assert len(done) == 4
    assert all(record["status"] == "completed" for record in done.values())
    assert sorted({record["key"] for record in done.values()}) == sorted(done)
    for path, time_written in finished.items():
        assert Path(path).stat().st_mtime_ns == time_written
    # Trials with both parameters: a kill can also fall between the two that make a suggestion,
    # which is then given up.
    assert study_states(project_home, whole=2) == {"COMPLETE": 4}
    assert set(study_states(project_home)) <= {"COMPLETE", "FAIL"}
    methods = sorted(record["method"] for record in records(project_home, "rows").values())
    assert methods == ["ractd", "regression", "teacher"]
    for key, record in done.items():
        curve = [
            json.loads(line) for line in (sweep / "trials" / key / "curve.jsonl").open().readlines()
        ]
        assert [row["step"] for row in curve] == [10, 20, 30]
        assert record["steps"] == 30
    built = [path.name.partition("-")[0] for path in (storage / "stages").glob("*-*")]
    assert sorted(built) == ["regression", "reward", "teacher", "teacher"]
    assert (sweep / "report" / "index.html").exists()


def test_a_diverging_trial_fails_with_its_reason_and_the_sweep_goes_on(
    project_home: Path, tiny: Callable[..., Path]
) -> None:
    spec = tiny(
        trials=2,
        search={"student.optim.lr": {"choices": [1e30, 1e-3]}, "horizon": {"choices": [16]}},
        first_trials=[{"student.optim.lr": 1e30, "horizon": 16}],
        rows=[],
    )
    run = ractd("sweep", "run", str(spec))
    assert run.returncode == 0, run.stdout + run.stderr
    by_status = {record["status"]: record for record in records(project_home).values()}
    assert set(by_status) == {"completed", "failed"}
    assert by_status["failed"]["reason"].startswith("diverged: ")
    assert "not finite at step" in by_status["failed"]["reason"]
    assert study_states(project_home)["FAIL"] >= 1
    assert by_status["failed"]["reason"] in run.stdout
    assert "Traceback" not in run.stdout

    # What the data's own behaviour scores is recorded, and how it was counted.
    name = parse_dataset_name(DATASET)
    about = json.loads(
        (project_home / "storage/sweeps/tiny/data" / f"{name.task.name}.json").read_text()
    )
    data = load(name)
    assert about["counted"] == "stretches of 300 steps"
    scores = name.task.normalized_score(data.stretch_returns(300))
    assert len(scores) > 1
    assert about["behaviour_scores"] == pytest.approx(scores.tolist(), abs=1e-4)
    assert (about["dataset"], about["fingerprint"]) == (DATASET, data.fingerprint)
    assert (about["transitions"], about["episodes"]) == (data.transitions, data.episodes)

    # A damaged stage is built again, with a message, and finished trials are left alone.
    [teacher] = (project_home / "storage" / "stages").glob("teacher-*")
    model = teacher / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-50])
    before = records(project_home)
    second = tiny(
        name="second",
        trials=1,
        search={"horizon": {"choices": [16]}},
        rows=[],
    )
    again = ractd("sweep", "run", str(second))
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{teacher.name} is damaged" in again.stdout
    assert records(project_home) == before
    assert "reward: 1 of 1 in the store" in again.stdout


def test_ctrl_c_stops_cleanly_and_resume_goes_on(
    project_home: Path, tiny: Callable[..., Path]
) -> None:
    spec = tiny(trials=2, rows=[], pruner={"kind": "none"})
    backend = LocalBackend(project_home / "storage" / "sweeps")
    follower = subprocess.Popen(
        [sys.executable, "-m", "sweeps", "sweep", "run", str(spec)],
        stdout=subprocess.PIPE,
        text=True,
    )
    while backend.status("tiny").state is not JobState.RUNNING:
        time.sleep(0.05)
    curves = project_home / "storage" / "sweeps" / "tiny" / "trials"
    wait_for(lambda: any(curves.glob("*/curve.jsonl")), backend)
    follower.send_signal(signal.SIGINT)
    out, _ = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "ractd sweep resume tiny" in out
    assert "Traceback" not in out
    assert backend.status("tiny").state is JobState.STOPPED
    status = ractd("sweep", "status", "tiny")
    assert "stopped" in status.stdout
    assert ractd("sweep", "resume", "tiny").returncode == 0
    assert len(records(project_home)) == 2
