"""Trials that failed are run again when asked, and the study hears of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from ractd_core.files import read_json, write_json, write_text
from sweeps.budget import Budget
from sweeps.layout import ABOUT, CURVE, EPISODES, SweepFolder, TaskContext, plan_of
from sweeps.memory import RETRY
from sweeps.retry import retry_failed
from sweeps.spec import load_spec
from sweeps.stage_store import MODEL
from sweeps.sweep_search import TROUBLE, SweepSearch
from sweeps.trial import close_trial
from tests.sweeps.command import ractd
from tests.sweeps.study import (
    Start,
    agreed,
    keys,
    open_search,
    run,
    score_at,
    suggest,
    trials_in,
)

pytestmark = pytest.mark.usefixtures("project_home")

REASONS = ["OSError: [Errno 5] Input/output error", "diverged: loss", "timed out after 3 h"]


def fail(context: TaskContext, reasons: list[str] = REASONS) -> list[dict[str, Any]]:
    """One trial for each of ``reasons``, after one that completes."""
    search = open_search(context)
    run(search, 1)
    configs = [suggest(search, reason) for reason in reasons]
    for config, reason in zip(configs, reasons, strict=True):
        plan = plan_of(config)
        score_at(config, 10, 1.0)
        write_json(plan.folder / ABOUT, {"number": config["number"], **plan.identity()})
        write_json(plan.folder / RETRY, {"micro_batch": 8, "reason": "out of memory: "})
        write_text(plan.student_folder(0) / MODEL, "weights")
        close_trial(plan, config["number"], "failed", reason)
        search.on_trial_complete(reason)
    return configs


def test_what_broke_a_trial_is_in_its_record(start: Start) -> None:
    context = start(trials=1)
    search = SweepSearch([open_search(context)], Budget(context.folder), print)
    assert isinstance(search.suggest("a"), dict)
    search.on_trial_result("a", {TROUBLE: REASONS[0]})
    search.on_trial_complete("a", error=True)
    [record] = context.folder.trials
    assert (record["status"], record["reason"]) == ("failed", REASONS[0])


def test_what_failed_for_its_surroundings_is_run_again_under_its_number(start: Start) -> None:
    context = start(trials=4)
    configs = fail(context)
    search = open_search(context)
    assert (search.remaining, search.suggest("more")) == (0, None)
    assert retry_failed(context.folder) == [configs[0]["number"]]

    folder = plan_of(configs[0]).folder
    assert {path.name for path in folder.iterdir()} == {ABOUT, "failed-1.json"}
    assert read_json(folder / "failed-1.json")["reason"] == REASONS[0]
    search = open_search(context)
    assert search.remaining == 1
    # Killed before it began, and asked for again by the next driver.
    assert open_search(context).remaining == 1
    assert suggest(search, "again") == configs[0]
    score_at(configs[0], 30, 7.0)
    again = open_search(context)
    assert suggest(again, "once more") == configs[0]
    plan = plan_of(configs[0])
    header = "training_seed,seed,return,score,length"
    write_text(plan.folder / EPISODES, f"{header}\n0,0,7.0,7.0,300\n0,1,7.0,7.0,300\n")
    close_trial(plan, configs[0]["number"], "completed")
    again.on_trial_complete("once more")
    last = open_search(context)
    for each in (again, last):
        agreed(each)
        assert each.remaining == 0
    states = [state for _, state in trials_in(last)]
    assert states.count("COMPLETE") == 2
    assert "RUNNING" not in states
    assert "WAITING" not in states
    assert retry_failed(context.folder) == []


def test_a_trial_can_fail_and_be_run_again_more_than_once(start: Start) -> None:
    context = start(trials=2)
    [config] = fail(context, REASONS[:1])
    for attempt in (1, 2):
        assert retry_failed(context.folder) == [config["number"]]
        assert (plan_of(config).folder / f"failed-{attempt}.json").exists()
        search = open_search(context)
        assert keys([suggest(search, "a")]) == keys([config])
        close_trial(plan_of(config), config["number"], "failed", "again")
        search.on_trial_complete("a")
        assert open_search(context).remaining == 0


def test_killed_before_it_is_taken_back_a_trial_has_failed_as_before(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = start(trials=2)
    [config] = fail(context, REASONS[:1])

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as inner:
        inner.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            retry_failed(context.folder)
    assert not (plan_of(config).folder / CURVE).exists()
    assert open_search(context).remaining == 0
    assert retry_failed(context.folder) == [config["number"]]


def test_a_running_sweeps_records_stay(
    start: Start, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    context = start(trials=2)
    fail(context, REASONS[:1])
    before = list(context.folder.trials)
    with FileLock(context.folder.path / "driver.lock"), pytest.raises(Timeout):
        retry_failed(context.folder)
    assert list(context.folder.trials) == before

    folder = SweepFolder(tmp_path / "storage", "tiny")
    folder.freeze(load_spec(str(tiny())))
    storage = ("--storage", str(folder.storage))
    with FileLock(folder.path / "driver.lock"):
        said = ractd("sweep", "resume", "tiny", "--retry-failed", *storage, code=2)
    assert "sweep 'tiny' is running" in said
