"""A sweep on two hosts with a network between them, which is cut in mid-sweep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps.jsonl import read_rows
from sweeps.layout import CURVE, SweepFolder
from sweeps.ledger import RECORD
from tests.cluster.network import Network, refused
from tests.cluster.ray_cluster import RayCluster, RayNode

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.failures,
    pytest.mark.skipif(bool(refused()), reason=refused() or "-"),
]

_ROOT = Path(__file__).parents[2]
_NETWORK = {"widths": [8, 8], "patch": 4, "groups": 4, "embed_dim": 8}
_RECIPE = {
    "teacher": {"optim": {"steps": 10, "batch_size": 16}, "network": _NETWORK},
    "reward": {"optim": {"steps": 10, "batch_size": 16}, "widths": [8]},
    "student": {"optim": {"steps": 100, "batch_size": 16}, "reward_states": 4},
}


@dataclass
class Hosts:
    """A head and a worker of one CPU each, and the desk of their user."""

    network: Network
    cluster: RayCluster
    worker: RayNode
    home: Path
    storage: Path

    def ractd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command, typed at the desk."""
        return subprocess.run(
            [*self.network.inside("desk"), sys.executable, "-m", "sweeps", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
                **self.cluster.environment,
                "RACTD_HOME": str(self.home),
                "PYTHONPATH": str(_ROOT),
            },
        )

    def submit(self, spec: Path) -> subprocess.CompletedProcess[str]:
        where = ("--address", self.cluster.address, "--storage", str(self.storage))
        return self.ractd("cluster", "submit", str(spec), "--backend", "ray", *where)

    @property
    def sweep(self) -> SweepFolder:
        return SweepFolder(self.storage, "tiny")

    def state(self) -> str:
        return self.ractd("cluster", "status", "tiny").stdout.partition("\n")[0]

    def logs(self) -> str:
        return self.ractd("cluster", "logs", "tiny").stdout


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    network = Network("head", "worker", "desk", "other", "fixed")
    cluster: RayCluster | None = None
    try:
        cluster = RayCluster(network.address("head"), cpus=1, inside=network.inside("head"))
        cluster.wait(1, network.inside("desk"))
        worker = cluster.join(network.address("worker"), cpus=1, inside=network.inside("worker"))
        cluster.wait(2, network.inside("desk"))
        yield Hosts(network, cluster, worker, tmp_path / "home", tmp_path / "storage")
    finally:
        if cluster is not None:
            cluster.end()
        network.end()


def wait_until(hosts: Hosts, moment: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < deadline, hosts.logs()
        time.sleep(0.1)


def ended(hosts: Hosts) -> bool:
    """Whether the driver has said so; asking the command takes the sweep's CPU time."""
    events = read_rows(hosts.sweep.path / "events.jsonl")
    return any(row["kind"] == "sweep" and row["state"] != "started" for row in events)


def pull_the_cable(hosts: Hosts) -> None:
    hosts.network.cut("worker")


def kill_the_raylet(hosts: Hosts) -> None:
    hosts.worker.kill("/raylet/raylet")


def leave_alone(hosts: Hosts) -> None:
    """As a comparison."""


@pytest.mark.parametrize("accident", [leave_alone, pull_the_cable, kill_the_raylet])
def test_a_sweep_submitted_from_a_desk_ends_whatever_happens_to_its_worker(
    hosts: Hosts, tiny: Callable[..., Path], accident: Callable[[Hosts], None]
) -> None:
    spec = tiny(recipe=_RECIPE, rows=[], pruner={"kind": "none"})
    began = time.monotonic()
    submitted = hosts.submit(spec)
    assert submitted.returncode == 0, submitted.stderr
    print(f"submitted and through its preflight in {time.monotonic() - began:.0f} s")
    assert submitted.stdout == "tiny\n"
    assert "preflight passed: 2 nodes, 2 CPUs" in submitted.stderr
    assert hosts.cluster.token not in submitted.stderr
    assert hosts.state() == "tiny: running, as tiny-1"

    trials = hosts.sweep.trials.root
    wait_until(hosts, lambda: len(list(trials.glob(f"*/{CURVE}"))) >= 2, 240)
    assert "4 trials to run" in hosts.logs()
    records = {path: path.stat() for path in trials.glob(f"*/{RECORD}")}
    accident(hosts)
    cut = time.monotonic()
    wait_until(hosts, lambda: ended(hosts), 400)
    wait_until(hosts, lambda: "running" not in hosts.state(), 60)
    print(f"{accident.__name__}: ended {time.monotonic() - cut:.0f} s later")
    assert hosts.state() == "tiny: succeeded, exit code 0", hosts.logs()

    done = list(hosts.sweep.trials)
    assert [record["status"] for record in done] == ["completed"] * 4
    assert len({record["key"] for record in done}) == 4
    for record in done:
        rows = read_rows(hosts.sweep.trials.folder(record["key"]) / CURVE)
        assert [row["step"] for row in rows] == list(range(10, 101, 10))
    for path, about in records.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (about.st_ino, about.st_mtime_ns)
    study = optuna.load_study(
        study_name=None,
        storage=JournalStorage(
            JournalFileBackend(str(hosts.sweep.path / "studies" / "maze2d-umaze-v1.journal"))
        ),
    )
    told = [trial.value for trial in study.get_trials() if trial.state.name == "COMPLETE"]
    assert sorted(told) == sorted(record["selection"]["score"] for record in done)
    about = json.loads((hosts.home / "jobs" / "tiny.json").read_text())
    assert hosts.cluster.token not in json.dumps(about)


def test_a_worker_with_another_storage_or_one_it_cannot_write_is_named(
    hosts: Hosts, tiny: Callable[..., Path]
) -> None:
    hosts.storage.mkdir()
    views = {
        "other": 'mount -t tmpfs tmpfs "$0"',
        "fixed": 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"',
    }
    network = hosts.network
    for number, (name, mount) in enumerate(views.items()):
        inside = [*network.inside(name), "unshare", "--mount", "sh", "-c"]
        prefix = [*inside, f'{mount} && exec "$@"', str(hosts.storage)]
        hosts.cluster.join(network.address(name), cpus=1, inside=prefix)
        hosts.cluster.wait(3 + number, network.inside("desk"))
    refused = hosts.submit(tiny())
    assert refused.returncode == 2
    assert "this cluster cannot run the sweep: 2 reasons" in refused.stderr
    assert f"on every node of the cluster: {network.address('other')} does" in refused.stderr
    assert f"cannot be written on {network.address('fixed')}" in refused.stderr
    assert list(hosts.storage.iterdir()) == []
