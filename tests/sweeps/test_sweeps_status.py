"""How far a sweep is, and what a person who watches it is told."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ractd_core.files import write_json
from sweeps.jsonl import append_row
from sweeps.layout import ABOUT, CURVE, SweepFolder, TaskContext
from sweeps.messages import Messages, log_to
from sweeps.progress import Progress
from sweeps.spec import load_spec
from sweeps.status import TaskStatus, building, report_page, task_status

pytestmark = pytest.mark.usefixtures("project_home")

Spec = Callable[..., Path]
UMAZE, LARGE = "local/maze2d-umaze-v1", "local/maze2d-large-v1"


@pytest.fixture
def folder(tiny: Spec, tmp_path: Path) -> SweepFolder:
    spec = load_spec(str(tiny(tasks=[UMAZE, LARGE], trials=6)))
    made = SweepFolder(tmp_path / "storage", spec.name)
    made.freeze(spec)
    return made


def record(folder: SweepFolder, key: str, status: str, score: float, dataset: str = UMAZE) -> None:
    selection = {"score": score} if status == "completed" else None
    append_row(folder.trials.folder(key) / CURVE, {"step": 10, "score": score})
    folder.trials.put(key, {"dataset": dataset, "status": status, "selection": selection})


def begin(folder: SweepFolder, dataset: str, sigma: float) -> None:
    """A trial under way, as its process leaves it between two scores."""
    spec = folder.spec()
    name = spec.datasets()[spec.tasks.index(dataset)]
    plan = TaskContext(folder, spec, name, "f" * 64).trial({"student.reward_weight": sigma})
    write_json(plan.folder / ABOUT, {"number": 0, **plan.identity()})


def test_a_sweep_without_records_has_everything_to_come(folder: SweepFolder) -> None:
    status = task_status(folder, UMAZE)
    assert status == TaskStatus(UMAZE, 6, 0, 0, 0, 0, None)
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
    umaze, large = (task_status(folder, dataset) for dataset in (UMAZE, LARGE))
    assert (umaze.completed, umaze.pruned, umaze.failed, umaze.done) == (2, 1, 1, 4)
    assert umaze.best == 41.25
    assert (large.completed, large.pruned, large.failed, large.best) == (1, 0, 0, 77.0)
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
    before = task_status(folder, UMAZE)
    assert (before.running, before.done) == (2, 0)
    assert "2 under way, 0 to come" in before.line()
    [key, _] = sorted(path.name for path in folder.trials.root.iterdir())
    record(folder, key, "completed", 5.0)
    after = task_status(folder, UMAZE)
    assert (after.running, after.done) == (1, 1)


def test_a_trial_under_way_belongs_to_one_task(folder: SweepFolder) -> None:
    begin(folder, UMAZE, 0.1)
    assert task_status(folder, LARGE).running == 0


def test_more_records_than_trials_leave_none_to_come(folder: SweepFolder) -> None:
    for index in range(8):
        record(folder, f"k{index}", "completed", float(index))
    assert "8/6 trials" in task_status(folder, UMAZE).line()
    assert " 0 to come" in task_status(folder, UMAZE).line()


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
    assert building(folder) == [
        "reward step 5/40 (loss not finite)",
        "teacher step 20/40 (loss 0.25)",
    ]


def test_the_report_lies_in_the_sweeps_own_folder(folder: SweepFolder) -> None:
    assert report_page(folder).is_relative_to(folder.path)


# Events and messages


def events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


def test_what_is_said_is_printed_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.jsonl"
    Progress(path).say("one: ä")
    Progress(path).say("two")
    assert events(path) == ["one: ä", "two"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition("] ")[2] for line in printed] == ["one: ä", "two"]


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
