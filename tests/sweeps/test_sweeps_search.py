"""The study and the ledger: what is suggested, what is remembered, and how both are mended."""

from __future__ import annotations

import json
import logging
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray import cloudpickle
from ray.tune.search import Searcher

from sweeps.jsonl import append_row
from sweeps.layout import SweepFolder, TaskContext
from sweeps.ledger import Record
from sweeps.search import QuietProgress, StudySearch, distribution, mend_journal
from sweeps.search_space import Choices, Range, canonical_path, contains
from sweeps.spec import SpecError, paper_defaults, parse_spec
from sweeps.trial import CURVE, EPISODES, STOP, close_trial, plan_of

pytestmark = pytest.mark.usefixtures("project_home")

TASK = "maze2d-umaze-v1"
SIGMA = {"low": 1e-5, "high": 1e-2, "log": True}
Start = Callable[..., TaskContext]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A context of a sweep with the given changes to a small spec."""

    def make(**changes: Any) -> TaskContext:
        raw = {
            "name": "one",
            "tasks": [f"local/{TASK}"],
            "trials": 6,
            "search": {"horizon": {"choices": [128, 160]}, "sigma": SIGMA},
            "first_trials": [],
            "recipe": {"student": {"optim": {"steps": 30}}},
            **changes,
        }
        spec = parse_spec(yaml.safe_dump(raw), "spec.yaml")
        folder = SweepFolder(tmp_path / "storage", spec.name)
        folder.freeze(spec)
        return TaskContext(folder, spec, spec.datasets()[0], "f" * 64)

    return make


def open_search(context: TaskContext) -> StudySearch:
    return StudySearch(context, lambda record: None)


def suggest(search: StudySearch, name: str) -> dict[str, Any]:
    config = search.suggest(name)
    assert isinstance(config, dict), config
    return config


def score_at(config: dict[str, Any], step: int, score: float) -> None:
    """What a trial writes when it has been scored at ``step``."""
    row = {"step": step, "score": score, "seconds": 1.5, "device": "cpu"}
    append_row(plan_of(config).folder / CURVE, row)


def write_record(config: dict[str, Any], status: str, score: float = 0.0) -> Record:
    """What a trial's own process leaves behind."""
    plan = plan_of(config)
    score_at(config, 30, score)
    lines = [f"{seed},{score},{score + spread},300" for seed, spread in enumerate((-1.0, 1.0))]
    (plan.folder / EPISODES).write_text("\n".join(["seed,return,score,length", *lines, ""]))
    close_trial(plan, config["number"], status, None if status == "completed" else "because")
    record = plan.context.folder.trials.get(plan.key)
    assert record is not None
    return record


def run(search: StudySearch, count: int, first: int = 0) -> list[dict[str, Any]]:
    """Suggest and complete ``count`` trials, one after the other."""
    configs = []
    for index in range(first, first + count):
        config = suggest(search, str(index))
        write_record(config, "completed", float(index))
        search.on_trial_complete(str(index))
        configs.append(config)
    return configs


def keys(configs: list[dict[str, Any]]) -> list[str]:
    return [plan_of(config).key for config in configs]


