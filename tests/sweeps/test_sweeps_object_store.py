"""A sweep's trials on a real S3 server over a line that is slow and cut, machine after machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ractd_core.data.generate import LocalRecipe, make_local
from ractd_core.data.store import load
from ractd_core.tasks import parse_dataset_name
from sweeps.interruption import making_room
from sweeps.jsonl import Row, read_rows
from sweeps.layout import CURVE, SweepFolder, TaskContext, check_storage, open_sweep
from sweeps.lease import TTL, Lease, lease_of
from sweeps.ledger import RECORD, Ledger
from sweeps.mirror import mirror_of, open_mirror
from sweeps.object_store import ObjectStore, StoreAwayError, StoreUri
from sweeps.search_space import Scalar
from sweeps.shared_data import share_data
from sweeps.spec import load_spec
from sweeps.stage_store import CHECKPOINT
from sweeps.trial import run_trial
from tests.sweeps.command import ractd
from tests.sweeps.conftest import TINY
from tests.sweeps.object_server import Line, cut_now_and_then, s3_server

pytestmark = pytest.mark.slow

UMAZE = parse_dataset_name("local/maze2d-umaze-v1")
URI = "s3://bucket/some/prefix"
VALUES: dict[str, Scalar] = {"window.horizon": 16, "student.reward_weight": 1e-3}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log.txt", "bucket") as port:
        yield port


@pytest.fixture
def line(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A line to the server that this process's environment names, and a bucket that is empty."""
    line = Line(server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.url)
    yield line
    line.mend()
    store = StoreUri.parse("s3://bucket").open()
    for entry in store.list(""):
        store.delete(entry.key)
    line.close()


@pytest.fixture
def store(line: Line) -> ObjectStore:
    return StoreUri.parse(URI).open()


@pytest.fixture
def go_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Be another machine, with a disk of its own."""

    def go(name: str) -> None:
        monkeypatch.setenv("RACTD_HOME", str(tmp_path / name))
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / name / "datasets"))

    return go


def payload_on(storage: str, spec: Path) -> dict[str, Any]:
    checked = load_spec(str(spec))
    make_local(UMAZE, LocalRecipe(transitions=3000))
    folder = SweepFolder(check_storage(storage), checked.name)
    folder.freeze(checked)
    context = TaskContext(folder, checked, UMAZE, load(UMAZE).fingerprint)
    share_data(folder.storage, UMAZE, context.fingerprint)
    return {"context": context.to_json(), "values": VALUES, "number": 0}


def trial_folder(payload: dict[str, Any]) -> Path:
    return TaskContext.from_json(payload["context"]).trial(VALUES).folder


class KilledError(BaseException):
    """As if the process were gone: nothing of the trial's own catches it."""


def test_a_trial_goes_on_from_machine_to_machine_over_a_line_that_is_cut(
    line: Line,
    store: ObjectStore,
    go_to: Callable[[str], None],
    tiny: Callable[..., Path],
    tmp_path: Path,
) -> None:
    go_to("alone")
    spec = tiny()
    undisturbed = payload_on(str(tmp_path / "plain"), spec)
    run_trial(undisturbed, lambda row: None)
    expected = read_rows(trial_folder(undisturbed) / CURVE)

    go_to("first")
    steps: list[int] = []

    def die(row: Row) -> None:
        steps.append(row["step"])
        if row["step"] == 20:
            raise KilledError

    payload = payload_on(URI, spec)
    assert payload["context"]["storage"] == URI
    line.pause = 0.002
    with pytest.raises(KilledError):
        run_trial(payload, die)
    shutil.rmtree(tmp_path / "first")  # the machine is gone, with its disk

    go_to("second")
    line.pause = 0.0
    steps.clear()
    with cut_now_and_then(line, up=1.0, down=0.5):
        run_trial(payload, lambda row: steps.append(row["step"]))
    assert line.cuts > 0
    assert steps == [10, 20, 30]
    rows = read_rows(trial_folder(payload) / CURVE)
    compared = ("step", "loss", "score", "training_seed")
    same = [[{k: row[k] for k in compared} for row in each] for each in (rows, expected)]
    assert same[0] == same[1], "as if it had been alone on one machine"
    assert rows[0]["seconds"] > 0

    go_to("third")
    run_trial(payload, lambda row: None)
    keys = [entry.key for entry in store.list("")]
    assert len([key for key in keys if key.endswith(RECORD)]) == 1
    kinds = sorted(key.split("/")[1].split("-")[0] for key in keys if "manifest.json" in key)
    assert kinds == ["reward", "teacher"], "each built once"
    assert not [key for key in keys if "/running/" in key or "checkpoint" in key]


