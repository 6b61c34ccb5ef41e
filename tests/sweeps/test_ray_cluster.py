"""Sweeps and other jobs on a Ray cluster that a test starts on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import Job, JobError, JobState
from cluster.ray_jobs import RayBackend
from sweeps import cli_cluster
from sweeps.layout import CURVE, SweepFolder
from sweeps.ledger import RECORD
from sweeps.versions import versions
from tests.cluster.jobs import shell, wait, wait_for_line
from tests.cluster.ray_cluster import RayCluster
from tests.sweeps.command import ractd

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/stat").exists(), reason="finds the cluster's processes in /proc"
    ),
]

_NETWORK = {"widths": [8, 8], "patch": 4, "groups": 4, "embed_dim": 8}
_SHORT = {"steps": 10, "batch_size": 16}
_ONE_TRIAL: dict[str, Any] = {
    "trials": 1,
    "search": {"horizon": {"choices": [16]}},
    "rows": [],
    "recipe": {
        "teacher": {"optim": _SHORT, "network": _NETWORK},
        "reward": {"optim": _SHORT, "widths": [8]},
        "student": {"optim": _SHORT, "reward_states": 4},
    },
}
_LONG = {**_ONE_TRIAL["recipe"], "student": {"optim": {"steps": 200, "batch_size": 16}}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    started = RayCluster("127.0.0.1", cpus=2)
    try:
        started.wait(1)
        yield started
    finally:
        started.end()


@pytest.fixture
def user(cluster: RayCluster, project_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of the cluster, with its token; returns a storage that it sees."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    # Of another cluster; the address that is given is the one that counts.
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    return project_home / "storage"


@pytest.fixture
def backend(cluster: RayCluster, user: Path, tmp_path: Path) -> Iterator[RayBackend]:
    made = RayBackend(cluster.address, tmp_path / "submitted")
    yield made
    for path in made.root.glob("*.json"):
        made.stop(path.stem)


@pytest.fixture
def submit(
    cluster: RayCluster, user: Path, tiny: Callable[..., Path]
) -> Iterator[Callable[..., str]]:
    """Submits the tiny sweep with changes; what runs at the end is stopped."""

    def run(code: int = 0, **changes: Any) -> str:
        spec = tiny(**{**_ONE_TRIAL, **changes})
        where = ("--address", cluster.address, "--storage", str(user))
        return ractd("cluster", "submit", str(spec), "--backend", "ray", *where, code=code)

    yield run
    if (user.parent / "jobs" / "tiny.json").exists():
        ractd("cluster", "stop", "tiny")


def until(moment: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < deadline, ractd("cluster", "logs", "tiny")
        time.sleep(0.1)


def state() -> str:
    return ractd("cluster", "status", "tiny").partition("\n")[0]


# What never gets to the cluster


@pytest.mark.parametrize(
    ("environment", "address", "told"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, None, r"refuses the token from RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": ""}, None, r"wants a token, and RAY_AUTH_TOKEN has none"),
        ({}, "closed", r"no Ray dashboard answers at http://127.0.0.1:\d+ \(ConnectionError\)"),
    ],
    ids=["wrong token", "no token", "nobody there"],
)
def test_a_cluster_that_cannot_be_asked_is_an_error_at_once(
    environment: dict[str, str],
    address: str | None,
    told: str,
    cluster: RayCluster,
    user: Path,
    tiny: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if address:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"http://127.0.0.1:{server.getsockname()[1]}"
    begun = time.monotonic()
    spec, where = str(tiny()), address or cluster.address
    out = ractd("cluster", "submit", spec, "--address", where, "--storage", str(user), code=2)
    assert time.monotonic() - begun < 15
    assert re.search(told, out)
    assert cluster.token not in out
    assert not user.exists()
    ractd("cluster", "status", "tiny", code=2)


def test_a_cluster_that_can_never_run_the_sweep_says_all_reasons_before_anything_runs(
    submit: Callable[..., str], user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = time.monotonic()
    out = submit(code=2, resources={"teacher": {"gpus": 1}, "student": {"workers": 2, "cpus": 1.5}})
    assert time.monotonic() - begun < 30
    assert "this cluster cannot run the sweep: 2 reasons" in out
    assert "resources.teacher: 1 workers with 1 CPUs and 1 GPUs each do not fit" in out
    assert "resources.student: 2 workers with 1.5 CPUs" in out
    assert not (user / "sweeps").exists()
    assert not list(user.glob(".seen-*"))

    monkeypatch.setattr(cli_cluster, "versions", lambda: {**versions(), "torch": "1.0.0"})
    out = submit(code=2)
    assert f"has torch {versions()['torch']} instead of 1.0.0" in out
    assert "pip install -c constraints.txt ." in out


# A sweep


def test_a_sweep_waits_for_a_full_cluster_and_runs_to_its_report(
    cluster: RayCluster, user: Path, submit: Callable[..., str], tmp_path: Path
) -> None:
    other = RayBackend(cluster.address, tmp_path / "others", driver_cpus=2)
    other.submit(shell("others", "echo begun; exec sleep 300"))
    wait_for_line(other, "others", "begun", 60)
    out = submit()
    assert "the cluster is full (0 CPUs and 0 GPUs free of 2 CPUs and 0 GPUs)" in out
    assert "waits until a teacher fits" in out
    assert "preflight passed: 1 node, 2 CPUs" in out
    assert out.endswith("tiny\n")
    assert state().startswith("tiny: running, as tiny-")
    assert "is already running" in submit(code=2)
    other.stop("others")
    out = ractd("cluster", "logs", "tiny", "--follow")
    assert state() == "tiny: succeeded, exit code 0", out
    assert "report: " in out
    assert "Running entrypoint" not in out
    [record] = SweepFolder(user, "tiny").trials
    assert record["status"] == "completed"
    # Where all nodes see them, though the submitting machine has a folder of its own.
    assert list((user / "datasets" / "local").iterdir())
    assert not Path(os.environ["MINARI_DATASETS_PATH"]).exists()
    kept = "".join(path.read_text() for path in user.parent.rglob("*.json"))
    assert cluster.token not in kept + out


@pytest.mark.failures
def test_a_sweep_that_is_stopped_or_killed_or_whose_cluster_restarts_goes_on_when_resumed(
    user: Path, project_home: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = RayCluster("127.0.0.1", cpus=2)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    folder = SweepFolder(user, "tiny")
    curve = f"trials/*/{CURVE}"

    def rows() -> int:
        return sum(len(path.read_text().splitlines()) for path in folder.path.glob(curve))

    try:
        cluster.wait(1)
        spec = str(tiny(**{**_ONE_TRIAL, "recipe": _LONG}))
        where = ("--address", cluster.address, "--storage", str(user))
        ractd("cluster", "submit", spec, *where)
        until(rows)
        assert ractd("cluster", "stop", "tiny") == "tiny: stopped, stopped on request\n"

        ractd("cluster", "resume", "tiny")
        before = rows()
        until(lambda: rows() > before)
        [driver] = cluster.nodes[0].pids("-m sweeps.launch")
        os.kill(driver, signal.SIGKILL)
        until(lambda: "running" not in state())
        assert state() == "tiny: failed, killed by signal 9"

        ractd("cluster", "resume", "tiny")
        before = rows()
        until(lambda: rows() > before)
        cluster.nodes[0].kill("JobSupervisor")
        until(lambda: "running" not in state())
        assert state().startswith("tiny: lost, Job supervisor actor died")
        assert state().endswith("`ractd cluster resume` goes on")

        ractd("cluster", "resume", "tiny")
        before = rows()
        until(lambda: rows() > before)
        cluster.end()
        assert "no Ray dashboard answers" in ractd("cluster", "status", "tiny", code=2)
        cluster.begin()
        cluster.wait(1)
        assert "does not know it any more" in state()
        ractd("cluster", "resume", "tiny")
        ractd("cluster", "logs", "tiny", "--follow")
        assert state() == "tiny: succeeded, exit code 0"
    finally:
        cluster.end()
    [record] = folder.trials
    assert record["steps"] == 200
    lines = (folder.trials.folder(record["key"]) / CURVE).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(10, 201, 10))
    assert len(list(folder.path.glob(f"trials/*/{RECORD}"))) == 1


# Jobs of any kind


@pytest.mark.failures
def test_jobs_keep_their_output_exit_codes_and_arguments(backend: RayBackend) -> None:
    arguments = ("", "a b", "'", '"', "$HOME", "*", "a\nb", "ä", "--", "\\")
    script = "import sys; print(ascii(sys.argv[1:])); print(open('note').read())"
    backend.submit(
        Job("args", ("python", "-c", script, *arguments), files={"note": "as it was written"})
    )
    backend.submit(shell("fails", "echo out; echo err >&2; exit 77"))
    backend.submit(shell("killed", "kill -9 $$"))
    backend.submit(Job("missing", ("no-such-command-anywhere", "--flag")))
    assert wait(backend, "args", 60) is JobState.SUCCEEDED
    assert list(backend.logs("args")) == [ascii(list(arguments)), "as it was written"]
    assert wait(backend, "fails", 60) is JobState.FAILED
    assert backend.status("fails").exit_code == 77
    assert list(backend.logs("fails")) == list(backend.logs("fails", follow=True)) == ["out", "err"]
    assert wait(backend, "killed", 60) is JobState.FAILED
    assert backend.status("killed").detail == "killed by signal 9"
    assert wait(backend, "missing", 60) is JobState.FAILED
    assert backend.status("missing").exit_code == 127


@pytest.mark.failures
def test_of_submissions_at_the_same_moment_one_runs_and_is_stopped_and_resumed(
    backend: RayBackend, tmp_path: Path
) -> None:
    count, witness = 3, tmp_path / "witness"
    gate = threading.Barrier(count)
    refused: list[str] = []
    # The second time it ends by itself, with the environment of the first.
    script = 'echo "$MOOD" >> "$W"; [ $(wc -l < "$W") -gt 1 ] && exit 5; echo on; exec sleep 300'
    job = shell("one", script, W=str(witness), MOOD='it\'s "fine" $HOME')

    def submit() -> None:
        gate.wait(20)
        try:
            backend.submit(job)
        except JobError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=submit) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == count - 1
    assert all("one is already running" in text for text in refused)
    assert next(backend.logs("one", follow=True)) == "on"
    with pytest.raises(JobError, match="one is already running"):
        backend.resume("one")
    assert backend.stop("one").state is JobState.STOPPED
    backend.resume("one")
    assert wait(backend, "one", 60) is JobState.FAILED
    assert backend.status("one").exit_code == 5
    assert witness.read_text() == 'it\'s "fine" $HOME\n' * 2


def test_an_unknown_job(backend: RayBackend) -> None:
    assert backend.status("none").state is JobState.UNKNOWN
    assert backend.stop("none").state is JobState.UNKNOWN
    for call in (lambda: backend.logs("none"), lambda: backend.resume("none")):
        with pytest.raises(JobError, match="no job none"):
            call()
    assert not backend.root.exists()
