"""All tasks' searches as one, under a budget."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from ractd_core.files import write_json, write_text
from ractd_core.tasks import parse_dataset_name
from sweeps import budget as budgets
from sweeps.budget import Budget, device_seconds
from sweeps.layout import TaskContext, plan_of
from sweeps.ledger import Record
from sweeps.search import StudySearch
from sweeps.stage_store import CHECKPOINT
from sweeps.sweep_search import NO_ROOM, SweepSearch
from tests.sweeps.study import Start, keys, open_search, run, suggest, write_record

pytestmark = pytest.mark.usefixtures("project_home")

UMAZE, MEDIUM = "local/maze2d-umaze-v1", "local/maze2d-medium-v1"


def both(start: Start, **changes: Any) -> tuple[SweepSearch, list[StudySearch], list[str]]:
    """A sweep of two mazes, and what it says."""
    horizons = {"horizon": {"choices": [256, 320]}, "sigma": {"low": 0.0, "high": 1.0}}
    first = start(tasks=[UMAZE, MEDIUM], search=horizons, **changes)
    second = TaskContext(first.folder, first.spec, parse_dataset_name(MEDIUM), "a" * 64)
    searches = [open_search(context) for context in (first, second)]
    said: list[str] = []
    return SweepSearch(searches, Budget(first.folder), said.append), searches, said


def end(search: SweepSearch, config: dict[str, Any], name: str, score: float = 1.0) -> None:
    write_record(config, "completed", score)
    search.on_trial_complete(name)


def test_tasks_advance_side_by_side_to_the_last_trial_of_each(start: Start) -> None:
    search, searches, _ = both(start, trials=3)
    running: dict[str, dict[str, Any]] = {}
    order: list[str] = []
    for index in range(20):
        while len(running) < 2:
            config = search.suggest(f"{index}/{len(order)}")
            if not isinstance(config, dict):
                # Tune may ask again as long as something runs: it could break.
                assert config == (None if running else Searcher.FINISHED)
                break
            running[f"{index}/{len(order)}"] = config
            order.append(config["context"]["dataset"])
        if not running:
            break
        name = next(iter(running))
        end(search, running.pop(name), name)
    assert Counter(order) == {UMAZE: 3, MEDIUM: 3}
    assert set(order[:2]) == set(order[2:4]) == {UMAZE, MEDIUM}
    assert [each.remaining for each in searches] == [0, 0]
    assert search.suggest("one more") == Searcher.FINISHED


def test_results_reach_the_search_that_asked(start: Start) -> None:
    search, searches, _ = both(start)
    for name in "ab":
        config = search.suggest(name)
        assert isinstance(config, dict)
        search.on_trial_result(name, {"step": 10, "score": 50.0 if name == "a" else 7.0})
        end(search, config, name, 50.0 if name == "a" else 7.0)
    told = [[t.intermediate_values for t in each.study.get_trials()] for each in searches]
    assert told == [[{10: 50.0}], [{10: 7.0}]]
    assert [each.study.best_value for each in searches] == [50.0, 7.0]


def test_spent_device_hours_end_the_asking_and_what_runs_may_end(start: Start) -> None:
    # A trial of the tests takes 1.5 s on one worker.
    search, searches, said = both(start, budget={"device_hours": 2.9 / 3600})
    configs = {name: search.suggest(name) for name in "abc"}
    assert all(isinstance(config, dict) for config in configs.values())
    announced: list[Record] = []
    for name, config in configs.items():
        assert isinstance(config, dict)
        searches[0]._announce = searches[1]._announce = announced.append
        write_record(config, "completed", 1.0)
        search.on_trial_complete(name)
    for record in announced:
        search._budget.add(record)
    assert search.suggest("more") == search.suggest("again") == Searcher.FINISHED
    [line] = said
    assert line.startswith("budget.device_hours 0.000805556 are spent: no trial begins")


def test_what_was_spent_before_counts(start: Start) -> None:
    context = start(budget={"device_hours": 2.9 / 3600, "hours": 1})
    run(open_search(context), 1)
    assert Budget(context.folder).spent() is None
    budget = Budget(context.folder)
    manifest = {"sweep": "another", "seconds": 1.5, "workers": 1}
    write_json(context.folder.store.root / "teacher-x" / "manifest.json", manifest)
    assert budget.spent() is None
    write_json(
        context.folder.store.root / "teacher-y" / "manifest.json", {**manifest, "sweep": "one"}
    )
    assert "device_hours" in (budget.spent() or "")
    assert "device_hours" in (Budget(context.folder).spent() or "")


def test_a_damaged_manifest_of_anybody_stops_no_driver(start: Start) -> None:
    context = start(budget={"device_hours": 1 / 3600})
    root = context.folder.store.root
    whole = {"sweep": "one", "seconds": 2, "workers": 1}
    write_text(root / "teacher-x" / "manifest.json", json.dumps(whole)[:-5])
    budget = Budget(context.folder)
    (root / "teacher-y").mkdir()
    (root / "teacher-y" / "manifest.json").symlink_to(root / "set aside")
    assert budget.spent() is None
    write_json(root / "teacher-x" / "manifest.json", whole)
    assert "device_hours" in (budget.spent() or "")


def test_hours_go_on_counting_in_the_next_driver(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = start(budget={"hours": 1})
    now = [100.0]
    monkeypatch.setattr(budgets, "time", SimpleNamespace(monotonic=lambda: now[0]))
    first = Budget(context.folder)
    now[0] += 3000
    first.tick()
    assert first.spent() is None
    second = Budget(context.folder)
    assert second.spent() is None
    now[0] += 601
    assert second.spent() == "budget.hours 1 are spent"


@pytest.mark.parametrize("torn", ["", "{", "[]"])
def test_a_torn_clock_is_no_reason_to_stop(start: Start, torn: str) -> None:
    context = start(budget={"hours": 1})
    (context.folder.path / "clock.json").write_text(torn)
    assert Budget(context.folder).spent() is None


def test_device_seconds_count_every_worker() -> None:
    assert device_seconds({"seconds": 2.5, "workers": 4}) == 10


def full(free: float) -> Callable[[Path], Any]:
    return lambda path: SimpleNamespace(free=free)


def test_nothing_begins_on_a_full_storage_and_the_sweep_goes_on_when_it_is_not(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, _, said = both(start, budget={"free_gb": 2})
    monkeypatch.setattr(shutil, "disk_usage", full(1.5e9))
    assert search.suggest("a") is None
    assert search.suggest("a") is None
    [line] = said
    assert "1.50 GB are free" in line
    assert "budget.free_gb 2" in line
    monkeypatch.setattr(shutil, "disk_usage", full(2.5e9))
    assert isinstance(search.suggest("a"), dict)
    monkeypatch.setattr(shutil, "disk_usage", full(1.5e9))
    assert search.suggest("b") is None
    assert len(said) == 2, "said again when it happens again"


def test_a_trial_that_broke_on_a_full_storage_is_tried_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = start(trials=1)
    search = SweepSearch([open_search(context)], Budget(context.folder), print)
    config = search.suggest("a")
    assert isinstance(config, dict)
    monkeypatch.setattr(shutil, "disk_usage", full(0.0))
    search.on_trial_complete("a", error=True)
    assert list(context.folder.trials) == []
    assert search.suggest("b") is None
    monkeypatch.setattr(shutil, "disk_usage", full(5e9))
    assert search.suggest("c") == config
    # Where there is room, it is the trial's own failure.
    search.on_trial_complete("c", error=True)
    [record] = context.folder.trials
    assert (record["status"], record["reason"]) == ("failed", "its process ended without a word")
    assert search.suggest("d") == Searcher.FINISHED


def test_a_trial_whose_processes_go_is_tried_again_as_long_as_it_gets_on(start: Start) -> None:
    context = start(trials=1)
    search = SweepSearch([open_search(context)], Budget(context.folder), print)
    config = search.suggest("0")
    assert isinstance(config, dict)
    checkpoint = plan_of(config).student_folder(0) / CHECKPOINT
    for attempt in range(1, 6):
        write_text(checkpoint, f"of attempt {attempt}")
        search.on_trial_complete(str(attempt - 1), error=True)
        assert list(context.folder.trials) == []
        assert search.suggest(str(attempt)) == config
    search.on_trial_complete("5", error=True)
    [record] = context.folder.trials
    assert (record["status"], record["reason"]) == ("failed", "its process ended without a word")


def test_nothing_begins_once_the_driver_is_ending(start: Start) -> None:
    context, ending = start(trials=2), [False]
    searches = [open_search(context)]
    search = SweepSearch(searches, Budget(context.folder), print, lambda: ending[0])
    assert isinstance(search.suggest("a"), dict)
    ending[0] = True
    assert search.suggest("b") == Searcher.FINISHED
    # Interrupted, it ended without an error and without a record.
    search.on_trial_complete("a")
    assert list(context.folder.trials) == []


def test_only_the_top_students_are_kept(start: Start) -> None:
    context = start(budget={"keep": "top"}, selection={"top": 2})
    search = open_search(context)
    scores = [3.0, 1.0, 2.0, 5.0, 2.0]
    configs = [suggest(search, str(index)) for index in range(5)]
    for index, (config, score) in enumerate(zip(configs, scores, strict=True)):
        model = plan_of(config).folder / "student-0" / "model.safetensors"
        model.parent.mkdir(parents=True)
        write_json(model, {"weights": index})
        write_record(config, "completed", score)
        search.on_trial_complete(str(index))

    def kept() -> list[str]:
        models = context.folder.trials.root.rglob("*.safetensors")
        return sorted(model.parents[1].name for model in models)

    best = sorted(keys([configs[3], configs[0]]))
    assert kept() == best
    # The next driver knows which those are.
    open_search(context)
    assert kept() == best
    assert len(list(context.folder.trials)) == 5


def test_all_students_are_kept_unless_asked(start: Start) -> None:
    context = start(selection={"top": 1})
    search = open_search(context)
    for index in range(3):
        config = suggest(search, str(index))
        plan = plan_of(config)
        write_json(plan.folder / "student-0" / "model.safetensors", {})
        write_record(config, "completed", float(index))
        search.on_trial_complete(str(index))
    assert len(list(context.folder.trials.root.rglob("*.safetensors"))) == 3


def test_a_trial_that_could_not_write_is_tried_again_where_free_space_says_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a quota."""
    context = start(trials=1)
    said: list[str] = []
    search = SweepSearch([open_search(context)], Budget(context.folder), said.append)
    config = search.suggest("a")
    search.on_trial_result("a", {NO_ROOM: True})
    search.on_trial_complete("a", {NO_ROOM: True})
    assert list(context.folder.trials) == []
    assert search.suggest("b") is None
    [line] = said
    assert "is full, by its size or by a quota" in line
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
    assert search.suggest("c") == config
