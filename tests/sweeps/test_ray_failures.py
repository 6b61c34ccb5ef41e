"""What a real Ray loses on the way: workers, builders, nodes, trials that are stopped early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from optuna.pruners import ThresholdPruner
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from ractd_core.data.generate import LocalRecipe, make_local
from ractd_core.data.store import load
from ractd_core.files import write_text
from ractd_core.tasks import parse_dataset_name
from sweeps import shared_storage, studies
from sweeps.budget import Budget
from sweeps.build import METRICS, ensure_stage, train_stage
from sweeps.driver import Driver
from sweeps.embedded_ray import embedded_ray
from sweeps.jsonl import Row, read_rows
from sweeps.layout import CURVE, StorageError, SweepFolder, TaskContext
from sweeps.ledger import RECORD
from sweeps.nodes import look
from sweeps.progress import Progress
from sweeps.shared_storage import check_shared
from sweeps.spec import load_spec
from sweeps.spec_parts import Resources, StageResources
from sweeps.stage_builds import StageBuilds
from sweeps.stage_store import StageStore
from sweeps.workers import Payload, Report
from tests.sweeps.processes import descendants

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.failures,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc"),
]

UMAZE = parse_dataset_name("local/maze2d-umaze-v1")


@pytest.fixture(scope="module", autouse=True)
def _nothing_left() -> Iterator[None]:
    """Ray starts by itself for whoever asks it for anything, a thread that looks once more too."""
    yield
    ray.shutdown()


@pytest.fixture
def two_cpus() -> Iterator[dict[str, float]]:
    with embedded_ray(Resources()) as available:
        yield available


@pytest.fixture
def context(project_home: Path, tiny: Callable[..., Path]) -> Callable[..., TaskContext]:
    """Opens the tiny sweep with changes, its data there."""

    def make(**changes: Any) -> TaskContext:
        spec = load_spec(str(tiny(**changes)))
        make_local(UMAZE, LocalRecipe(transitions=3000))
        folder = SweepFolder(project_home / "storage", spec.name)
        folder.freeze(spec)
        return TaskContext(folder, spec, UMAZE, load(UMAZE).fingerprint)

    return make


def wait_until(moment: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.02)


def test_a_train_worker_that_is_killed_is_replaced_and_training_goes_on_from_its_checkpoint(
    context: Callable[..., TaskContext],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    two_cpus: dict[str, float],
) -> None:
    # A function of this module could not be found by a worker; one of this test goes as it is.
    def die_once(payload: Payload, report: Report) -> None:
        """Train, but the first time the last worker is killed at step 12."""
        rank, died = torch.distributed.get_rank(), Path(payload["folder"]) / "died"

        def reported(row: Row) -> None:
            if row["step"] == 12 and rank == 1 and not died.exists():
                write_text(died, "")
                os.kill(os.getpid(), signal.SIGKILL)
            report(row)

        train_stage(payload, reported)

    task = context()
    request = task.request("teacher", task.trial({"window.horizon": 16}).recipe)
    alone = StageStore(tmp_path / "alone")
    ensure_stage(alone, request, StageResources(), tmp_path / "scratch")
    monkeypatch.setattr("sweeps.build.train_stage", die_once)
    ensure_stage(task.folder.store, request, StageResources(workers=2), tmp_path / "scratch")
    folder = task.folder.store.root / request.name
    assert (folder / "died").exists()
    rows, expected = read_rows(folder / METRICS), read_rows(alone.root / request.name / METRICS)
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    losses = [[row["loss"] for row in each] for each in (rows, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4), "as one worker trains undisturbed"


def test_a_stage_whose_builder_is_killed_is_finished_from_its_checkpoint(
    context: Callable[..., TaskContext], tmp_path: Path, two_cpus: dict[str, float]
) -> None:
    task = context(recipe={"teacher": {"optim": {"steps": 400, "batch_size": 16}}})
    request = task.request("teacher", task.trial({"window.horizon": 16}).recipe)
    store, before = task.folder.store, []

    def kill() -> None:
        metrics = store.building(request.name) / METRICS
        wait_until(lambda: len(read_rows(metrics)) >= 2)
        [builder] = descendants("ray::_ensure")
        os.kill(builder, signal.SIGKILL)
        before.extend(read_rows(metrics))

    killer = threading.Thread(target=kill)
    killer.start()
    progress = Progress(task.folder.path / "events.jsonl")
    StageBuilds(task.folder, two_cpus, Budget(task.folder), progress).build("teacher", [request])
    killer.join()
    rows = read_rows(store.root / request.name / METRICS)
    assert [row["step"] for row in rows] == list(range(40, 401, 40))
    assert 2 <= len(before) < len(rows)
    # All but the last row, after which the checkpoint may not have been written, are kept.
    assert rows[: len(before) - 1] == before[:-1]
    undisturbed = ensure_stage(
        StageStore(tmp_path / "whole"), request, StageResources(), tmp_path / "scratch"
    )
    manifest = store.find(request.name)
    assert manifest is not None
    assert manifest["model_sha256"] == undisturbed["model_sha256"]


def test_a_trial_that_is_stopped_early_leaves_no_worker_and_no_placement_group(
    context: Callable[..., TaskContext],
    monkeypatch: pytest.MonkeyPatch,
    two_cpus: dict[str, float],
) -> None:
    """Of trials on Ray Train workers, which outlive a trial that is killed."""
    monkeypatch.setattr(studies, "make_pruner", lambda spec, steps: ThresholdPruner(lower=1e6))
    task = context(
        trials=2, search={"horizon": {"choices": [16, 32]}}, resources={"student": {"workers": 2}}
    )
    driver = Driver(task.folder)
    driver._build_stages([task], two_cpus)
    driver._search([task], two_cpus)
    records = list(task.folder.trials)
    assert [record["status"] for record in records] == ["pruned", "pruned"]
    # Through Ray Train a trial hears of it a row later.
    assert all(record["steps"] < 30 for record in records)

    def free() -> bool:
        return bool(ray.available_resources().get("CPU") == two_cpus["CPU"])

    wait_until(free, 30)
    states = {group["state"] for group in placement_group_table().values()}
    assert states <= {"REMOVED"}
    wait_until(lambda: not descendants("ray::RayTrainWorker"), 30)
    wait_until(lambda: not descendants("ray::TrainController"), 30)


def test_a_sweep_survives_the_loss_of_a_node(
    project_home: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver joins a cluster of two nodes, one of which goes while it runs a trial."""
    network = {"widths": [8, 8], "patch": 4, "groups": 4, "embed_dim": 8}
    recipe = {
        "teacher": {"optim": {"steps": 10, "batch_size": 16}, "network": network},
        "reward": {"optim": {"steps": 10, "batch_size": 16}, "widths": [8]},
        "student": {"optim": {"steps": 100, "batch_size": 16}, "reward_states": 4},
    }
    spec = load_spec(str(tiny(recipe=recipe, rows=[], pruner={"kind": "none"})))
    folder = SweepFolder(project_home / "storage", spec.name)
    folder.freeze(spec)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        command = [sys.executable, "-u", "-m", "sweeps.drive", str(folder.storage), folder.name]
        driver = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wait_until(
            lambda: (
                len(list(folder.trials.root.glob(f"*/{CURVE}"))) >= 2 or driver.poll() is not None
            )
        )
        written = {path: path.stat() for path in folder.trials.root.glob(f"*/{RECORD}")}
        cluster.remove_node(node, allow_graceful=False)
        out, _ = driver.communicate(timeout=240)
        assert driver.returncode == 0, out
    finally:
        cluster.shutdown()
    records = list(folder.trials)
    assert [record["status"] for record in records] == ["completed"] * 4
    for record in records:
        steps = [row["step"] for row in read_rows(folder.trials.folder(record["key"]) / CURVE)]
        assert steps == list(range(10, 101, 10))
    for path, about in written.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (about.st_ino, about.st_mtime_ns)


def test_a_storage_that_a_node_does_not_see_is_refused(
    two_cpus: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_shared(tmp_path)
    assert list(tmp_path.iterdir()) == []
    # As a node would answer that has another folder under the same path.
    monkeypatch.setattr(shared_storage, "look", lambda marker: look(marker + ".elsewhere"))
    with pytest.raises(
        StorageError, match=r"not the same on every node .*: \d+\.\d+\.\d+\.\d+ does not"
    ):
        check_shared(tmp_path)
    assert list(tmp_path.iterdir()) == []
