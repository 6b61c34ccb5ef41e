"""A sweep mirrored to trackers: what is brought, once, also in parts and after a kill."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ractd_core.files import write_json
from sweeps.layout import SweepFolder, plan_of
from sweeps.ledger import Record
from sweeps.spec import parse_spec
from sweeps.trackers.mirror import Mirror, points_of
from sweeps.trackers.protocol import Entry, Known, Point
from tests.sweeps.command import ractd
from tests.sweeps.study import (
    Start,
    agreed,
    journal,
    open_search,
    run,
    score_at,
    suggest,
    write_record,
)

pytestmark = pytest.mark.usefixtures("project_home")

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW: Record = {
    "dataset": "local/maze2d-umaze-v1",
    "method": "teacher:ddim-20",
    "params": {"horizon": 128, "guidance": None},
    "status": "completed",
    "reason": None,
    "steps": 30,
    "seconds": 2.0,
    "nfe": 20,
    "evaluation": {"score": 70.5, "episodes": 5},
    "latency_ms": {"median": 1.25},
}


class Sweep:
    """A sweep with a study, whose trials are played by hand."""

    def __init__(self, start: Start) -> None:
        self.search = open_search(start())
        self._begun = 0
        self.folder: SweepFolder = self.search.context.folder
        write_json(self.folder.path / "sweep.json", {"created": START.isoformat()})

    def begin(self) -> dict[str, Any]:
        """A trial that has scored 10 at step 10."""
        self._begun += 1
        config = suggest(self.search, f"trial {self._begun}")
        self.score(config, 10, 10.0)
        write_json(
            self.trial(config) / "trial.json",
            {"number": config["number"], "dataset": ROW["dataset"], "params": {"horizon": 128}},
        )
        return config

    def score(self, config: dict[str, Any], step: int, score: float) -> None:
        score_at(config, step, score)

    def end(self, config: dict[str, Any], status: str, score: float) -> None:
        write_record(config, status, score)

    def trial(self, config: dict[str, Any]) -> Path:
        """Its folder."""
        return plan_of(config).folder


@pytest.fixture
def sweep(start: Start) -> Sweep:
    return Sweep(start)


class Shelf:
    """A tracker that keeps what it is given, and counts how often each point came."""

    def __init__(self, live: bool = True) -> None:
        self.live = live
        self.points: dict[str, list[tuple[int, float]]] = {}
        self.entries: dict[str, Entry] = {}
        self.spec = ""

    def begin(self, spec: str) -> None:
        self.spec = spec

    def known(self, entry: Entry) -> Known:
        points, last = self.points.get(entry.name, []), self.entries.get(entry.name)
        return Known(points[-1][0] if points else 0, last is not None and last.end is not None)

    def add(self, entry: Entry, points: Sequence[Point]) -> None:
        self.entries[entry.name] = entry
        self.points.setdefault(entry.name, []).extend((p.step, p.values["score"]) for p in points)


def test_a_curve_is_brought_as_it_grows_and_its_end_once(sweep: Sweep) -> None:
    shelf = Shelf()
    mirror = Mirror(sweep.folder, shelf)
    assert parse_spec(shelf.spec, "shelf") == sweep.folder.spec()
    assert mirror.update() == 0
    config = sweep.begin()
    assert mirror.update() == 1
    assert shelf.points == {"trial-0000": [(10, 10.0)]}
    assert mirror.update() == 0
    sweep.score(config, 20, 20.0)
    sweep.end(config, "completed", 30.0)
    # Another follower, after the first was killed.
    mirror = Mirror(sweep.folder, shelf)
    assert mirror.update() == 1
    assert shelf.points == {"trial-0000": [(10, 10.0), (20, 20.0), (30, 30.0)]}
    end = shelf.entries["trial-0000"].end
    assert end is not None
    assert (end.status, end.values["selection/score"], end.values["steps"]) == ("completed", 30, 30)
    assert mirror.update() == Mirror(sweep.folder, shelf).update() == 0


def test_a_tracker_that_is_not_live_gets_a_trial_when_it_has_ended(sweep: Sweep) -> None:
    shelf = Shelf(live=False)
    mirror = Mirror(sweep.folder, shelf)
    config = sweep.begin()
    assert mirror.update() == 0
    sweep.end(config, "pruned", 30.0)
    assert mirror.update() == 1
    assert shelf.points == {"trial-0000": [(10, 10.0), (30, 30.0)]}
    end = shelf.entries["trial-0000"].end
    assert end is not None
    assert (end.status, end.reason) == ("pruned", "because")
    assert "selection/score" not in end.values


def test_rows_are_brought_with_what_was_measured(sweep: Sweep) -> None:
    sweep.folder.rows.put("r1", ROW)
    shelf = Shelf()
    assert Mirror(sweep.folder, shelf).update() == 1
    entry = shelf.entries["teacher:ddim-20"]
    assert (entry.kind, entry.params) == ("row", ROW["params"])
    assert entry.end is not None
    assert entry.end.values == {
        "steps": 30.0,
        "seconds": 2.0,
        "nfe": 20.0,
        "evaluation/score": 70.5,
        "evaluation/episodes": 5.0,
        "latency_ms/median": 1.25,
    }


def test_a_trial_whose_files_are_torn_is_left_for_the_next_look(sweep: Sweep) -> None:
    config = sweep.begin()
    about = sweep.trial(config) / "trial.json"
    whole = about.read_text()
    about.write_text(whole[:10])
    mirror = Mirror(sweep.folder, Shelf())
    assert mirror.update() == 0
    about.write_text(whole)
    assert mirror.update() == 1


def test_steps_of_training_seeds_follow_one_another() -> None:
    rows = [
        {"step": step, "training_seed": seed, "score": 1.0, "loss": None, "seconds": 2.0}
        for seed in (5, 6)
        for step in (10, 30)
    ]
    points = points_of(rows, START)
    assert [point.step for point in points] == [10, 30, 40, 60]
    assert [point.time - START for point in points] == [timedelta(seconds=s) for s in (2, 4, 6, 8)]
    assert points[0].values == {"score": 1.0, "seconds": 2.0}, "what is not known is left out"


# The command


def track(sweep: Sweep, to: str, *options: str, code: int = 0) -> str:
    where = ("--storage", str(sweep.folder.storage))
    return ractd("sweep", "track", sweep.folder.name, "--to", to, *options, *where, code=code)


@pytest.mark.parametrize(
    ("to", "package"),
    [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow"), ("wandb", "wandb")],
)
def test_a_package_that_is_not_there_is_named_with_its_extra(
    sweep: Sweep, to: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"sweeps.trackers.to_{to}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    message = track(sweep, to, code=2)
    assert message.startswith("error: ")
    assert f"pip install 'ractd[{to}]'" in message
    assert not (sweep.folder.path / "trackers").exists()


def test_an_address_is_for_mlflow_only(sweep: Sweep) -> None:
    assert "MLflow" in track(sweep, "wandb", "--uri", "http://x", code=2)


def test_two_followers_do_not_write_to_one_place(sweep: Sweep, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="extra tensorboard is not installed")
    with FileLock(tmp_path / ".lock"):
        message = track(sweep, "tensorboard", "--out", str(tmp_path), code=2)
    assert "another `ractd sweep track`" in message


def test_an_unknown_sweep_is_refused(sweep: Sweep) -> None:
    message = ractd("sweep", "track", "no", "--to", "mlflow", code=2)
    assert "no sweep 'no'" in message


# The trackers themselves, read back with their own packages


def fill(sweep: Sweep) -> dict[str, Any]:
    """A trial that completed, one under way, and a row."""
    sweep.end(sweep.begin(), "completed", 30.0)
    running = sweep.begin()
    sweep.folder.rows.put("r1", ROW)
    return running


def test_tensorboard_reads_back_every_point_once(sweep: Sweep, tmp_path: Path) -> None:
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="extra tensorboard is not installed",
    )
    running = fill(sweep)
    # Of a follower that was killed as it wrote: no run of anybody's.
    (tmp_path / "tb" / sweep.folder.name / ".writing").mkdir(parents=True)
    assert "3 runs" in track(sweep, "tensorboard", "--out", str(tmp_path / "tb"))
    assert "0 runs" in track(sweep, "tensorboard", "--out", str(tmp_path / "tb"))
    sweep.score(running, 20, 20.0)
    assert "1 runs" in track(sweep, "tensorboard", "--out", str(tmp_path / "tb"))
    sweep.end(running, "completed", 40.0)
    assert "1 runs" in track(sweep, "tensorboard", "--out", str(tmp_path / "tb"))
    root = tmp_path / "tb" / sweep.folder.name / "local" / "maze2d-umaze-v1"
    assert sorted(path.name for path in root.parent.parent.iterdir()) == ["local", "spec"]
    found = {}
    for folder in root.iterdir():
        events = accumulators.EventAccumulator(str(folder)).Reload()
        name = folder.name.rpartition("-")[0]
        found[name] = {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in ("score", "selection/score", "evaluation/score")
            if tag in events.Tags()["scalars"]
        }
        assert "_hparams_/session_start_info" in events.summary_metadata
    assert found == {
        "trial-0000": {"score": [(10, 10.0), (30, 30.0)], "selection/score": [(30, 30.0)]},
        "trial-0001": {
            "score": [(10, 10.0), (20, 20.0), (30, 40.0)],
            "selection/score": [(30, 40.0)],
        },
        "teacher-ddim-20": {"evaluation/score": [(0, 70.5)]},
    }


def test_mlflow_has_a_run_per_trial_and_row_and_every_point_once(
    sweep: Sweep, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="extra mlflow is not installed")
    running = fill(sweep)
    out = ("--out", str(tmp_path / "ml"))
    assert "3 runs" in track(sweep, "mlflow", *out)
    assert "0 runs" in track(sweep, "mlflow", *out)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/ml/mlflow.db")
    experiment = client.get_experiment_by_name(sweep.folder.name)
    [begun] = client.search_runs([experiment.experiment_id], "run_name = 'trial-0001'")
    # As a follower leaves it that was killed between the points and the word that they are there.
    client.delete_tag(begun.info.run_id, "ractd.step")
    sweep.end(running, "failed", 40.0)
    assert "1 runs" in track(sweep, "mlflow", *out)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {sweep.folder.name, "trial-0000", "trial-0001", "teacher:ddim-20"}
    states = {name: run.info.status for name, run in runs.items()}
    assert states["trial-0000"] == states["teacher:ddim-20"] == "FINISHED"
    assert states["trial-0001"] == "FAILED"
    assert runs["trial-0001"].data.tags["reason"] == "because"
    assert runs["trial-0000"].data.metrics["selection/score"] == 30.0
    assert runs["teacher:ddim-20"].data.params == {"horizon": "128", "guidance": "None"}
    history = client.get_metric_history(runs["trial-0001"].info.run_id, "score")
    assert [(metric.step, metric.value) for metric in history] == [(10, 10.0), (30, 40.0)]
    parent = runs[sweep.folder.name]
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs.values()} == {
        None,
        parent.info.run_id,
    }
    spec = client.download_artifacts(parent.info.run_id, "spec.yaml")
    assert parse_spec(Path(spec).read_text(), "artifact") == sweep.folder.spec()


def test_a_server_that_is_away_is_one_message(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound, and nobody listens.
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "error: MLflow: " in track(sweep, "mlflow", "--uri", address, code=2)


def scanned(run: Path) -> list[tuple[int, float]]:
    """Steps and scores in an offline run's file: a LevelDB log of protocol buffers.

    After seven bytes of header, a record has its checksum (4 bytes), length (2) and type (1), and
    here all lie in the first block.
    """
    protocol = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    [path] = run.glob("*.wandb")
    content, at, found = path.read_bytes(), 7, []
    assert len(content) < 32768
    while at < len(content):
        length = int.from_bytes(content[at + 4 : at + 6], "little")
        record = protocol.Record.FromString(content[at + 7 : at + 7 + length])
        items = {".".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
        if "score" in items:
            found.append((record.history.step.num, json.loads(items["score"])))
        at += 7 + length
    return found


def test_wandb_has_an_offline_run_per_trial_that_ended(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="extra wandb is not installed")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    running = fill(sweep)
    out = ("--out", str(tmp_path / "wb"))
    assert "2 runs" in track(sweep, "wandb", *out)
    assert "0 runs" in track(sweep, "wandb", *out)
    sweep.end(running, "completed", 40.0)
    # As a follower leaves it that was killed in the middle of this run.
    [key] = [record["key"] for record in sweep.folder.trials if record["number"] == 1]
    name = f"{sweep.folder.name}-trial-{key}"
    half = tmp_path / "wb" / "wandb" / f"offline-run-20260101_000000-{name}"
    half.mkdir()
    # Another sweep's, whose name ends as this one's does.
    other = half.with_name(f"offline-run-20260101_000000-my-{name}")
    other.mkdir()
    assert "1 runs" in track(sweep, "wandb", *out)
    other.rmdir()
    runs = sorted((tmp_path / "wb" / "wandb").glob("offline-run-*"))
    assert len(runs) == 3
    assert half not in runs
    assert all(list(run.glob("*.wandb")) for run in runs)
    rows = [history for run in runs if f"trial-{key}" in run.name for history in scanned(run)]
    assert rows == [(10, 10.0), (30, 40.0)]


def test_the_dashboard_shows_a_study_that_a_search_has_open(sweep: Sweep) -> None:
    dashboard = pytest.importorskip("optuna_dashboard", reason="extra dashboard is not installed")
    run(sweep.search, 2)
    sweep.begin()
    path = str(journal(sweep.search.context))
    application = dashboard.wsgi(JournalStorage(JournalFileBackend(path)))

    def get(address: str) -> Any:
        environ: dict[str, Any] = {"PATH_INFO": address}
        setup_testing_defaults(environ)
        return json.loads(b"".join(application(environ, lambda *response: None)))

    [study] = get("/api/studies")["study_summaries"]
    assert study["study_name"].startswith(f"{sweep.folder.name}/{ROW['dataset']}/")
    shown = [(trial["state"], trial.get("values")) for trial in get("/api/studies/0")["trials"]]
    assert shown == [("Complete", [0.0]), ("Complete", [1.0]), ("Running", None)]
    run(sweep.search, 1, first=2)
    agreed(sweep.search)