def test_a_trial_makes_room_for_a_driver_of_another_machine_that_ends(
    line: Line,
    store: ObjectStore,
    go_to: Callable[[str], None],
    tiny: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sweeps.interruption._ASK_EVERY", 0.05)
    go_to("driver")
    payload = payload_on(URI, tiny())
    mirror = mirror_of(open_mirror(URI))
    assert mirror is not None
    lease = lease_of(mirror, mirror.root / "sweeps" / "tiny")
    lease.take()

    go_to("node")
    steps: list[int] = []

    def told(row: Row) -> None:
        steps.append(row["step"])
        lease.renew(ending=row["step"] == 10)
        time.sleep(1.0)

    with making_room(trial_folder(payload).parents[1]):
        run_trial(payload, told)
    assert steps == [10], "it ends between two scores"
    lease.release()
    assert not [entry.key for entry in store.list("") if entry.key.endswith(RECORD)]

    go_to("third")
    steps.clear()
    run_trial(payload, lambda row: steps.append(row["step"]))
    assert steps == [10, 20, 30], "the first of them as it was"
    assert [row["step"] for row in read_rows(trial_folder(payload) / CURVE)] == [10, 20, 30]


def test_nothing_secret_is_written_anywhere(
    line: Line,
    go_to: Callable[[str], None],
    tiny: Callable[..., Path],
    tmp_path: Path,
    store: ObjectStore,
) -> None:
    go_to("first")
    payload_on(URI, tiny())
    said = ractd("sweep", "list", "--storage", URI) + ractd(
        "sweep", "status", "tiny", "--storage", URI
    )
    files = [path.read_bytes() for path in (tmp_path / "first").rglob("*") if path.is_file()]
    objects = [store.read(entry.key) or b"" for entry in store.list("")]
    for content in (said.encode(), *files, *objects):
        assert b"a-secret-key" not in content
        assert b"an-access-key" not in content


def test_another_machine_reads_the_sweep_from_the_store(
    line: Line, go_to: Callable[[str], None], tiny: Callable[..., Path]
) -> None:
    go_to("first")
    payload = payload_on(URI, tiny())
    run_trial(payload, lambda row: None)
    go_to("second")
    assert "1/4 trials (1 completed)" in ractd("sweep", "list", "--storage", URI)
    status = ractd("sweep", "status", "tiny", "--storage", URI)
    assert "no driver on any machine" in status
    assert "1/4 trials (1 completed)" in status
    assert "no sweep 'other'" in ractd("sweep", "status", "other", "--storage", URI, code=2)


def test_a_store_that_is_away_or_refuses_is_one_clear_error(
    line: Line, go_to: Callable[[str], None], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    go_to("first")
    line.cut()
    said = ractd("sweep", "run", str(tiny()), "--storage", URI, code=2)
    assert f"error: storage {URI} cannot be reached" in said
    said = ractd("sweep", "list", "--storage", URI, code=2)
    assert f"error: storage {URI} cannot be reached" in said
    line.mend()
    said = ractd("sweep", "run", str(tiny()), "--storage", "s3://no-such-bucket/p", code=2)
    assert "s3://no-such-bucket/p cannot be reached" in said
    assert "bucket does not exist" in said


def test_a_big_file_arrives_whole_or_not_at_all(
    line: Line, store: ObjectStore, tmp_path: Path
) -> None:
    big, got = tmp_path / "big", tmp_path / "got"
    big.write_bytes(os.urandom(30 << 20))
    store.upload(big, "big")
    line.pause = 0.001
    with cut_now_and_then(line, up=0.3, down=0.1):
        try:
            whole = store.download("big", got)
        except StoreAwayError:
            whole = False
    assert not whole or got.read_bytes() == big.read_bytes()
    assert got.exists() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == (
        ["big", "got"] if whole else ["big"]
    )
    line.pause = 0.0
    assert store.download("big", got)
    assert got.read_bytes() == big.read_bytes()


def launch(spec: Path, storage: str, log: Path) -> subprocess.Popen[bytes]:
    """A whole sweep in a process of its own, as a cluster's job is."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "sweeps.launch", str(spec), storage],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            start_new_session=True,
        )


def records(trials: Ledger) -> dict[str, Any]:
    return {
        record["key"]: (record["status"], record["selection"], record["stages"])
        for record in trials
    }


@pytest.mark.ray
@pytest.mark.failures
def test_a_sweep_whose_machine_is_lost_goes_on_from_an_empty_one(
    line: Line,
    store: ObjectStore,
    go_to: Callable[[str], None],
    tiny: Callable[..., Path],
    tmp_path: Path,
) -> None:
    log = tmp_path / "log.txt"
    # Few enough points that every run of the sweep has the same.
    search = {"horizon": {"choices": [16, 32]}, "sigma": {"choices": [1e-4, 1e-3]}}
    spec = tiny(search=search, sampler={"kind": "grid"}, pruner={"kind": "none"})
    go_to("alone")
    plain = tmp_path / "plain"
    assert launch(spec, str(plain), log).wait() == 0, log.read_text()
    expected = records(SweepFolder(plain, "tiny").trials)
    assert len(expected) == 4

    go_to("first")
    driver = launch(spec, URI, log)
    deadline = time.monotonic() + 600
    while not (there := [e.key for e in store.list("sweeps") if e.key.endswith(RECORD)]):
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    written = {key: store.read(key) for key in there}
    shutil.rmtree(tmp_path / "first", ignore_errors=True)

    go_to("second")
    refused = launch(spec, URI, log)
    assert refused.wait() == 2
    assert "already being driven on" in log.read_text()
    time.sleep(TTL)
    with cut_now_and_then(line, up=6.0, down=2.0):
        resumed = launch(spec, URI, log)
        assert resumed.wait() == 0, log.read_text()
    assert line.cuts > 0
    objects = [entry.key for entry in store.list("")]
    found = [key for key in objects if key.endswith(RECORD) and "/trials/" in key]
    assert len({key.split("/")[3] for key in found}) == len(found) == 4, "none lost, none doubled"
    assert {key: store.read(key) for key in there} == written, "none written again"
    stages = [key.split("/")[1] for key in objects if key.endswith("manifest.json")]
    assert len(set(stages)) == len(stages)
    assert not [key for key in objects if "lease" in key]

    go_to("third")
    ractd("report", "tiny", "--storage", URI)
    folder = open_sweep(URI, "tiny")
    assert records(folder.trials) == expected
    assert len(list(folder.rows)) == 3


@pytest.mark.ray
@pytest.mark.failures
def test_a_driver_that_is_terminated_says_so_in_the_store_and_leaves_its_trials_checkpoint_there(
    line: Line,
    store: ObjectStore,
    go_to: Callable[[str], None],
    tiny: Callable[..., Path],
    tmp_path: Path,
) -> None:
    log = tmp_path / "log.txt"
    student = {"optim": {"steps": 600, "batch_size": 16}, "reward_states": 4}
    recipe = {**TINY["recipe"], "student": student}
    evaluation = {**TINY["evaluation"], "every": 200}
    spec = tiny(recipe=recipe, evaluation=evaluation, pruner={"kind": "none"})
    go_to("first")
    driver = launch(spec, URI, log)

    def wait_for(moment: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 450
        while not moment():
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.1)

    def running(name: str) -> list[str]:
        return [e.key for e in store.list("sweeps/tiny/trials") if e.key.endswith(name)]

    lease = Lease(store, "sweeps/tiny/lease.json", "nobody's")
    wait_for(lambda: running(CURVE))
    driver.send_signal(signal.SIGTERM)
    wait_for(lambda: (owner := lease.written()) is not None and owner.ending)
    assert driver.wait(120) == 130, log.read_text()
    assert lease.written() is None, "released"
    assert running(CHECKPOINT)
    assert "Traceback" not in log.read_text()
