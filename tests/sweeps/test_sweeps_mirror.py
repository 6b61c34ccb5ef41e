"""Mirrors of an object store: what is finished, what runs, who wins, and a store that is away."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractd_core.files import write_json
from ractd_core.training import TrainingInterrupted
from sweeps import interruption
from sweeps.canonical import key_of
from sweeps.ending import INTERRUPT
from sweeps.interruption import Notices, making_room
from sweeps.jsonl import append_row, read_rows
from sweeps.layout import StorageError, SweepFolder, open_sweep, storage_path
from sweeps.lease import Lease, LeaseHeldError
from sweeps.ledger import RECORD, Ledger
from sweeps.mirror import bring, commit, drop_models, fetch, open_mirror, pull, push, share, winner
from sweeps.mirrored_sweep import bring_finished, changing_spec, driving, request_stop, want
from sweeps.object_store import Entry, StoreAwayError, StoreUri, StoreUriError
from sweeps.spec import SpecError, parse_spec
from sweeps.stage_store import MODEL, StageRequest, StageStore
from tests.sweeps.stores import URI, Faults, Machine

KEY = key_of(["a trial"])
SPEC = (
    "{{name: a, tasks: [local/maze2d-umaze-v1], trials: 1, "
    "search: {{sigma: {{low: 1e-5, high: 1e-2}}}}{more}}}"
)
Machines = Callable[[str], Machine]


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """Machines by name that share one store."""
    monkeypatch.setattr("sweeps.lease._SETTLE", 0.0)
    return lambda name: Machine(tmp_path / name, tmp_path / "bucket", monkeypatch)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a driver has been told to end, which it does not here; its beats are quick."""
    monkeypatch.setattr("sweeps.mirrored_sweep.BEAT", 0.05)
    told = threading.Event()
    monkeypatch.setattr("sweeps.mirrored_sweep.os.kill", lambda pid, number: told.set())
    return told


def ledger(where: Machine) -> Ledger:
    return SweepFolder(where.root, "one").trials


def play(where: Machine, score: float) -> Path:
    """What a trial leaves before its record."""
    folder = ledger(where).folder(KEY)
    append_row(folder / "curve.jsonl", {"training_seed": 0, "step": 10, "score": score})
    (folder / "episodes.csv").write_text(f"score\n{score}\n")
    (folder / "student-0").mkdir(exist_ok=True)
    (folder / "student-0" / "model.safetensors").write_text(f"weights {score}")
    return folder


def record(where: Machine, score: float) -> bool:
    play(where, score)
    return ledger(where).put(KEY, {"score": score})


def score(where: Machine) -> float | None:
    with where:
        found = ledger(where).get(KEY)
    return None if found is None else float(found["score"])


def request() -> StageRequest:
    spec = parse_spec(SPEC.format(more=""), "spec")
    return StageRequest("teacher", spec.recipe_of(spec.datasets()[0]), "d", "f" * 64)


def build(text: str) -> Callable[[Path], dict[str, Any]]:
    def make(folder: Path) -> dict[str, Any]:
        (folder / MODEL).write_text(text)
        return {"steps": 1, "loss": 0.0, "seconds": 1.0, "workers": 1, "device": "cpu"}

    return make


def test_a_record_is_on_every_machine_with_what_belongs_to_it(machines: Machines) -> None:
    here, there = machines("here"), machines("there")
    with here:
        assert record(here, 1.0)
    assert score(there) == 1.0
    folder = ledger(there).folder(KEY)
    assert (folder / "episodes.csv").read_text() == "score\n1.0\n"
    model = folder / "student-0" / "model.safetensors"
    assert not model.exists(), "models come when they are asked for"
    with there:
        assert fetch(model)
    assert model.read_text() == "weights 1.0"


def test_a_record_in_the_store_is_never_replaced(machines: Machines) -> None:
    here, there = machines("here"), machines("there")
    with here:
        assert record(here, 1.0)
    with there:
        assert not record(there, 2.0)
    assert score(here) == score(there) == score(machines("third")) == 1.0
    folder = ledger(there).folder(KEY)
    assert (folder / "episodes.csv").read_text() == "score\n1.0\n", "the winner's, not its own"
    with there:
        assert fetch(folder / "student-0" / "model.safetensors")
    assert (folder / "student-0" / "model.safetensors").read_text() == "weights 1.0"


