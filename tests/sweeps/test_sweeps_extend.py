"""Going on as a changed spec: what may change, what may not, and what becomes of the trials."""

from __future__ import annotations

from typing import Any

import pytest
from filelock import FileLock, Timeout

from ractd_core.files import write_json
from sweeps.extend import refusals
from sweeps.layout import ABOUT, StorageError, TaskContext, plan_of
from sweeps.spec import SweepSpec, load_spec
from tests.sweeps.specs import parse
from tests.sweeps.study import Start, agreed, keys, open_search, run, suggest, trials_in

pytestmark = pytest.mark.usefixtures("project_home")

UMAZE, HOPPER = "local/maze2d-umaze-v1", "local/hopper-medium-v2"
CHOSEN = {"horizon": {"choices": [128, 160]}, "sigma": {"low": 1e-4, "high": 1e-2}}


def changed(*tasks: str, **changes: Any) -> list[str]:
    old = parse(UMAZE, search=CHOSEN)
    return refusals(old, parse(*(tasks or (UMAZE,)), **{"search": CHOSEN, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trials": 9},
        {"search": {**CHOSEN, "horizon": {"choices": [192, 160, 128]}}},
        {"search": {**CHOSEN, "sigma": {"low": 1e-5, "high": 1e-1, "log": True}}},
        {
            "rows": ["ctd"],
            "pruner": {"kind": "asha", "warmup_steps": 5},
            "sampler": {"kind": "random"},
        },
        {"budget": {"hours": 3}, "resources": {"student": {"workers": 2}}},
        {"selection": {"top": 2, "retrain": 1}, "evaluation": {"final_episodes": 7}},
        {"first_trials": ["default"], "study": "sqlite:////tmp/study.db"},
    ],
)
def test_how_many_which_and_by_what_means_may_change(changes: dict[str, Any]) -> None:
    assert changed(**changes) == []


def test_tasks_can_be_added_and_not_left_out() -> None:
    assert refusals(parse(UMAZE), parse(UMAZE, HOPPER)) == []
    assert refusals(parse(UMAZE, HOPPER), parse(HOPPER)) == [
        f"tasks: {UMAZE} left out; tasks can be added only"
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"trials": 3}, "trials: was 4, is 3"),
        ({"training_seeds": 2}, "training_seeds: was 1, is 2"),
        ({"seed": 1}, "seed"),
        ({"recipe": {"student": {"optim": {"lr": 0.1}}}}, "recipe"),
        ({"family": "released"}, "family"),
        ({"evaluation": {"episodes": 3}}, "evaluation"),
        ({"selection": {"rule": "best"}}, "selection.rule: was last, is best"),
        ({"pruner": {"kind": "none"}}, "pruner.kind: was median, is none"),
        ({"search": {"horizon": CHOSEN["horizon"]}}, "search.reward_weight: left out"),
        ({"search": {**CHOSEN, "alpha": {"low": 0.1, "high": 1}}}, "search.ctm_weight: new"),
        ({"search": {**CHOSEN, "horizon": {"choices": [128]}}}, "search.horizon: narrower"),
        ({"search": {**CHOSEN, "sigma": {"low": 1e-3, "high": 1}}}, "search.reward_weight: narrow"),
        ({"search": {**CHOSEN, "sigma": {"low": 0, "high": 1, "step": 0.5}}}, "search.reward_w"),
        ({"search": {**CHOSEN, "sigma": {"choices": [1e-3]}}}, "search.reward_weight: choices and"),
        ({"objectives": ["score", "seconds"], "pruner": {"kind": "diverged"}}, "objectives"),
    ],
)
def test_what_defines_a_trial_and_its_score_may_not(changes: dict[str, Any], key: str) -> None:
    [problem] = changed(**changes)
    assert problem.startswith(key)


def test_all_refusals_come_at_once() -> None:
    assert len(changed(trials=1, seed=3, family="paper")) == 3


def test_students_that_were_not_kept_cannot_be_asked_for() -> None:
    old = parse(UMAZE, budget={"keep": "top"}, selection={"top": 2})
    assert refusals(old, parse(UMAZE, budget={"keep": "top"}, selection={"top": 1})) == []
    for changes in (
        {"budget": {"keep": "top"}, "selection": {"top": 3}},
        {"budget": {"keep": "all"}, "selection": {"top": 2}},
    ):
        [problem] = refusals(old, parse(UMAZE, **changes))
        assert problem.startswith("budget.keep")


