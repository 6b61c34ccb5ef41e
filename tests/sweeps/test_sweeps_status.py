"""How far a sweep is, and what a person who watches it is told."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from analysis.stats import bootstrap_mean
from ractd_core.files import FileError, write_json
from sweeps.build import BUILDER
from sweeps.jsonl import append_row
from sweeps.layout import ABOUT, CURVE, EPISODES, SweepFolder, TaskContext
from sweeps.messages import Messages, log_to
from sweeps.pace import trials_per_hour
from sweeps.progress import Progress
from sweeps.requests import stage_requests
from sweeps.spec import load_spec
from sweeps.stage_store import DIVERGED, MANIFEST, StageStore
from sweeps.status import Best, Stages, StatusReader, TaskStatus, building, report_page
from sweeps.status_text import WIDTH, to_json, to_text
from tests.sweeps.command import ractd

pytestmark = pytest.mark.usefixtures("project_home")

Spec = Callable[..., Path]
UMAZE, LARGE = "local/maze2d-umaze-v1", "local/maze2d-large-v1"


@pytest.fixture
def folder(tiny: Spec, tmp_path: Path) -> SweepFolder:
    spec = load_spec(str(tiny(tasks=[UMAZE, LARGE], trials=6)))
    made = SweepFolder(tmp_path / "storage", spec.name)
    made.freeze(spec)
    return made


ENDED = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record(
    folder: SweepFolder,
    key: str,
    status: str,
    score: float,
    dataset: str = UMAZE,
    *,
    reason: str | None = None,
    minute: float = 0.0,
    seconds: float = 60.0,
    number: int = 0,
    episodes: Sequence[float] | None = None,
    **selection: Any,
) -> None:
    """What a trial leaves that ended ``minute`` minutes after noon."""
    where = folder.trials.folder(key)
    append_row(where / CURVE, {"step": 10, "score": score})
    if episodes is not None:
        (where / EPISODES).write_text("\n".join(["score", *map(str, episodes), ""]))
    found = {"rule": "last", "score": score, **selection} if status == "completed" else None
    end = ENDED + timedelta(minutes=minute)
    folder.trials.put(
        key,
        {"dataset": dataset, "status": status, "number": number, "reason": reason}
        | {"selection": found, "seconds": seconds, "workers": 2, "finished": end.isoformat()},
    )


def begin(folder: SweepFolder, dataset: str, sigma: float) -> None:
    """A trial under way, as its process leaves it between two scores."""
    spec = folder.spec()
    name = spec.datasets()[spec.tasks.index(dataset)]
    plan = TaskContext(folder, spec, name, "f" * 64).trial({"student.reward_weight": sigma})
    write_json(plan.folder / ABOUT, {"number": 0, **plan.identity()})


def test_a_sweep_without_records_has_everything_to_come(folder: SweepFolder) -> None:
    status = StatusReader(folder).task(UMAZE)
    assert status == TaskStatus(UMAZE, 6)
    assert status.done == 0
    line = status.line()
    assert line.startswith(f"{UMAZE}: 0/6 trials (0 completed)")
    assert "6 to come" in line
    assert "best" not in line


def test_records_are_counted_by_status_and_task(folder: SweepFolder) -> None:
    for key, status, score in (
        ("a", "completed", -3.0),
        ("b", "completed", 41.25),
        ("c", "pruned", 99.0),
        ("d", "failed", 99.0),
    ):
        record(folder, key, status, score)
    record(folder, "e", "completed", 77.0, LARGE)
    umaze, large = (StatusReader(folder).task(dataset) for dataset in (UMAZE, LARGE))
    assert (umaze.completed, umaze.pruned, umaze.failed, umaze.done) == (2, 1, 1, 4)
    assert umaze.best == Best(41.25, 0)
    assert (large.completed, large.pruned, large.failed, large.best) == (1, 0, 0, Best(77.0, 0))
    line = umaze.line()
    assert "4/6 trials (2 completed, 1 pruned, 1 failed)" in line
    assert "0 under way, 2 to come, best 41.2" in line
    assert "pruned" not in large.line()


def test_a_trial_that_has_begun_is_under_way_until_its_record(tiny: Spec, tmp_path: Path) -> None:
    spec = load_spec(str(tiny(trials=2)))
    folder = SweepFolder(tmp_path / "storage", spec.name)
    folder.freeze(spec)
    begin(folder, UMAZE, 0.1)
    begin(folder, UMAZE, 0.2)
    before = StatusReader(folder).task(UMAZE)
    assert (before.running, before.done) == (2, 0)
    assert "2 under way, 0 to come" in before.line()
    [key, _] = sorted(path.name for path in folder.trials.root.iterdir())
    record(folder, key, "completed", 5.0)
    after = StatusReader(folder).task(UMAZE)
    assert (after.running, after.done) == (1, 1)


def test_a_trial_under_way_belongs_to_one_task(folder: SweepFolder) -> None:
    begin(folder, UMAZE, 0.1)
    assert StatusReader(folder).task(LARGE).running == 0


def test_more_records_than_trials_leave_none_to_come(folder: SweepFolder) -> None:
    for index in range(8):
        record(folder, f"k{index}", "completed", float(index))
    assert "8/6 trials" in StatusReader(folder).task(UMAZE).line()
    assert " 0 to come" in StatusReader(folder).task(UMAZE).line()


def test_stages_in_the_making_say_how_far_they_are(folder: SweepFolder) -> None:
    assert building(folder) == []
    for name, rows in {
        "teacher-01": [(10, 0.5), (20, 0.25)],
        "reward-02": [(5, float("nan"))],
        "student-03": [],
    }.items():
        path = folder.store.building(name) / "metrics.jsonl"
        path.parent.mkdir(parents=True)
        path.touch()
        for step, loss in rows:
            append_row(path, {"step": step, "total": 40, "loss": loss})
        (path.parent / BUILDER).write_text(folder.name)
    assert building(folder) == [], "their builders have gone"
    locks = folder.store.root / ".locks"
    locks.mkdir()
    with FileLock(locks / "teacher-01.lock"), FileLock(locks / "reward-02.lock"):
        assert building(folder) == [
            "reward step 5/40 (loss not finite)",
            "teacher step 20/40 (loss 0.25)",
        ]
        (folder.store.building("reward-02") / BUILDER).write_text("another")
        assert building(folder) == ["teacher step 20/40 (loss 0.25)"]
    assert building(folder) == []


def test_the_report_lies_in_the_sweeps_own_folder(folder: SweepFolder) -> None:
    assert report_page(folder).is_relative_to(folder.path)


def test_a_diverged_trial_is_counted_apart_from_other_failures(folder: SweepFolder) -> None:
    record(folder, "a", "failed", 0.0, reason="diverged: loss is not finite at step 3")
    record(folder, "b", "failed", 0.0, reason="ValueError: something diverged: no")
    status = StatusReader(folder).task(UMAZE)
    assert (status.failed, status.diverged, status.done, status.waiting) == (1, 1, 2, 4)
    assert "1 failed, 1 diverged" in status.line()


def test_the_interval_of_the_best_is_over_its_selection_episodes(folder: SweepFolder) -> None:
    episodes = [10.0, 30.0, 35.0, 90.0]
    record(folder, "a", "completed", 41.25, number=7, episodes=episodes)
    record(folder, "b", "completed", 20.0, episodes=[20.0])
    best = StatusReader(folder).task(UMAZE).best
    expected = bootstrap_mean(episodes)
    assert best == Best(41.25, 7, expected.low, expected.high, 4, "selection episodes")
    assert expected.low is not None
    assert expected.high is not None
    assert expected.low < 41.25 < expected.high


def test_with_several_training_seeds_the_interval_is_over_them(folder: SweepFolder) -> None:
    seeds = [{"last": 1.0, "mean_of_last": value} for value in (40.0, 50.0, 60.0)]
    record(folder, "a", "completed", 50.0, episodes=[50.0, 50.0], seeds=seeds, rule="mean-of-last")
    best = StatusReader(folder).task(UMAZE).best
    # Student's t: 4.30 standard errors on either side.
    half = 4.302653 * 10 / 3**0.5
    assert best is not None
    assert (best.low, best.high) == pytest.approx((50 - half, 50 + half))
    assert (best.score, best.count, best.over) == (50.0, 3, "training seeds")


def test_a_score_that_is_no_mean_of_episodes_has_no_interval(folder: SweepFolder) -> None:
    record(folder, "a", "completed", 80.0, episodes=[10.0, 20.0], rule="best")
    assert StatusReader(folder).task(UMAZE).best == Best(80.0, 0)
    (folder.trials.folder("a") / EPISODES).write_text("score\n1.0\nhalf a nu")
    assert StatusReader(folder).task(UMAZE).best == Best(80.0, 0)


def test_shared_stages_are_built_building_diverged_or_to_come(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = StatusReader(folder)
    assert [task.stages for task in reader.sweep("").tasks] == [None, None], "no data yet"
    spec, pin = folder.spec(), "f" * 64
    write_json(folder.path / "sweep.json", {"datasets": {UMAZE: pin}})
    context = TaskContext(folder, spec, spec.datasets()[0], pin)
    [reward] = stage_requests(context, "reward")
    small, large = stage_requests(context, "teacher")
    [status, other] = reader.sweep("").tasks
    assert (status.stages, other.stages) == (Stages(0, 0, 0, 3), None)
    folder.store.building(reward.name).mkdir(parents=True)
    (folder.store.building(reward.name) / DIVERGED).write_text("at step 3")
    # One is being built; of the other nothing but a checkpoint is left.
    folder.store.building(large.name).mkdir(parents=True)
    monkeypatch.setattr(StageStore, "has_builder", lambda store, name: name == large.name)
    manifest = folder.store.root / small.name / MANIFEST
    write_json(manifest, {"device_seconds": 7200.0, "sweep": folder.name})
    write_json(folder.store.root / "teacher-of-another" / MANIFEST, {"device_seconds": 1.0})
    later = reader.sweep("")
    assert later.tasks[0].stages == Stages(1, 1, 1, 0)
    assert later.device_hours == 2.0, "only of the stages it built"
    assert "1 built, 1 building, 0 to come, 1 diverged" in to_text(later)
    monkeypatch.undo()
    assert reader.sweep("").tasks[0].stages == Stages(1, 0, 1, 1)


def test_files_that_are_being_written_are_as_if_they_were_not_there(folder: SweepFolder) -> None:
    begin(folder, UMAZE, 0.1)
    [trial] = folder.trials.root.iterdir()
    (trial / ABOUT).write_text('{"number": 0, "data')
    (folder.trials.root / "empty").mkdir()
    stage = folder.store.root / "teacher-01"
    stage.mkdir(parents=True)
    (stage / MANIFEST).write_text('{"kind"')
    (folder.store.building("teacher-02")).mkdir(parents=True)
    (folder.store.building("teacher-02") / "metrics.jsonl").write_text('{"step": 1')
    status = StatusReader(folder).sweep("running")
    assert [task.running for task in status.tasks] == [0, 0]
    assert (status.building, status.device_hours) == ((), 0.0)


def test_a_reader_sees_what_is_new_and_reads_a_record_once(folder: SweepFolder) -> None:
    reader = StatusReader(folder)
    record(folder, "a", "completed", 1.0)
    assert reader.task(UMAZE).done == 1
    path = folder.trials.folder("a") / "record.json"
    path.write_text("{torn")
    record(folder, "b", "completed", 2.0)
    assert reader.task(UMAZE).best == Best(2.0, 0)
    with pytest.raises(FileError, match=str(path)):
        StatusReader(folder).task(UMAZE)


# The commands


def test_status_and_list_as_json(folder: SweepFolder) -> None:
    record(folder, "a", "completed", 41.5)
    where = ("--storage", str(folder.storage))
    [listed] = json.loads(ractd("sweep", "list", "--json", *where))
    told = json.loads(ractd("sweep", "status", folder.name, "--json", "--watch", *where))
    for found in (listed, told):
        assert found["name"] == folder.name
        assert [(task["dataset"], task["done"]) for task in found["tasks"]] == [
            (UMAZE, 1),
            (LARGE, 0),
        ]
        assert found["tasks"][0]["best"]["score"] == 41.5
    assert listed["tasks"] == told["tasks"]


def test_a_list_as_json_is_json_also_where_there_is_nothing(tmp_path: Path) -> None:
    assert json.loads(ractd("sweep", "list", "--json", "--storage", str(tmp_path / "none"))) == []


# Pace


def at(minute: float, seconds: float = 60.0) -> tuple[datetime, float]:
    return ENDED + timedelta(minutes=minute), seconds


@pytest.mark.parametrize(
    ("ended", "rate"),
    [
        ([], None),
        ([at(0, 0.0)], None),
        ([at(0, 120.0)], 30.0),
        ([at(m) for m in range(10)], 60.0),
        # Two at once, and one that failed at once.
        ([at(m) for m in range(10)] * 2 + [at(5, 0.0)], 126.0),
        # A night's pause does not count, two minutes between trials do.
        ([at(0), at(1), at(600), at(601)], 60.0),
        ([at(0), at(3), at(6), at(9)], 24.0),
        # Four an hour long ago, then one a minute for a whole hour.
        ([at(-1000 + 15 * m, 900.0) for m in range(8)] + [at(m) for m in range(1, 61)], 60.0),
        # Two hours without a pause, ever faster: only the last counts.
        ([at(-30, 1800.0), at(0, 1800.0)] + [at(m, 360.0) for m in range(6, 61, 6)], 10.0),
    ],
)
def test_the_rate_is_that_of_the_last_hour_of_activity(
    ended: list[tuple[datetime, float]], rate: float | None
) -> None:
    assert trials_per_hour(ended) == (None if rate is None else pytest.approx(rate))
    assert trials_per_hour(ended[::-1]) == trials_per_hour(ended)


def test_what_is_left_follows_from_rate_and_budget(tiny: Spec, tmp_path: Path) -> None:
    found = []
    for name, budget in (
        ("free", {}),
        ("tight", {"device_hours": 0.1}),
        ("spent", {"device_hours": 0.01}),
        ("short", {"hours": 0.05}),
    ):
        spec = load_spec(str(tiny(name=name, trials=8, budget=budget)))
        folder = SweepFolder(tmp_path / "storage", spec.name)
        folder.freeze(spec)
        for minute in (1, 2):
            record(folder, f"k{minute}", "completed", 1.0, minute=minute)
        write_json(folder.path / "clock.json", {"seconds": 72.0})
        found.append(StatusReader(folder).sweep("running"))
    free, tight, spent, short = found
    assert free.trials_per_hour == pytest.approx(60.0)
    # Six trials of two workers for a minute each.
    assert (free.hours_left, free.device_hours_left) == pytest.approx((0.1, 0.2))
    assert free.device_hours == pytest.approx(4 / 60)
    assert tight.device_hours_left == pytest.approx(0.1 - 4 / 60)
    assert tight.hours_left == pytest.approx(0.1 * (0.1 - 4 / 60) / 0.2)
    assert (spent.hours_left, spent.device_hours_left) == (0, 0)
    # 0.02 of 0.05 hours are over, and 0.1 would be needed.
    assert (short.hours_left, short.device_hours_left) == pytest.approx((0.03, 0.06))
    assert (
        "60 trials per hour; about 6 min left; device time: 4 min spent, about 12 min"
        in to_text(free)
    )
    assert "4 min spent of 6 min" in to_text(tight)


def test_the_text_fits_and_json_says_the_same(folder: SweepFolder) -> None:
    for index, ending in enumerate(("completed", "pruned", "failed", "failed")):
        reason = "diverged: so" if index == 3 else "x"
        record(folder, f"{index}", ending, 123.4, reason=reason, episodes=[100.0, 146.8])
    status = StatusReader(folder).sweep("running, process 123")
    text = to_text(status)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "best: 123.4 [100.0, 146.8], trial 0 (95 % over 2 selection episodes)" in text
    found = json.loads(json.dumps(to_json(status)))
    assert found["tasks"][0]["best"]["over"] == "selection episodes"
    assert [found["tasks"][0][key] for key in ("done", "waiting", "diverged")] == [4, 2, 1]
    assert found["device_hours"] == pytest.approx(8 / 60)


# Events and messages


def events(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_what_is_said_is_printed_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.jsonl"
    Progress(path).say("one: ä")
    Progress(path).say("two")
    assert events(path) == ["one: ä", "two"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition("] ")[2] for line in printed] == ["one: ä", "two"]


def test_an_event_after_a_torn_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Progress(path).say("one")
    with path.open("a") as file:
        file.write('{"time": "2026')
    Progress(path).say("two")
    Progress(path).say("three")
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    assert [json.loads(lines[place])["text"] for place in (0, 2, 3)] == ["one", "two", "three"]


def test_an_event_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    progress = Progress(path)
    progress.event("row", state="completed", dataset=UMAZE, key="k", method="ctd", score=1.5)
    progress.event("sweep", "begun", state="started")
    progress.say("hm")
    row, sweep, message = (json.loads(line) for line in path.read_text().splitlines())
    assert datetime.fromisoformat(row.pop("time")).tzinfo is not None
    assert row == {"kind": "row", "state": "completed", "dataset": UMAZE, "key": "k"} | {
        "method": "ctd",
        "score": 1.5,
    }
    assert (sweep["kind"], sweep["text"], sweep["state"]) == ("sweep", "begun", "started")
    assert (message["kind"], message["text"]) == ("message", "hm")
    assert "row" not in capsys.readouterr().out


def test_an_event_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match="'stage': name unknown or missing"):
        progress.event("stage", state="built")
    with pytest.raises(ValueError, match="speed"):
        progress.event("sweep", state="started", speed=3)
    with pytest.raises(ValueError, match="not JSON compliant"):
        progress.event("stage", state="built", name="x", loss=float("nan"))
    assert not (tmp_path / "events.jsonl").exists()


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "succeeded"), (KeyboardInterrupt, "interrupted"), (OSError, "failed")],
)
def test_a_session_says_how_it_ended(
    tmp_path: Path, error: type[BaseException] | None, state: str
) -> None:
    path = tmp_path / "events.jsonl"
    with (
        contextlib.nullcontext() if error is None else pytest.raises(error),
        Progress(path).session(),
    ):
        if error is not None:
            raise error
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(event["kind"], event["state"]) for event in found] == [
        ("sweep", "started"),
        ("sweep", state),
    ]


def test_the_heartbeat_says_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    progress = Progress(path)
    beats: list[list[str]] = [["a"], ["a"], ["a", "b"], ["b"], ["a"]]
    waiting = iter(beats)

    def line() -> list[str]:
        return next(waiting, beats[-1])

    with progress.every(0.01, line):
        deadline = time.monotonic() + 10
        while len(events(path) if path.exists() else []) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert events(path) == ["a", "b", "a"]


def test_the_heartbeat_ends_with_its_block_also_after_an_error(tmp_path: Path) -> None:
    progress = Progress(tmp_path / "events.jsonl")
    beats: list[float] = []

    def line() -> list[str]:
        beats.append(time.monotonic())
        return []

    def fail_after_a_beat() -> None:
        with progress.every(0.01, line):
            deadline = time.monotonic() + 10
            while not beats and time.monotonic() < deadline:
                time.sleep(0.01)
            raise RuntimeError("over")

    with pytest.raises(RuntimeError, match="over"):
        fail_after_a_beat()
    count = len(beats)
    assert count
    time.sleep(0.05)
    assert len(beats) == count


@pytest.fixture
def handlers() -> Iterator[None]:
    """The loggers as they were before, whatever a test hangs on them."""
    loggers = [logging.getLogger(name) for name in ("ractd_core", "sweeps")]
    before = [list(logger.handlers) for logger in loggers]
    yield
    for logger, old in zip(loggers, before, strict=True):
        for handler in [handler for handler in logger.handlers if handler not in old]:
            logger.removeHandler(handler)
            handler.close()


@pytest.mark.usefixtures("handlers")
def test_warnings_of_a_process_reach_the_driver_once(tmp_path: Path) -> None:
    folder = tmp_path / "messages"
    messages = Messages(folder)
    assert list(messages.new()) == []
    log_to(folder)
    log_to(folder)
    logging.getLogger("sweeps.stage_store").warning("stage %s is damaged", "x")
    logging.getLogger("ractd_core.data").error("äh")
    logging.getLogger("sweeps").info("not worth a line")
    logging.getLogger("somebody.else").warning("none of ours")
    assert sorted(messages.new()) == ["stage x is damaged", "äh"]
    assert list(messages.new()) == []
    logging.getLogger("sweeps").warning("again")
    assert list(messages.new()) == ["again"]
    assert list(Messages(folder).new()) == [], "an earlier driver's messages are old"


@pytest.mark.usefixtures("handlers")
def test_a_process_that_is_used_again_writes_to_the_new_sweep_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    log_to(one)
    log_to(two)
    logging.getLogger("sweeps").warning("for two")
    assert list(one.glob("*.log")) == []
    assert [path.read_text() for path in two.glob("*.log")] == ["for two\n"]