@settings(max_examples=40)
@given(order=st.lists(st.integers(0, 2), min_size=2, max_size=12), data=st.data())
def test_writers_at_once_agree_on_the_first_record(
    order: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every writer has looked before any has written; puts arrive in any order and interleave."""
    tmp_path = tmp_path_factory.mktemp("race")
    with pytest.MonkeyPatch.context() as patch:
        group = [Machine(tmp_path / str(i), tmp_path / "bucket", patch) for i in range(3)]
        attempts = [f"attempt{i}" for i in data.draw(st.permutations(range(3)))]
        first = None
        written = dict.fromkeys(range(3), 0)
        for i in order:
            base = f"sweeps/one/trials/{KEY}/{attempts[i]}"
            name = ("episodes.csv", RECORD)[min(written[i], 1)]
            if written[i] < 2:
                text = {"schema": 2, "key": KEY, "score": float(i)}
                group[i].store.write(f"{base}/{name}", json.dumps(text).encode())
                first = i if name == RECORD and first is None else first
                written[i] += 1
            for each in group:
                # Whoever reads at any moment sees nothing, or the first one for ever.
                assert score(each) == (None if first is None else float(first))


def test_of_two_records_in_one_instant_all_take_the_same() -> None:
    entries = [Entry(f"t/{name}/{RECORD}", 1, 5) for name in ("b", "a")]
    assert winner(entries, "t", RECORD) == winner(entries[::-1], "t", RECORD) == "a"
    assert winner([*entries, Entry(f"t/z/{RECORD}", 1, 4)], "t", RECORD) == "z"
    assert winner([Entry(f"t/running/{RECORD}", 1, 1)], "t", RECORD) is None


def test_the_loser_of_an_instant_is_put_right_at_the_next_look(machines: Machines) -> None:
    here = machines("here")
    with here:
        assert record(here, 1.0)
        base = f"sweeps/one/trials/{KEY}"
        [mine] = {e.key.split("/")[4] for e in here.store.list(base)}
        other = {"schema": 2, "key": KEY, "score": 2.0}
        here.store.write(f"{base}/0other/{RECORD}", json.dumps(other).encode())
        bucket = Path(here.store.root)
        instant = (bucket / f"{base}/{mine}/{RECORD}").stat().st_mtime_ns
        os.utime(bucket / f"{base}/0other/{RECORD}", ns=(instant, instant))
        bring_finished(SweepFolder(here.root, "one").path)
    assert score(here) == (2.0 if mine > "0other" else 1.0)


@pytest.mark.parametrize("calls", range(0, 60, 3))
def test_a_line_that_is_cut_anywhere_loses_nothing_and_doubles_nothing(
    machines: Machines, calls: int
) -> None:
    here, there = machines("here"), machines("there")
    with here:
        play(here, 1.0)
        here.faults.failures = [False] * calls + [True] * 12
        assert ledger(here).put(KEY, {"score": 1.0}), "put when the line is back"
    assert score(there) == 1.0
    done = [e for e in there.store.list("sweeps") if e.key.endswith(RECORD)]
    assert len(done) == 1


def test_a_writer_that_dies_before_its_record_is_put_leaves_nothing_finished(
    machines: Machines,
) -> None:
    here, there = machines("here"), machines("there")

    class KilledError(BaseException):
        pass

    def die(store: Any, key: str, content: bytes) -> None:
        raise KilledError

    with here, pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(here.store), "write", die)
        with pytest.raises(KilledError):
            record(here, 1.0)
    assert score(there) is None
    assert not (ledger(here).folder(KEY) / RECORD).exists(), "no record here that is not there"
    with there:
        assert record(there, 2.0)
    with here:
        assert not ledger(here).put(KEY, {"score": 1.0})
    assert score(here) == 2.0


def test_a_store_that_stays_away_is_waited_for_and_said(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    here = machines("here")
    with here:
        play(here, 1.0)
        here.faults.away = True
        writer = threading.Thread(target=ledger(here).put, args=(KEY, {"score": 1.0}))
        writer.start()
        time.sleep(0.3)
        assert writer.is_alive()
        assert not (ledger(here).folder(KEY) / RECORD).exists()
        here.faults.away = False
        writer.join(10)
    assert score(machines("there")) == 1.0
    told = [r.message for r in caplog.records if "waiting until it can" in r.message]
    assert len(told) == 1, "once, not at every try"
    assert "the connection was cut" in told[0]


def test_checkpoints_wait_for_nobody_and_arrive_when_the_line_is_back(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machines("here"), machines("there")
    monkeypatch.setattr("sweeps.mirror._LATER", 0.0)
    with here:
        folder = play(here, 1.0)
        (folder / "checkpoint.safetensors").write_text("step 10")
        here.faults.away = True
        push(folder)
        assert not there.store.list("")
        here.faults.away = False
        push(folder)
    with there:
        pull(ledger(there).folder(KEY))
    assert (ledger(there).folder(KEY) / "checkpoint.safetensors").read_text() == "step 10"


def test_what_is_put_again_is_only_what_has_changed(machines: Machines) -> None:
    here = machines("here")
    with here:
        folder = play(here, 1.0)
        push(folder)
        here.faults.calls.clear()
        push(folder)
        assert not here.faults.calls
        append_row(folder / "curve.jsonl", {"training_seed": 0, "step": 20, "score": 1.0})
        push(folder)
    assert [path.rpartition("/")[2] for _, path in here.faults.calls] == ["curve.jsonl"]


def test_a_checkpoint_is_never_ahead_of_its_curve(machines: Machines) -> None:
    here = machines("here")
    with here:
        folder = play(here, 1.0)
        (folder / "checkpoint.safetensors").write_text("step 10")
        write_json(folder / "played.json", {})
        push(folder)
    names = [path.rpartition("/")[2] for call, path in here.faults.calls if call == "put"]
    assert names[:2] == ["curve.jsonl", "checkpoint.safetensors"]
    assert names[-2:] == ["episodes.csv", "played.json"]


@settings(max_examples=40)
@given(
    moves=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["train", "wipe", "cut"])), max_size=9
    )
)
def test_whoever_goes_on_has_the_furthest_that_was_pushed(
    moves: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A trial moves between two machines; each goes on from where the store or its disk is."""
    tmp_path = tmp_path_factory.mktemp("moves")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.mirror._LATER", 0.0)
        pair = [Machine(tmp_path / str(i), tmp_path / "bucket", patch) for i in range(2)]
        pushed = 0
        for which, move in moves:
            where = pair[which]
            folder = ledger(where).folder(KEY)
            if move == "wipe":
                where.wipe()
                continue
            with where:
                pull(folder)
                before = len(read_rows(folder / "curve.jsonl"))
                assert before >= pushed, "what was pushed is not lost"
                saved = folder / "checkpoint.safetensors"
                assert before == 0 or saved.read_text() == str(before)
                append_row(folder / "curve.jsonl", {"step": before + 1})
                saved.write_text(str(before + 1))
                where.faults.away = move == "cut"
                push(folder)
                where.faults.away = False
            pushed = max(pushed, before + 1) if move == "train" else pushed


def test_a_request_to_stop_reaches_the_trial_and_a_store_that_is_away_is_none(
    machines: Machines,
) -> None:
    driver, worker = machines("driver"), machines("worker")
    with worker:
        stop = play(worker, 1.0) / "stop"
        assert not fetch(stop, patient=False)
    with driver:
        asked = play(driver, 1.0) / "stop"
        asked.write_text("below the median")
        share(asked, patient=False)
    with worker:
        worker.faults.away = True
        assert not fetch(stop, patient=False)
        worker.mirror._not_before = 0.0
        worker.faults.away = False
        assert fetch(stop, patient=False)
    assert stop.read_text() == "below the median"


def test_a_stage_is_built_once_and_damage_on_disk_is_mended_from_the_store(
    machines: Machines,
) -> None:
    here, there = machines("here"), machines("there")
    with here:
        first = StageStore(here.root / "stages").ensure(request(), build("one"))
    with there:
        store = StageStore(there.root / "stages")
        assert store.ensure(request(), build("two")) == first
        name = request().name
        assert store.path(name).read_text() == "one"
        store.path(name).write_text("bits have flipped")
        assert store.find(name) == first
        assert store.path(name).read_text() == "one"
        store.path(name).unlink()
        assert store.find(name) == first


def test_a_stage_damaged_in_the_store_is_built_anew(machines: Machines) -> None:
    here, there = machines("here"), machines("there")
    with here:
        StageStore(here.root / "stages").ensure(request(), build("one"))
    [model] = [e.key for e in here.store.list("stages") if e.key.endswith(MODEL)]
    here.store.write(model, b"torn")
    with there:
        StageStore(there.root / "stages").ensure(request(), build("two"))
    here.wipe()
    with here:
        store = StageStore(here.root / "stages")
        assert store.find(request().name) is not None
        assert store.path(request().name).read_text() == "two"


def test_of_two_builders_at_once_the_loser_takes_the_winners(machines: Machines) -> None:
    here, there = machines("here"), machines("there")

    def late(folder: Path) -> dict[str, Any]:
        with here:
            StageStore(here.root / "stages").ensure(request(), build("first"))
        with there:
            return build("second")(folder)

    with there:
        store = StageStore(there.root / "stages")
        store.ensure(request(), late)
        assert store.path(request().name).read_text() == "first"
        assert not store.building(request().name).exists()
    attempts = {e.key.split("/")[2] for e in here.store.list("stages") if "building" not in e.key}
    assert len(attempts) == 1, "the loser drops its copy"


def test_a_stage_that_is_brought_back_before_its_builder_has_moved_it_is_no_error(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machines("here")

    def commit_and_look(folder: Path, *others: Any) -> bool:
        done = commit(folder, *others)
        # As the driver's thread does at any moment.
        assert bring(folder, "manifest.json")
        return done

    monkeypatch.setattr("sweeps.stage_store.commit", commit_and_look)
    with here:
        store = StageStore(here.root / "stages")
        manifest = store.ensure(request(), build("one"))
        assert store.find(request().name) == manifest
        assert store.path(request().name).read_text() == "one"


def test_of_a_buckets_stages_a_sweep_looks_at_its_own_and_only_until_they_are_here(
    machines: Machines,
) -> None:
    here, there = machines("here"), machines("there")
    mine, name = request(), request().name
    other = StageRequest("reward", mine.recipe, mine.dataset, mine.fingerprint)
    with here:
        store = StageStore(here.root / "stages")
        building = store.building(name)
        append_row(building / "metrics.jsonl", {"step": 1})
        push(building)
        store.ensure(other, build("another sweep's"))
        want(SweepFolder(here.root, "one").path, [name])
    with there:
        path = SweepFolder(there.root, "one").path
        bring_finished(path)
        assert read_rows(there.root / "stages" / ".building" / name / "metrics.jsonl")
    with here:
        store.ensure(mine, build("its own"))
    with there:
        bring_finished(path)
        assert (there.root / "stages" / name / "manifest.json").exists()
        assert not (there.root / "stages" / other.name).exists()
        there.faults.calls.clear()
        bring_finished(path)
    assert there.faults.calls == [("list", f"{there.store.root}/sweeps/one")]


def test_models_that_are_dropped_are_gone_everywhere(machines: Machines) -> None:
    here, driver = machines("here"), machines("driver")
    with here:
        record(here, 1.0)
    assert score(driver) == 1.0
    with driver:
        drop_models(ledger(driver).folder(KEY))
    assert not [e.key for e in here.store.list("") if e.key.endswith(".safetensors")]
    assert score(machines("third")) == 1.0


def test_one_driver_at_a_time_whatever_the_clocks_say(machines: Machines) -> None:
    here, there = machines("here"), machines("there")
    key = "sweeps/one/lease.json"
    mine, theirs = (Lease(m.store, key, m.mirror.id) for m in (here, there))
    mine.take()
    with pytest.raises(LeaseHeldError, match="already being driven on"):
        theirs.take()
    old = time.time_ns() - int(61e9)
    os.utime(Path(here.store.root) / key, ns=(old, old))
    theirs.take()
    assert theirs.is_mine()
    assert not mine.is_mine()
    mine.release()
    assert theirs.is_mine(), "a lease is released by its owner only"
    # Its own machine's lock says that the driver there is gone.
    Lease(there.store, key, there.mirror.id).take()


def test_two_that_take_a_lease_at_once_leave_one(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [machines("here"), machines("there")]
    monkeypatch.setattr("sweeps.lease._SETTLE", 0.3)
    leases = [Lease(m.store, "l", m.mirror.id) for m in pair]
    barrier, won = threading.Barrier(2), []

    def take(lease: Lease) -> None:
        barrier.wait()
        try:
            lease.take()
        except LeaseHeldError:
            return
        won.append(lease)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert won[0].is_mine()


def test_a_new_machine_goes_on_with_the_sweeps_own_files(machines: Machines) -> None:
    here, there = machines("here"), machines("there")
    with here:
        path = SweepFolder(here.root, "one").path
        path.mkdir(parents=True)
        with driving(path):
            write_json(path / "clock.json", {"seconds": 5})
            (path / "studies").mkdir()
            (path / "studies" / "s.journal").write_text("{}\n")
            (path / "ray").mkdir()
            (path / "ray" / "scratch").write_text("worth nothing")
    with there:
        other = open_sweep(URI, "one").path
        assert json.loads((other / "clock.json").read_text()) == {"seconds": 5}
        assert not (other / "studies").exists(), "only a driver needs the study"
        with driving(other):
            assert (other / "studies" / "s.journal").read_text() == "{}\n"
        assert not (other / "ray").exists()
    assert not [e for e in here.store.list("") if "lease" in e.key], "released"


def test_what_a_killed_driver_could_not_put_is_kept_on_its_machine(machines: Machines) -> None:
    here = machines("here")
    with here:
        path = SweepFolder(here.root, "one").path
        path.mkdir(parents=True)
        with driving(path):
            (path / "events.jsonl").write_text("1\n")
        (path / "events.jsonl").write_text("1\n2\n")  # and killed before the next beat
        with driving(path):
            assert (path / "events.jsonl").read_text() == "1\n2\n"
    with machines("there"):
        assert (open_sweep(URI, "one").path / "events.jsonl").read_text() == "1\n2\n"


def test_a_driver_that_is_asked_to_stop_or_taken_over_is_interrupted(
    machines: Machines, ended: threading.Event
) -> None:
    here, there = machines("here"), machines("there")
    with here:
        path = SweepFolder(here.root, "one").path
        path.mkdir(parents=True)
        with driving(path):
            owner = Lease(there.store, "sweeps/one/lease.json", "there").written()
            assert owner is not None
            request_stop(path, owner)
            assert ended.wait(10)
        ended.clear()
        with driving(path):
            Lease(there.store, "sweeps/one/lease.json", "there").renew()
            assert ended.wait(10)


def test_a_driver_whose_disk_fails_and_whose_files_vanish_keeps_its_lease_and_is_heard(
    machines: Machines, ended: threading.Event
) -> None:
    here, there = machines("here"), machines("there")
    lease = Lease(there.store, "sweeps/one/lease.json", "there")
    with here:
        path = SweepFolder(here.root, "one").path
        (path / ".synced.json").mkdir(parents=True)  # it cannot be written
        with driving(path):
            (path / "events.jsonl").write_text("1\n")
            time.sleep(0.3)
            assert here.faults.calls.count(("put", f"{here.store.root}/sweeps/one/events.jsonl"))
            lock = threading.Thread(
                target=come_and_go, args=(path / "a.rename", ended), daemon=True
            )
            lock.start()
            owner = lease.written()
            assert owner is not None
            before = there.store.changed("sweeps/one/lease.json")
            time.sleep(0.3)
            assert there.store.changed("sweeps/one/lease.json") != before, "renewed"
            request_stop(path, owner)
            assert ended.wait(10)
            lock.join()
        (path / ".synced.json").rmdir()


def come_and_go(path: Path, over: threading.Event) -> None:
    while not over.is_set():
        path.write_text("")
        path.unlink()


def test_a_lease_is_renewed_while_something_takes_long_to_arrive(
    machines: Machines, ended: threading.Event
) -> None:
    here = machines("here")
    key, arrived, begun = "sweeps/one/lease.json", threading.Event(), threading.Event()

    class Slow(Faults):
        def check(self, call: str, path: str) -> None:
            super().check(call, path)
            if path.endswith("events.jsonl"):
                begun.set()
                arrived.wait(10)

    here.store.files.handler.faults = Slow()
    with here:
        path = SweepFolder(here.root, "one").path
        path.mkdir(parents=True)
        with driving(path):
            (path / "events.jsonl").write_text("1\n")
            assert begun.wait(10)
            times = set()
            for _ in range(20):
                times.add(here.store.changed(key))
                time.sleep(0.05)
            arrived.set()
    assert len(times) > 3


@pytest.mark.parametrize("left", [b"{", b"[]", None], ids=str)
def test_a_driver_whose_lease_is_damaged_or_gone_ends_and_another_may_begin(
    machines: Machines, ended: threading.Event, left: bytes | None
) -> None:
    here, there = machines("here"), machines("there")
    key = "sweeps/one/lease.json"
    with here:
        path = SweepFolder(here.root, "one").path
        path.mkdir(parents=True)
        with driving(path):
            if left is None:
                here.store.delete(key)
            else:
                here.store.write(key, left)
            assert ended.wait(10)
            lease = Lease(there.store, key, there.mirror.id)
            lease.take()
        assert lease.is_mine()


@pytest.mark.parametrize("how", ["done", "killed"])
def test_a_driver_that_was_taken_over_leaves_the_new_ones_files_alone(
    machines: Machines, ended: threading.Event, how: str
) -> None:
    here, there = machines("here"), machines("there")
    with here:
        path = SweepFolder(here.root, "one").path
        path.mkdir(parents=True)
        with suppress(KeyboardInterrupt), driving(path):
            Lease(there.store, "sweeps/one/lease.json", "there").renew()
            there.store.write("sweeps/one/events.jsonl", b"the new one's")
            (path / "events.jsonl").write_text("the old one's")
            assert ended.wait(10)
            time.sleep(0.2)
            if how == "killed":
                raise KeyboardInterrupt
    assert there.store.read("sweeps/one/events.jsonl") == b"the new one's"


def heard(where: Machine, seconds: float = 2.0) -> bool:
    """Whether a process that trains there is told in so many seconds that its driver ends."""
    interruption._driver_of.cache_clear()
    with where, Notices(SweepFolder(where.root, "one").path) as asked:
        deadline = time.monotonic() + seconds
        while not asked() and time.monotonic() < deadline:
            time.sleep(0.02)
        return asked()


def test_a_driver_that_ends_is_heard_on_every_machine_and_the_next_one_is_not_taken_for_it(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machines("here"), machines("there")
    monkeypatch.setattr("sweeps.mirrored_sweep.BEAT", 0.05)
    monkeypatch.setattr("sweeps.interruption._ASK_EVERY", 0.05)
    with here:
        path = SweepFolder(here.root, "one").path
        path.mkdir(parents=True)
        with driving(path):
            assert not heard(there, 0.3)
            (path / INTERRUPT).touch()
            assert heard(there)
            assert heard(here)
            with here, making_room(path):
                raise TrainingInterrupted("interrupted at step 3")
            with there, making_room(SweepFolder(there.root, "one").path):
                raise TrainingInterrupted("interrupted at step 3")
    with there:
        other = open_sweep(URI, "one").path
        assert not (other / INTERRUPT).exists(), "of the driver's machine alone"
        other.mkdir(parents=True)
        with driving(other):
            assert not heard(there, 0.3)
            assert not heard(here, 0.3), "what it has left behind there is of no meaning"


def test_training_does_not_wait_for_a_store_that_is_away_to_hear_of_its_driver(
    machines: Machines,
) -> None:
    here = machines("here")
    here.faults.away, here.faults.delay = True, 3.0
    began = time.monotonic()
    with here, Notices(SweepFolder(here.root, "one").path) as asked:
        assert not asked()
    assert time.monotonic() - began < 1


def test_a_driver_ends_at_once_though_its_store_is_away(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machines("here")
    monkeypatch.setattr("sweeps.mirrored_sweep.BEAT", 0.02)
    with here:
        record(here, 1.0)
        path = SweepFolder(here.root, "one").path
        began = time.monotonic()

        def interrupted() -> None:
            with driving(path):
                here.faults.away = True
                time.sleep(0.2)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert time.monotonic() - began < 10


def test_reading_leaves_alone_what_this_machines_driver_is_ahead_with(machines: Machines) -> None:
    here = machines("here")
    with here:
        path = SweepFolder(here.root, "one").path
        path.mkdir(parents=True)
        with driving(path):
            write_json(path / "clock.json", {"seconds": 1})
            here.store.write("sweeps/one/clock.json", b'{"seconds": 0}')
            open_sweep(URI, "one")
            assert json.loads((path / "clock.json").read_text()) == {"seconds": 1}


def test_a_spec_is_not_frozen_beside_a_driver_of_another_machine(machines: Machines) -> None:
    here, there = machines("here"), machines("there")
    spec = parse_spec(SPEC.format(more=""), "spec")
    with here:
        SweepFolder(here.root, "a").freeze(spec)
        Lease(here.store, "sweeps/a/lease.json", here.mirror.id).renew()
    with there:
        folder = SweepFolder(there.root, "a")
        with pytest.raises(LeaseHeldError), changing_spec(folder.path):
            pass
        here.store.delete("sweeps/a/lease.json")
        with pytest.raises(StorageError, match="with another spec"):
            folder.freeze(spec.model_copy(update={"seed": 5}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://AKIA:hidden@bucket/p", "holds credentials"),
        ("s3://bucket/p?secret_key=hidden", "holds credentials"),
        ("s3://bucket/p?session_token=hidden", "holds credentials"),
        ("s3://bucket/p?endpoint_override=me:hidden@host", "holds credentials"),
        ("gs://bucket/p", "gs:// is not supported"),
        ("s3://bucket/p?colour=red", "unknown settings colour"),
        ("s3:///p", "expected storage as s3://BUCKET/PREFIX"),
        ("s3://bucket/../p", "expected storage as s3://BUCKET/PREFIX"),
    ],
)
def test_a_uri_that_cannot_be_one_is_refused_without_repeating_its_secrets(
    text: str, message: str, project_home: Path
) -> None:
    with pytest.raises(StoreUriError, match=message):
        StoreUri.parse(text)
    with pytest.raises(StorageError, match=message) as raised:
        storage_path(text)
    with pytest.raises(SpecError) as refused:
        parse_spec(SPEC.format(more=f", storage: '{text}'"), "spec")
    assert "hidden" not in f"{raised.value} {refused.value}"
    assert not project_home.exists()


def test_mirrors_of_different_places_are_different_folders(project_home: Path) -> None:
    texts = ["s3://b/p", "s3://b/p/q", "s3://b-p", "s3://b/p?endpoint_override=localhost:1"]
    assert len({open_mirror(text) for text in texts}) == len(texts)
    assert open_mirror("s3://b/p/") == open_mirror("s3://b/p")


def test_a_read_that_the_store_refuses_is_told_with_its_name(machines: Machines) -> None:
    here = machines("here")
    here.faults.away = True
    with pytest.raises(StoreAwayError, match=r"s3://bucket/prefix cannot be reached .*cut"):
        here.store.read("x")
    assert len(here.faults.calls) == 3, "tried again, and not for ever"