def agreed(search: StudySearch) -> None:
    """Every record is in the study, once, with its state and its score."""
    states = {"completed": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    expected = Counter(
        (states[record["status"]], (record["selection"] or {}).get("score"))
        for record in search.context.folder.trials
        if record["status"] != "failed"
    )
    found = Counter(
        (trial.state.name, trial.value if trial.state == TrialState.COMPLETE else None)
        for trial in search.study.get_trials()
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    assert found == expected


def journal(context: TaskContext) -> Path:
    [path] = (context.folder.path / "studies").glob("*.journal")
    return path


def trials_in(search: StudySearch) -> list[tuple[int, str]]:
    return [(trial.number, trial.state.name) for trial in search.study.get_trials()]


# Suggestions


def test_the_papers_defaults_and_given_points_come_first(start: Start) -> None:
    points = ["paper", {"horizon": 160, "sigma": 1e-3}]
    search = open_search(start(first_trials=points))
    paper = {p: v for p, v in paper_defaults(TASK).items() if p in search.context.spec.search}
    first, second, third = (suggest(search, name) for name in "abc")
    assert first["values"] == paper
    assert second["values"] == {"window.horizon": 160, "student.reward_weight": 1e-3}
    assert third["values"] not in (first["values"], second["values"])
    assert [config["number"] for config in (first, second, third)] == [0, 1, 2]


def test_the_first_points_are_not_run_again_by_the_next_driver(start: Start) -> None:
    context = start(first_trials=["paper"])
    done = run(open_search(context), 1)
    again = suggest(open_search(context), "again")
    assert plan_of(again).key not in keys(done)


def test_a_suggestion_crosses_to_the_trial_as_json(start: Start) -> None:
    search = open_search(start())
    config = suggest(search, "a")
    plan = plan_of(json.loads(json.dumps(config)))
    assert plan.context == search.context
    assert plan.values == config["values"]
    for path, value in plan.values.items():
        assert contains(search.context.spec.search[path], value)


def test_numbers_are_drawn_from_the_whole_space_and_as_the_field_has_them(start: Start) -> None:
    context = start(
        trials=30,
        search={
            "student.optim.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "student.solver_steps": {"low": 1, "high": 4},
            "student.reward_at": {"choices": ["dsm", "noise"]},
        },
    )
    search = open_search(context)
    drawn = [suggest(search, str(index))["values"] for index in range(30)]
    for values in drawn:
        assert set(values) == set(context.spec.search)
        for path, value in values.items():
            assert contains(context.spec.search[path], value)
        assert isinstance(values["student.solver_steps"], int)
    assert {values["student.solver_steps"] for values in drawn} == {1, 2, 3, 4}
    assert {values["student.reward_at"] for values in drawn} == {"dsm", "noise"}
    assert min(values["student.optim.lr"] for values in drawn) < 1e-3
    assert max(values["student.optim.lr"] for values in drawn) > 1e-3


def test_a_whole_number_that_is_null_by_default_is_drawn_as_a_whole_number(start: Start) -> None:
    search = open_search(
        start(
            search={"student.reward_states": {"low": 1, "high": 10}},
            recipe={"student": {"reward_states": None}},
        )
    )
    for index in range(4):
        assert isinstance(suggest(search, str(index))["values"]["student.reward_states"], int)


@pytest.mark.parametrize("log", [False, True])
def test_a_parameter_is_the_studys_distribution(log: bool) -> None:
    real = distribution(Range(low=0.5, high=8, log=log), integer=False)
    assert real == FloatDistribution(0.5, 8, log=log)
    whole = distribution(Range(low=1, high=8, log=log), integer=True)
    assert whole == IntDistribution(1, 8, log=log)
    chosen = distribution(Choices(choices=("a", 2, None)), integer=log)
    assert chosen == CategoricalDistribution(["a", 2, None])


def test_the_same_seed_suggests_the_same(start: Start) -> None:
    drawn = [
        [config["values"] for config in run(open_search(start(name=name, seed=seed)), 6)]
        for name, seed in (("one", 1), ("two", 1), ("three", 2))
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_a_restarted_search_does_not_repeat_its_first_suggestions(start: Start) -> None:
    context = start()
    first = run(open_search(context), 3)
    second = run(open_search(context), 3, first=3)
    assert len(set(keys(first + second))) == 6
    assert {state for _, state in trials_in(open_search(context))} == {"COMPLETE"}, "no draw wasted"


def test_a_small_space_is_searched_whole_and_then_finished(start: Start) -> None:
    space = {
        "horizon": {"choices": [128, 160, 192]},
        "student.reward_at": {"choices": ["dsm", "noise"]},
        "sigma": {"choices": [0.0, 0.1]},
    }
    search = open_search(start(trials=20, search=space))
    configs = run(search, 12)
    assert len({tuple(sorted(c["values"].items())) for c in configs}) == 12
    assert search.suggest("one more") == Searcher.FINISHED
    assert search.remaining == 0
    agreed(search)
    assert open_search(search.context).suggest("again") == Searcher.FINISHED


def test_trials_under_way_are_not_suggested_again(start: Start) -> None:
    search = open_search(start(search={"horizon": {"choices": [128, 160]}}))
    configs = [suggest(search, name) for name in "ab"]
    assert len(set(keys(configs))) == 2
    assert search.suggest("c") == Searcher.FINISHED


def test_a_combination_that_no_recipe_allows_does_not_end_the_search(start: Start) -> None:
    """Both weights 0 is no recipe: refused with the spec, or left out of the suggestions."""
    weights = {"choices": [0.0, 1.0]}
    try:
        context = start(search={"alpha": weights, "beta": weights})
    except SpecError:
        return
    drawn = run(open_search(context), 3)
    assert all(set(config["values"].values()) != {0.0} for config in drawn)


# Records


def test_remaining_counts_the_trials_without_a_record(start: Start) -> None:
    search = open_search(start(trials=4))
    left = [search.remaining]
    for status in ("completed", "pruned", "failed"):
        config = suggest(search, status)
        left.append(search.remaining)
        write_record(config, status)
        left.append(search.remaining)
        search.on_trial_complete(status)
    assert left == [4, 4, 3, 3, 2, 2, 1]
    assert open_search(search.context).remaining == 1


def test_another_tasks_records_do_not_count(start: Start) -> None:
    both = start(tasks=[f"local/{TASK}", "local/maze2d-large-v1"])
    other = TaskContext(both.folder, both.spec, both.spec.datasets()[1], "e" * 64)
    run(open_search(other), 2)
    search = open_search(both)
    assert search.remaining == both.spec.trials
    assert trials_in(search) == []


@pytest.mark.parametrize(
    ("status", "state", "value"),
    [("completed", "COMPLETE", 12.5), ("pruned", "PRUNED", None), ("failed", "FAIL", None)],
)
def test_a_record_becomes_the_trials_state(
    start: Start, status: str, state: str, value: float | None
) -> None:
    announced: list[Record] = []
    search = StudySearch(start(), announced.append)
    config = suggest(search, "a")
    record = write_record(config, status, 12.5)
    search.on_trial_complete("a", error=status == "failed")
    assert announced == [record]
    [trial] = search.study.get_trials()
    assert trial.state.name == state
    if value is not None:
        assert trial.value == value


def test_a_trial_that_dies_without_a_word_gets_a_failed_record(start: Start) -> None:
    announced: list[Record] = []
    search = StudySearch(start(), announced.append)
    config = suggest(search, "a")
    score_at(config, 10, 1.0)
    search.on_trial_complete("a", error=True)
    [record] = announced
    assert record == search.context.folder.trials.get(plan_of(config).key)
    assert (record["status"], record["number"]) == ("failed", config["number"])
    assert record["reason"]
    assert record["selection"] is None
    assert record["steps"] == 10
    assert trials_in(search) == [(0, "FAIL")]
    assert keys([suggest(search, "b")]) != keys([config])


def test_an_error_after_the_record_does_not_change_it(start: Start) -> None:
    search = open_search(start())
    record = write_record(suggest(search, "a"), "completed", 7.0)
    search.on_trial_complete("a", error=True)
    assert list(search.context.folder.trials) == [record]
    assert trials_in(search) == [(0, "COMPLETE")]


def test_a_trial_that_ends_without_record_or_error_stays_open(start: Start) -> None:
    """The driver was interrupted: nothing is known of it, and the next one takes it up."""
    context = start()
    search = open_search(context)
    config = suggest(search, "a")
    search.on_trial_complete("a")
    assert list(context.folder.trials) == []
    assert suggest(open_search(context), "b") == config


# Pruning


def tell(search: StudySearch, config: dict[str, Any], name: str, step: int, score: float) -> bool:
    """A trial reports a score; whether it has been asked to stop."""
    score_at(config, step, score)
    search.on_trial_result(name, {"step": step, "score": score})
    return (plan_of(config).folder / STOP).exists()


def pruning(start: Start, **changes: Any) -> StudySearch:
    """A search in which two trials have completed with 50 and more at every step."""
    pruner = {"kind": "median", "startup_trials": 2}
    search = open_search(start(**{"pruner": pruner, **changes}))
    for index in range(2):
        config, name = suggest(search, f"good {index}"), f"good {index}"
        for step in (10, 20, 30):
            assert not tell(search, config, name, step, 50.0 + index)
        write_record(config, "completed", 50.0 + index)
        search.on_trial_complete(name)
    return search


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
        {"kind": "median", "startup_trials": 3},
        {"kind": "median", "startup_trials": 2, "warmup_steps": 15},
    ],
)
def test_the_spec_says_when_pruning_begins(start: Start, pruner: dict[str, Any]) -> None:
    search = pruning(start, pruner=pruner)
    config = suggest(search, "bad")
    assert not tell(search, config, "bad", 10, 1.0)
    assert tell(search, config, "bad", 20, 1.0) == ("warmup_steps" in pruner)


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
    context = start(first_trials=["paper"], trials=8)
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
    context = start(trials=6, first_trials=["paper"])
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
    search = open_search(start())
    suggest(search, "a")
    content = dumps(search)
    assert isinstance(pickle.loads(content), StudySearch)
    # And save it, which leaves nothing behind.
    before = sorted(search.context.folder.path.rglob("*"))
    search.save(str(search.context.folder.path / "snapshot"))
    assert sorted(search.context.folder.path.rglob("*")) == before
