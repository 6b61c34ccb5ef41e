"""A sweep on a real SLURM of two nodes: to its end, stopped and resumed, over its time limit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster import Job, JobError, JobState
from cluster.slurm import Nodes, SlurmBackend, SlurmPlace
from sweeps.cli_cluster import job_of
from sweeps.ledger import RECORD
from sweeps.spec import load_spec
from tests.cluster.jobs import shell, wait, wait_for_line
from tests.cluster.slurm_machine import SlurmMachine, missing
from tests.sweeps.conftest import TINY

PROJECT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.failures,
    pytest.mark.timeout(900),
    pytest.mark.skipif(missing() is not None, reason=f"a real SLURM {missing()}"),
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmMachine]:
    found = SlurmMachine(tmp_path_factory.mktemp("slurm") / "machine", nodes=2)
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def backend(machine: SlurmMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmBackend:
    for key, value in machine.environment.items():
        monkeypatch.setenv(key, value)
    return SlurmBackend(on(tmp_path, 1))


def on(folder: Path, nodes: int) -> SlurmPlace:
    return SlurmPlace(
        root=str(folder / "jobs"),
        python=str(PROJECT / ".venv" / "bin" / "python"),
        nodes=Nodes(count=nodes, cpus=2),
        hours=1,
        environment={"PYTHONPATH": str(PROJECT), "RACTD_HOME": str(folder / "home")},
    )


def number(backend: SlurmBackend, name: str) -> str:
    return str(json.loads((backend.folder(name) / "run.json").read_text())["number"])


def ended(backend: SlurmBackend, name: str) -> JobState:
    """How a job ends; what it and Ray wrote is shown if the test fails."""
    state = wait(backend, name, 500)
    for file in ("log.txt", "ray.log"):
        print((backend.folder(name) / file).read_text())
    return state


def accounted(machine: SlurmMachine, job: str) -> str:
    shown = machine.run("scontrol", "show", "job", job, "--oneliner").stdout
    return next(word for word in shown.split() if word.startswith("JobState="))[9:]


def test_a_sweep_on_two_nodes_is_stopped_resumed_and_completed(
    machine: SlurmMachine, backend: SlurmBackend, tmp_path: Path
) -> None:
    backend = SlurmBackend(on(tmp_path, 2))
    spec, storage = tmp_path / "tiny.yaml", tmp_path / "storage"
    spec.write_text(yaml.safe_dump(TINY))
    job = job_of(load_spec(str(spec)), str(storage))
    backend.submit(job)
    with pytest.raises(JobError, match=r"tiny is already running \(SLURM job \d+ "):
        backend.submit(job)
    deadline = time.monotonic() + 300
    while not any("trials at once" in line for line in backend.logs("tiny")):
        assert backend.status("tiny").state is JobState.RUNNING, list(backend.logs("tiny"))
        assert time.monotonic() < deadline, list(backend.logs("tiny"))
        time.sleep(1)
    assert "preflight passed: 2 nodes, 4 CPUs" in next(iter(backend.logs("tiny")))
    assert backend.stop("tiny", grace=100).state is JobState.STOPPED
    built = {path: path.stat().st_mtime_ns for path in storage.glob("stages/*/manifest.json")}
    assert len(built) >= 2
    backend.resume("tiny")
    assert ended(backend, "tiny") is JobState.SUCCEEDED
    assert accounted(machine, number(backend, "tiny")) == "COMPLETED"
    assert len(list(storage.glob(f"sweeps/tiny/trials/*/{RECORD}"))) == TINY["trials"]
    assert {path: path.stat().st_mtime_ns for path in built} == built, "no stage is built twice"


def told_to_end(name: str, mark: Path) -> Job:
    """A job that saves when it is told to end, and the second time runs to its end."""
    return shell(
        name,
        f"trap 'echo saved; exit 130' TERM; [ -e {mark} ] && {{ echo again; exit 0; }}; "
        f"touch {mark}; echo begun; sleep 500 & wait",
    )


def test_a_job_over_its_time_limit_saves_and_goes_on_in_another_run(
    machine: SlurmMachine, backend: SlurmBackend, tmp_path: Path
) -> None:
    backend.submit(told_to_end("long", tmp_path / "mark"))
    wait_for_line(backend, "long", "begun", 120)
    # Its notice is given two minutes before the limit; the other run has the same two to end.
    machine.run("scontrol", "update", f"JobId={number(backend, 'long')}", "TimeLimit=4")
    assert ended(backend, "long") is JobState.SUCCEEDED
    assert [line for line in backend.logs("long") if "error" not in line] == [
        "begun",
        "saved",
        "again",
    ]
    assert accounted(machine, number(backend, "long")) == "COMPLETED"


def test_a_job_that_slurm_takes_its_nodes_from_goes_on_in_another_run(
    machine: SlurmMachine, backend: SlurmBackend, tmp_path: Path
) -> None:
    backend.submit(told_to_end("taken", tmp_path / "mark"))
    wait_for_line(backend, "taken", "begun", 120)
    machine.run("scontrol", "requeue", number(backend, "taken"))
    assert ended(backend, "taken") is JobState.SUCCEEDED
    assert list(backend.logs("taken"))[-1] == "again"


def test_a_job_that_is_cancelled_by_hand_is_stopped_and_can_be_resumed(
    machine: SlurmMachine, backend: SlurmBackend, tmp_path: Path
) -> None:
    backend.submit(told_to_end("cancelled", tmp_path / "mark"))
    wait_for_line(backend, "cancelled", "begun", 120)
    machine.run("scancel", number(backend, "cancelled"))
    assert ended(backend, "cancelled") is JobState.STOPPED
    assert accounted(machine, number(backend, "cancelled")) == "CANCELLED"
    backend.resume("cancelled")
    assert ended(backend, "cancelled") is JobState.SUCCEEDED


def test_a_job_that_waits_for_room_says_so_and_can_be_stopped(
    machine: SlurmMachine, backend: SlurmBackend, tmp_path: Path
) -> None:
    # SLURM queues, unless it is set up to refuse, what its partition never can give.
    crowded = SlurmBackend(on(tmp_path, 3))
    crowded.submit(shell("more", "true"))
    time.sleep(2)
    assert "PENDING (PartitionConfig)" in crowded.status("more").detail
    assert crowded.stop("more").state is JobState.STOPPED
    machine.run("scontrol", "update", "NodeName=sn1,sn2", "State=DRAIN", "Reason=test")
    try:
        backend.submit(shell("waiting", "true"))
        time.sleep(2)
        status = backend.status("waiting")
        assert status.state is JobState.RUNNING
        assert "PENDING (" in status.detail
        assert backend.stop("waiting").state is JobState.STOPPED
    finally:
        machine.run("scontrol", "update", "NodeName=sn1,sn2", "State=RESUME")
