"""The study over time: pruning, killed drivers, and agreement with the ledger."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray import cloudpickle

from sweeps.budget import Budget
from sweeps.layout import STOP, StorageError, plan_of
from sweeps.search_space import canonical_path
from sweeps.studies import mend_journal, open_database
from sweeps.sweep_search import QuietProgress, SweepSearch
from tests.sweeps.specs import problems
from tests.sweeps.study import (
    Start,
    agreed,
    journal,
    keys,
    open_search,
    pruning,
    run,
    score_at,
    suggest,
    tell,
    trials_in,
    write_record,
)

pytestmark = pytest.mark.usefixtures("project_home")


# Pruning


def test_a_trial_below_the_median_is_asked_to_stop(start: Start) -> None:
    search = pruning(start)
    config = suggest(search, "bad")
    assert tell(search, config, "bad", 10, 1.0)
    assert "median" in (plan_of(config).folder / STOP).read_text()
    assert search.context.folder.trials.get(plan_of(config).key) is None, "the trial writes it"
    write_record(config, "pruned")
    search.on_trial_complete("bad")
    assert trials_in(search)[-1] == (2, "PRUNED")
    agreed(search)


def test_a_trial_above_the_median_goes_on(start: Start) -> None:
    search = pruning(start)
    config = suggest(search, "better")
    assert not tell(search, config, "better", 10, 90.0)
    assert not tell(search, config, "better", 20, 90.0)


def test_only_the_trial_that_is_behind_is_asked_to_stop(start: Start) -> None:
    search = pruning(start)
    configs = {name: suggest(search, name) for name in ("better", "worse")}
    assert not tell(search, configs["better"], "better", 10, 90.0)
    assert tell(search, configs["worse"], "worse", 10, 1.0)
    assert not tell(search, configs["better"], "better", 20, 90.0)


def test_a_trial_at_its_last_step_is_not_asked_to_stop(start: Start) -> None:
    search = pruning(start)
    config = suggest(search, "bad")
    assert plan_of(config).recipe.student.optim.steps == 30
    assert not tell(search, config, "bad", 30, 1.0)


@pytest.mark.parametrize(
    "pruner",
    [
        {"kind": "none"},
        {"kind": "median", "startup_trials": 3, "warmup_steps": 0},
        {"kind": "median", "startup_trials": 2, "warmup_steps": 15},
        # Three fifths of 30 steps.
        {"kind": "median", "startup_trials": 2},
    ],
)
def test_the_spec_says_when_pruning_begins(start: Start, pruner: dict[str, Any]) -> None:
    search = pruning(start, pruner=pruner)
    config = suggest(search, "bad")
    assert not tell(search, config, "bad", 10, 1.0)
    assert tell(search, config, "bad", 20, 1.0) == (pruner.get("startup_trials") == 2)


def test_the_pruner_remembers_across_drivers(start: Start) -> None:
    search = open_search(pruning(start).context)
    assert tell(search, suggest(search, "bad"), "bad", 10, 1.0)


def test_the_pruner_remembers_after_the_study_is_lost(start: Start) -> None:
    """The curves of the records are as good."""
    context = pruning(start).context
    journal(context).unlink()
    search = open_search(context)
    assert tell(search, suggest(search, "bad"), "bad", 10, 1.0)


def test_a_continued_trial_may_report_its_steps_again(start: Start) -> None:
    context = start()
    search = open_search(context)
    tell(search, suggest(search, "a"), "a", 10, 5.0)
    again = open_search(context)
    config = suggest(again, "a")
    for step, score in ((10, 5.0), (20, 6.0)):
        assert not tell(again, config, "a", step, score)
    [trial] = again.study.get_trials()
    assert trial.intermediate_values == {10: 5.0, 20: 6.0}


def test_tunes_printer_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = QuietProgress()
    quiet.on_trial_result(1, [], SimpleNamespace(), {})
    quiet.on_trial_complete(1, [], SimpleNamespace())
    quiet.on_trial_error(1, [], SimpleNamespace())
    assert capsys.readouterr() == ("", "")


# Killed drivers


def test_unfinished_trials_come_first_after_a_kill(start: Start) -> None:
    context = start()
    search = open_search(context)
    run(search, 2)
    begun = [suggest(search, name) for name in ("a", "b")]
    before = trials_in(search)
    del search

    again = open_search(context)
    assert again.remaining == 4
    taken_up = [suggest(again, name) for name in ("c", "d")]
    assert taken_up == begun
    assert trials_in(again) == before
    new = suggest(again, "e")
    assert new["number"] == len(before)
    assert plan_of(new).key not in keys(begun)
    for name, config in zip("cd", taken_up, strict=True):
        write_record(config, "completed", 3.0)
        again.on_trial_complete(name)
    agreed(again)


def test_killed_again_and_again_the_trials_stay_the_same(start: Start) -> None:
    context = start()
    first = [suggest(search, str(i)) for search in [open_search(context)] for i in range(3)]
    for _ in range(3):
        search = open_search(context)
        assert [suggest(search, str(index)) for index in range(3)] == first
    assert trials_in(search) == [(0, "RUNNING"), (1, "RUNNING"), (2, "RUNNING")]


def test_a_record_that_the_study_missed_is_told_to_it(start: Start) -> None:
    context = start()
    config = suggest(open_search(context), "a")
    write_record(config, "completed", 8.0)
    again = open_search(context)
    assert trials_in(again) == [(config["number"], "COMPLETE")]
    agreed(again)
    assert keys([suggest(again, "b")]) != keys([config])


def test_a_study_ahead_of_the_ledger_does_not_count(start: Start) -> None:
    """A record was removed by hand: its trial is to be run again, and nothing is lost."""
    context = start(trials=2, search={"horizon": {"choices": [128, 160]}})
    done = run(open_search(context), 2)
    (plan_of(done[0]).folder / "record.json").unlink()
    again = open_search(context)
    assert again.remaining == 1
    config = suggest(again, "a")
    assert config["values"] == done[0]["values"]
    write_record(config, "completed", 9.0)
    again.on_trial_complete("a")
    assert again.remaining == 0
    assert len(list(context.folder.trials)) == 2


@pytest.mark.parametrize("lost", ["file", "content"])
def test_a_lost_study_is_rebuilt_from_the_ledger(start: Start, lost: str) -> None:
    context = start(first_trials=["default"], trials=8)
    search = open_search(context)
    done = run(search, 3)
    for index, status in enumerate(("pruned", "failed")):
        config = suggest(search, status)
        score_at(config, 10, float(index))
        write_record(config, status, float(index))
        search.on_trial_complete(status)
        done.append(config)
    if lost == "file":
        journal(context).unlink()
    else:
        journal(context).write_bytes(b"")

    again = open_search(context)
    assert again.remaining == 3
    agreed(again)
    rebuilt = [t for t in again.study.get_trials() if t.state != TrialState.WAITING]
    assert len(rebuilt) == 5
    values = [
        {canonical_path(name): value for name, value in trial.params.items()} for trial in rebuilt
    ]
    assert sorted(context.trial(each).key for each in values) == sorted(keys(done))
    assert all(30 in trial.intermediate_values for trial in rebuilt)
    more = run(again, 3, first=10)
    assert not set(keys(more)) & set(keys(done))
    assert again.remaining == 0
    agreed(again)


def test_a_lost_study_over_words_for_numbers_is_rebuilt(start: Start) -> None:
    """``1e-4`` is a word to YAML; the record holds the number that was trained with."""
    context = start(search={"sigma": {"choices": ["1e-4", "1e-3"]}})
    run(open_search(context), 1)
    journal(context).unlink()
    again = open_search(context)
    assert again.remaining == 1
    agreed(again)


def test_a_torn_journal_is_mended_with_a_warning(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    context = start()
    search = open_search(context)
    run(search, 2)
    begun = suggest(search, "begun")
    before = trials_in(search)
    whole = journal(context).read_bytes()
    with journal(context).open("ab") as file:
        file.write(whole.splitlines(keepends=True)[-1][:-7])
    with caplog.at_level(logging.WARNING, "sweeps"):
        again = open_search(context)
    assert any(
        "torn" in message and str(journal(context)) in message for message in caplog.messages
    )
    assert journal(context).read_bytes().startswith(whole)
    assert trials_in(again) == before
    agreed(again)
    assert suggest(again, "a") == begun


def test_a_journal_cut_anywhere_ends_in_agreement_with_the_ledger(start: Start) -> None:
    context = start(trials=6, first_trials=["default"])
    search = open_search(context)
    done = run(search, 2)
    suggest(search, "begun")
    whole = journal(context).read_bytes()
    for cut in [0, 1, *range(40, len(whole), max(1, len(whole) // 12)), len(whole) - 1]:
        journal(context).write_bytes(whole[:cut])
        again = open_search(context)
        agreed(again)
        assert again.remaining == 4
        assert plan_of(suggest(again, "a")).key not in keys(done)


def test_a_lock_of_a_killed_driver_does_not_block(start: Start) -> None:
    context = start()
    run(open_search(context), 1)
    lock = Path(f"{journal(context)}.lock")
    lock.symlink_to(journal(context))
    mend_journal(journal(context))
    assert not lock.is_symlink()
    again = open_search(context)
    run(again, 1, first=1)
    assert again.remaining == 4


@pytest.mark.parametrize(
    "tail", [b"", b"{", b'{"a": 1}', b"\xff\xfe", b"\n", b'{"a"\n{"b": 2}\n', b"\x00" * 50]
)
def test_mending_keeps_every_whole_line_and_nothing_after_it(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "study.journal"
    whole = b'{"op": 1}\n{"op": 2}\n'
    path.write_bytes(whole + tail)
    mend_journal(path)
    assert path.read_bytes() == whole
    mend_journal(path)
    assert path.read_bytes() == whole


def test_mending_what_is_not_there_makes_nothing(tmp_path: Path) -> None:
    mend_journal(tmp_path / "study.journal")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_tune_can_pickle_the_search(start: Start, dumps: Callable[[Any], bytes]) -> None:
    context = start()
    search = SweepSearch([open_search(context)], Budget(context.folder), print)
    assert search.suggest("a") is not None
    content = dumps(search)
    assert isinstance(pickle.loads(content), SweepSearch)
    # And save it, which leaves nothing behind.
    before = sorted(context.folder.path.rglob("*"))
    search.save(str(context.folder.path / "snapshot"))
    assert sorted(context.folder.path.rglob("*")) == before


# Where a study lies


def test_a_study_in_a_database_is_gone_on_with_and_read_beside(
    start: Start, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    context = start(study=url)
    done = run(open_search(context), 2)
    reader = optuna.load_study(study_name=None, storage=url)
    assert [trial.state.name for trial in reader.trials] == ["COMPLETE", "COMPLETE"]
    again = open_search(context)
    agreed(again)
    assert keys([suggest(again, "next")])[0] not in keys(done)
    assert not (context.folder.path / "studies").exists()


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"study sqlite:///.*/absent/x.db: cannot be opened"):
        open_database(f"sqlite:///{tmp_path}/absent/x.db")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://host/db", "neither journal nor"),
        ("study.db", "neither journal nor"),
        ("postgresql://me:secret@host/db", "the URL holds a password"),
        ("mysql://me:secret@host/db", "the URL holds a password"),
        ("postgresql://host/db?user=me&password=secret", "the URL holds a password"),
        ("postgresql://host/db?%70assword=secret", "the URL holds a password"),
        ("postgresql://host/db?sslpassword=secret", "the URL holds a password"),
    ],
)
def test_other_addresses_and_passwords_are_refused(url: str, problem: str) -> None:
    [line] = problems("local/maze2d-umaze-v1", study=url)
    assert line.startswith("study: ")
    assert problem in line
    assert "secret" not in line


@pytest.mark.parametrize("kind", ["tpe", "gp", "nsga2", "random"])
def test_every_sampler_goes_on_from_what_is_done(start: Start, kind: str) -> None:
    startup = {} if kind == "random" else {"startup_trials": 2}
    context = start(sampler={"kind": kind, **startup}, trials=6)
    first = run(open_search(context), 3)
    second = run(open_search(context), 3, first=3)
    assert len(set(keys(first + second))) == 6
    agreed(open_search(context))


def test_a_grid_is_searched_in_order_and_once(start: Start) -> None:
    space = {"horizon": {"choices": [128, 160]}, "sigma": {"choices": [0.0, 0.1, 1.0]}}
    context = start(sampler={"kind": "grid"}, trials=9, search=space)
    configs = run(open_search(context), 3) + run(open_search(context), 3, first=3)
    values = [
        (c["values"]["window.horizon"], c["values"]["student.reward_weight"]) for c in configs
    ]
    assert values == [(h, s) for h in (128, 160) for s in (0.0, 0.1, 1.0)]
    assert open_search(context).suggest("more") is None


def test_a_grid_with_more_points_than_trials_is_sampled(start: Start) -> None:
    space = {"horizon": {"choices": [128, 160]}, "sigma": {"choices": [0.1 * n for n in range(20)]}}
    context = start(sampler={"kind": "grid"}, trials=12, search=space)
    configs = run(open_search(context), 4) + run(open_search(context), 8, first=4)
    assert open_search(context).suggest("more") is None
    assert len(set(keys(configs))) == 12
    assert {c["values"]["window.horizon"] for c in configs} == {128, 160}
    assert max(c["values"]["student.reward_weight"] for c in configs) > 1.0


def test_several_objectives_reach_the_study(start: Start) -> None:
    context = start(
        objectives=["score", "seconds"], sampler={"kind": "nsga2"}, pruner={"kind": "diverged"}
    )
    search = open_search(context)
    config = suggest(search, "a")
    search.on_trial_result("a", {"step": 10, "score": 1.0})
    record = write_record(config, "completed", 7.0)
    search.on_trial_complete("a")
    [trial] = search.study.trials
    assert trial.values == [7.0, record["objectives"]["seconds"]]
    assert [direction.name for direction in search.study.directions] == ["MAXIMIZE", "MINIMIZE"]
