"""What a real Ray is told before it loses something: drivers, trials and nodes that are to go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from ractd_core.checkpoint import load_checkpoint
from ractd_core.data.generate import LocalRecipe, make_local
from ractd_core.tasks import parse_dataset_name
from sweeps.ending import INTERRUPT
from sweeps.jsonl import read_rows
from sweeps.layout import CURVE, SweepFolder
from sweeps.spec import load_spec
from sweeps.stage_store import CHECKPOINT
from tests.sweeps.conftest import TINY
from tests.sweeps.processes import descendants

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.failures,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc"),
]

STEPS, EVERY = 600, 200
Drive = Callable[[SweepFolder], subprocess.Popen[str]]


@pytest.fixture
def folder(project_home: Path, tiny: Callable[..., Path]) -> Callable[..., SweepFolder]:
    """A frozen sweep of one long trial, scored three times, its data there."""

    def make(**changes: Any) -> SweepFolder:
        optim = {"steps": STEPS, "batch_size": 16}
        recipe = {**TINY["recipe"], "student": {"optim": optim, "reward_states": 4}}
        spec = load_spec(
            str(
                tiny(
                    trials=1,
                    search={"horizon": {"choices": [16]}},
                    rows=[],
                    pruner={"kind": "none"},
                    recipe=recipe,
                    evaluation={**TINY["evaluation"], "every": EVERY},
                    **changes,
                )
            )
        )
        make_local(parse_dataset_name(spec.tasks[0]), LocalRecipe(transitions=3000))
        found = SweepFolder(project_home / "storage", spec.name)
        found.freeze(spec)
        return found

    return make


@pytest.fixture
def drive() -> Iterator[Drive]:
    """Starts a sweep's driver; none is left behind."""
    drivers: list[subprocess.Popen[str]] = []

    def start(folder: SweepFolder) -> subprocess.Popen[str]:
        command = [sys.executable, "-u", "-m", "sweeps.drive", str(folder.storage), folder.name]
        drivers.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            )
        )
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.poll() is None:
            driver.kill()
            driver.wait()


def drain(address: str, node: str) -> None:
    """As an autoscaler does when a spot instance is to be taken away in five minutes."""
    command = ["ray", "drain-node", "--address", address, "--node-id", node]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    command += ["--deadline-remaining-seconds", "300"]
    path = Path(sys.executable).parent
    subprocess.run([str(path / command[0]), *command[1:]], check=True)


def wait_until(moment: Callable[[], Any], driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 450
    while not moment():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.02)


def scored(folder: SweepFolder) -> bool:
    """Whether the trial is past its first score."""
    return any(folder.trials.root.glob(f"*/{CURVE}"))


def checkpoint(folder: SweepFolder) -> dict[str, Any]:
    [path] = folder.trials.root.glob(f"*/*/{CHECKPOINT}")
    return load_checkpoint(path)[1]


def whole(folder: SweepFolder) -> list[dict[str, Any]]:
    """The one record and its curve: nothing failed, nothing done twice."""
    [record] = folder.trials
    assert record["status"] == "completed", record["reason"]
    rows = read_rows(folder.trials.folder(record["key"]) / CURVE)
    assert [row["step"] for row in rows] == [200, 400, 600]
    return rows


def test_a_driver_that_is_terminated_lets_its_trial_save_itself(
    folder: Callable[..., SweepFolder], drive: Drive
) -> None:
    sweep = folder()
    first = drive(sweep)
    wait_until(lambda: scored(sweep), first)
    first.send_signal(signal.SIGTERM)
    told = time.monotonic()
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 130, out
    assert time.monotonic() - told < 20 + 15
    assert "interrupted; `ractd sweep resume tiny` goes on from here" in out
    assert "Traceback" not in out
    assert (sweep.path / INTERRUPT).exists()
    assert list(sweep.trials) == [], "an interrupted trial is no failed one"
    # Between two scores, which is where nothing was saved before.
    assert checkpoint(sweep)["count"] > 0
    second = drive(sweep)
    out, _ = second.communicate(timeout=300)
    assert second.returncode == 0, out
    rows = whole(sweep)
    assert not (sweep.path / INTERRUPT).exists()
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.parametrize("student", [{"workers": 1}, {"workers": [1, 2]}])
def test_a_trial_leaves_a_node_that_is_drained(
    folder: Callable[..., SweepFolder],
    drive: Drive,
    student: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head has no room for anything that trains."""
    sweep = folder(resources={"student": student})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        leaving = cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        driver = drive(sweep)
        wait_until(lambda: scored(sweep), driver)
        cluster.add_node(num_cpus=2)
        cluster.wait_for_nodes()
        drain(cluster.address, leaving.node_id)
        out, _ = driver.communicate(timeout=400)
        assert driver.returncode == 0, out
    finally:
        cluster.shutdown()
    assert "is to go; it goes on elsewhere" in out
    whole(sweep)
    events = [json.loads(line) for line in (sweep.path / "events.jsonl").open()]
    assert [e["state"] for e in events if e["kind"] == "trial"] == ["completed"]


def test_a_trial_whose_process_is_terminated_saves_itself_first(
    folder: Callable[..., SweepFolder], drive: Drive
) -> None:
    sweep = folder()
    driver = drive(sweep)
    wait_until(lambda: scored(sweep), driver)
    # What Ray calls it between two reports, and while it trains.
    [trial] = descendants("ray::Trial", "ray::ResourceTrainable")
    os.kill(trial, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{trial}").exists(), driver)
    saved = checkpoint(sweep)
    assert saved["count"] > 0, "a checkpoint between two scores"
    out, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, out
    whole(sweep)