# The folder and the study


def wider(context: TaskContext, **changes: Any) -> SweepSpec:
    raw = context.spec.model_dump()
    return SweepSpec.model_validate({**raw, **changes})


def test_a_refused_spec_changes_nothing(start: Start) -> None:
    context = start()
    before = sorted((path, path.read_bytes()) for path in context.folder.path.glob("*.*"))
    with pytest.raises(StorageError, match=r"2 changes refused\n  seed: .*\n  trials: was 6, is 1"):
        context.folder.extend(wider(context, trials=1, seed=5))
    after = sorted((path, path.read_bytes()) for path in context.folder.path.glob("*.*"))
    assert [item for item in after if item[0].name != "driver.lock"] == before


def test_a_running_sweep_is_not_changed(start: Start) -> None:
    context = start()
    with FileLock(context.folder.path / "driver.lock"), pytest.raises(Timeout):
        context.folder.extend(wider(context, trials=9))
    assert context.folder.spec() == context.spec


def test_a_wider_search_goes_on_from_all_that_is_done_and_begun(start: Start) -> None:
    context = start(search={"horizon": {"choices": [128, 160]}, "sigma": {"choices": [0.0, 0.1]}})
    search = open_search(context)
    done = run(search, 2)
    begun = suggest(search, "begun")
    plan = plan_of(begun)
    write_json(plan.folder / ABOUT, {"number": begun["number"], **plan.identity()})

    horizons = {"choices": [128, 160, 192]}
    spec = wider(context, search={**context.spec.search, "window.horizon": horizons}, trials=7)
    context.folder.extend(spec)
    assert context.folder.spec() == spec
    assert load_spec(str(context.folder.path / "spec-1.yaml")) == context.spec
    again = TaskContext(context.folder, spec, context.dataset, context.fingerprint)
    later = open_search(again)
    assert later.remaining == 4, "of six points"
    agreed(later)
    assert [state for _, state in trials_in(later)[:2]] == ["COMPLETE", "COMPLETE"]
    # What had begun is finished first, and nothing that is done is tried again.
    first = suggest(later, "first")
    assert keys([first]) == keys([begun])
    others = [suggest(later, str(index)) for index in range(3)]
    # Numbers go on, whatever those of the new study are.
    assert [each["number"] for each in (first, *others)] == [2, 3, 4, 5]
    assert not set(keys(others)) & set(keys([*done, begun]))
    assert sum(each["values"]["window.horizon"] == 192 for each in others) > 0


def test_a_first_trial_given_in_part_is_not_run_again(start: Start) -> None:
    context = start(first_trials=[{"sigma": 1e-3}])
    done = run(open_search(context), 2)
    assert done[0]["values"]["student.reward_weight"] == 1e-3
    horizons = {"choices": [128, 160, 192]}
    spec = wider(context, search={**context.spec.search, "window.horizon": horizons})
    context.folder.extend(spec)
    later = open_search(TaskContext(context.folder, spec, context.dataset, context.fingerprint))
    assert suggest(later, "next")["values"]["student.reward_weight"] != 1e-3


def test_a_given_first_trial_survives_a_kill_in_the_middle_of_its_suggestion(start: Start) -> None:
    context = start(first_trials=[{"horizon": 160, "sigma": 1e-3}])
    search = open_search(context)
    trial = search.study.ask()
    trial.suggest_categorical("horizon", [128, 160])
    assert trials_in(search) == [(0, "RUNNING")]
    config = suggest(open_search(context), "again")
    assert config["values"] == {"window.horizon": 160, "student.reward_weight": 1e-3}


def test_a_grid_of_real_numbers_is_a_small_space(start: Start) -> None:
    grid = {"low": 0.0, "high": 0.3, "step": 0.1}
    context = start(trials=20, search={"sigma": grid})
    search = open_search(context)
    assert search.remaining == 4
    values = [config["values"]["student.reward_weight"] for config in run(search, 4)]
    assert sorted(values) == [0.0, 0.1, 0.2, 0.3]
    assert search.remaining == 0
    assert search.suggest("more") is None
