"""Where things lie, what defines a trial, and what a sweep refuses to go on with."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractd_core.config import Recipe
from ractd_core.files import write_json
from sweeps.layout import (
    StorageError,
    SweepFolder,
    TaskContext,
    check_storage,
    default_storage,
    names,
    pin_data,
)
from sweeps.search_space import Scalar
from sweeps.spec import SpecError, SweepSpec, load_spec, parse_spec
from sweeps.versions import versions

pytestmark = pytest.mark.usefixtures("project_home")

Spec = Callable[..., Path]


def spec(extra: str = "", name: str = "one") -> SweepSpec:
    return parse_spec(
        f"name: {name}\ntasks: [local/maze2d-umaze-v1]\ntrials: 2\n"
        f"search: {{sigma: {{low: 0, high: 1}}}}\n{extra}",
        "spec.yaml",
    )


def context(
    extra: str = "", name: str = "one", fingerprint: str = "f" * 64, storage: str = "storage"
) -> TaskContext:
    parsed = spec(extra, name)
    return TaskContext(SweepFolder(Path(storage), name), parsed, parsed.datasets()[0], fingerprint)


def key(values: dict[str, Scalar], **changes: str) -> str:
    return context(**changes).trial(values).key


# Trials

VALUES: dict[str, Scalar] = {"student.reward_weight": 0.5, "window.horizon": 128}


def test_a_context_crosses_a_process_border_as_json(tmp_path: Path, tiny: Spec) -> None:
    loaded = load_spec(str(tiny(tasks=["local/maze2d-umaze-v1", "local/maze2d-large-v1"])))
    folder = SweepFolder(tmp_path / "storage", loaded.name)
    folder.freeze(loaded)
    for dataset in loaded.datasets():
        here = TaskContext(folder, loaded, dataset, "ab" * 32)
        there = TaskContext.from_json(json.loads(json.dumps(here.to_json())))
        assert there == here
        values: dict[str, Scalar] = {"window.horizon": 16}
        assert there.trial(values).key == here.trial(values).key
        assert there.trial(values).folder == here.trial(values).folder


def test_a_context_of_a_sweep_that_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no sweep 'one'"):
        TaskContext.from_json(context(storage=str(tmp_path)).to_json())


def test_a_trials_key_is_the_same_however_its_values_are_given() -> None:
    backwards = dict(reversed(VALUES.items()))
    assert key(VALUES) == key(backwards)
    assert key(VALUES) == key({**VALUES, "window.horizon": 128.0})
    assert key(VALUES) == key({**VALUES, "student.ctm_weight": 1.0}), "a default changes nothing"
    assert key(VALUES) == key(
        {"window.horizon": 128}, extra="recipe: {student: {reward_weight: 0.5}}"
    )


@pytest.mark.parametrize(
    "extra",
    [
        "resources: {student: {cpus: 3, workers: 2}, concurrent_trials: 1}",
        "pruner: {kind: diverged}",
        "selection: {rule: mean-of-last, last: 5, top: 1, retrain: 2, confirmation_episodes: 9}",
        "budget: {hours: 1, trial_hours: 1, keep: top}",
        "objectives: [score, latency_ms]\npruner: {kind: diverged}",
        "rows: []",
        "first_trials: []",
        "evaluation: {final_episodes: 7}",
        "recipe: {regression: {seed: 4}}",
        "recipe: {policy: {guidance: 4}}",
    ],
)
def test_a_trials_key_does_not_depend_on_what_its_record_does_not(extra: str) -> None:
    assert key(VALUES) == key(VALUES, extra=extra, name="other", storage="elsewhere")


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "e" * 64},
        {"extra": "evaluation: {every: 49}"},
        {"extra": "evaluation: {episodes: 24}"},
        {"extra": "evaluation: {selection_episodes: 49}"},
        {"extra": "recipe: {student: {seed: 1}}"},
        {"extra": "training_seeds: 2"},
        {"extra": "selection: {rule: best}"},
        {"extra": "pruner: {kind: none}"},
        {"extra": "recipe: {teacher: {optim: {steps: 1}}}"},
        {"extra": "recipe: {reward: {discount: 0.5}}"},
    ],
)
def test_a_trials_key_changes_with_what_changes_its_record(change: dict[str, str]) -> None:
    assert key(VALUES) != key(VALUES, **change)


def test_without_a_pruner_nothing_watches_for_a_collapse_and_the_students_say_so() -> None:
    watched, unwatched = context(), context(extra="pruner: {kind: none}")
    limits = unwatched.trial(VALUES).student.definition["config"]["collapse"]
    assert limits
    assert set(limits.values()) == {None}
    assert set(watched.trial(VALUES).student.definition["config"]["collapse"].values()) != {None}
    # That is of the students alone.
    assert unwatched.trial(VALUES).student.parents == watched.trial(VALUES).student.parents


def test_students_of_a_trial_share_everything_but_their_seed() -> None:
    plan = context(extra="training_seeds: 3\nrecipe: {student: {seed: 5}}").trial(VALUES)
    assert list(plan.training_seeds) == [5, 6, 7]
    requests = [plan.context.request("student", plan.recipe_of(seed)) for seed in (5, 6, 7)]
    assert requests[0].name == plan.student.name
    assert len({request.name for request in requests}) == 3
    assert all(request.parents == plan.student.parents for request in requests)
    rows = [{"training_seed": seed, "step": 10} for seed in plan.training_seeds]
    steps = plan.recipe.student.optim.steps
    assert [plan.overall_step(row) for row in rows] == [10, steps + 10, 2 * steps + 10]
    assert plan.steps == 3 * steps


def test_a_trials_key_says_how_many_actions_are_executed_and_its_stages_do_not() -> None:
    one = context().trial(VALUES)
    other = context().trial(VALUES | {"policy.executed_actions": 2})
    assert one.key != other.key
    assert one.student.name == other.student.name


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6, unique=True))
def test_other_values_have_other_keys_and_folders(weights: list[float]) -> None:
    plans = [context().trial({"student.reward_weight": weight}) for weight in weights]
    assert len({plan.key for plan in plans}) == len(weights)
    assert len({plan.folder for plan in plans}) == len(weights)


def test_a_trials_identity_says_which_data_values_and_stages() -> None:
    here = context(extra="recipe: {student: {seed: 3, dsm_weight: 0.25}}")
    plan = here.trial({**VALUES, "student.dropout": 0.5})
    identity = plan.identity()
    assert identity["sweep"] == "one"
    assert identity["dataset"] == "local/maze2d-umaze-v1"
    assert identity["task"] == here.dataset.task.name
    assert (identity["ref_min"], identity["ref_max"]) == (
        here.dataset.task.ref_min,
        here.dataset.task.ref_max,
    )
    assert identity["training_seed"] == 3
    assert identity["params"] == {
        "horizon": 128,
        "reward_weight": 0.5,
        "ctm_weight": plan.recipe.student.ctm_weight,
        "dsm_weight": 0.25,
        "student.dropout": 0.5,
    }
    for kind, name in identity["stages"].items():
        assert name == here.request(kind, plan.recipe).name


# Sweeps


def test_a_frozen_spec_is_read_back_and_the_same_one_is_accepted(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "one")
    folder.freeze(spec())
    written = (folder.path / "spec.yaml").stat().st_mtime_ns
    assert folder.spec() == spec()
    folder.freeze(spec())
    assert (folder.path / "spec.yaml").stat().st_mtime_ns == written
    assert {path.name for path in folder.path.iterdir()} == {"spec.yaml", "recipes.json"}


@pytest.mark.parametrize("extra", ["seed: 1", "resources: {student: {cpus: 2}}"])
def test_another_spec_under_the_same_name_is_refused(tmp_path: Path, extra: str) -> None:
    folder = SweepFolder(tmp_path, "one")
    folder.freeze(spec())
    with pytest.raises(StorageError, match=r"exists in .* with another spec"):
        folder.freeze(spec(extra))
    assert folder.spec() == spec()


TWO_TASKS = """name: one
tasks: [local/maze2d-umaze-v1, d4rl/hopper-medium-v2]
trials: 2
search: {sigma: {low: 0, high: 1}}
recipe: {student: {optim: {steps: 50}}}
"""


def test_the_recipes_that_a_sweep_stands_for_are_frozen_whole(tmp_path: Path) -> None:
    frozen = parse_spec(TWO_TASKS, "spec.yaml")
    folder = SweepFolder(tmp_path, "one")
    folder.freeze(frozen)
    recipes = json.loads((folder.path / "recipes.json").read_text())
    assert {name: Recipe.model_validate(recipe) for name, recipe in recipes.items()} == {
        str(name): frozen.recipe_of(name) for name in frozen.datasets()
    }
    assert folder.spec_to_run() == folder.spec() == frozen


def _another_number(recipes: dict[str, Any]) -> None:
    recipes["d4rl/hopper-medium-v2"]["teacher"]["optim"]["steps"] = 77


def _without_a_field(recipes: dict[str, Any]) -> None:
    del recipes["local/maze2d-umaze-v1"]["reward"]["truncation"]


def _without_a_task(recipes: dict[str, Any]) -> None:
    del recipes["local/maze2d-umaze-v1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_another_number, r"d4rl/hopper-medium-v2\.teacher\.optim\.steps was 77, is \d+; go on"),
        (_without_a_field, r"maze2d-umaze-v1\.reward\.truncation was not there, is hold; go on"),
        (_without_a_task, r"maze2d-umaze-v1 was not there, is "),
    ],
)
def test_a_sweep_of_a_release_with_other_recipes_is_not_gone_on_with(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    """The file is what an older release wrote: it had other defaults, or a field less."""
    frozen = parse_spec(TWO_TASKS, "spec.yaml")
    folder = SweepFolder(tmp_path, "one")
    folder.freeze(frozen)
    here = TaskContext(folder, frozen, frozen.datasets()[0], "f" * 64).to_json()
    path = folder.path / "recipes.json"
    recipes = json.loads(path.read_text())
    change(recipes)
    path.write_text(json.dumps(recipes))
    for go_on in (
        folder.spec_to_run,
        lambda: folder.freeze(frozen),
        lambda: TaskContext.from_json(here),
    ):
        with pytest.raises(StorageError, match=message) as caught:
            go_on()
        assert str(path) in str(caught.value)
    assert folder.spec() == frozen, "it can still be looked at"
    assert json.loads(path.read_text()) == recipes


def test_a_long_list_of_changes_is_cut(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "one")
    folder.freeze(spec())
    path = folder.path / "recipes.json"
    recipes = json.loads(path.read_text())
    recipes["local/maze2d-umaze-v1"]["teacher"] = {}
    path.write_text(json.dumps(recipes))
    with pytest.raises(StorageError, match=r"[^;]*;[^;]*;[^;]* and \d+ more; go on"):
        folder.spec_to_run()


def test_a_sweep_without_its_recipes_is_not_gone_on_with(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "one")
    folder.freeze(spec())
    (folder.path / "recipes.json").unlink()
    with pytest.raises(StorageError, match=r"recipes\.json is missing"):
        folder.spec_to_run()


def test_a_freeze_that_was_killed_before_the_spec_is_done_again(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "one")
    folder.freeze(spec())
    (folder.path / "spec.yaml").unlink()
    assert names(tmp_path) == []
    other = spec("recipe: {student: {seed: 4}}")
    folder.freeze(other)
    assert folder.spec_to_run() == other


def test_a_damaged_spec_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "one")
    folder.freeze(spec())
    path = folder.path / "spec.yaml"
    path.write_text(path.read_text()[:60])
    with pytest.raises(SpecError, match=str(path)):
        folder.spec()


def test_names_are_the_sweeps_with_a_spec(tmp_path: Path) -> None:
    assert names(tmp_path) == []
    for name in ("two", "one"):
        SweepFolder(tmp_path, name).freeze(spec(name=name))
    (tmp_path / "sweeps" / "begun").mkdir()
    assert names(tmp_path) == ["one", "two"]
    with pytest.raises(StorageError, match=r"no sweep 'three' .*one, two"):
        SweepFolder(tmp_path, "three").spec()


def test_data_that_changed_since_the_sweep_began_are_refused(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "one")
    about = folder.path / "sweep.json"
    write_json(about, {"name": "one", "created": "then", "datasets": {}})
    pin_data(folder, "local/a", "1" * 64)
    pin_data(folder, "local/b", "2" * 64)
    pin_data(folder, "local/a", "1" * 64)
    before = about.read_bytes()
    with pytest.raises(StorageError, match=r"local/b has changed .* 333333333333, then 2222"):
        pin_data(folder, "local/b", "3" * 64)
    assert about.read_bytes() == before
    known: Any = json.loads(before)
    assert known == {
        "name": "one",
        "created": "then",
        "datasets": {"local/a": "1" * 64, "local/b": "2" * 64},
    }


def test_sweeps_of_one_storage_share_stages_and_nothing_else(tmp_path: Path) -> None:
    one, two = SweepFolder(tmp_path, "one"), SweepFolder(tmp_path, "two")
    assert one.store.root == two.store.root
    own = [{f.path, f.trials.root, f.rows.root, f.scratch} for f in (one, two)]
    assert not own[0] & own[1]
    assert all(path.is_relative_to(one.path) for path in own[0])


def test_versions_are_those_of_python_and_the_packages() -> None:
    found = versions()
    assert {"python", "ractd", "torch", "ray"} <= set(found)
    assert all(found.values())


# Storage


def test_the_default_storage_lies_under_ractd_home(project_home: Path) -> None:
    assert check_storage(None) == default_storage() == project_home / "storage"
    assert default_storage().is_dir()


def test_a_storage_is_made_and_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = check_storage("deep/er")
    assert made == tmp_path / "deep" / "er"
    assert list(made.iterdir()) == []


def test_a_storage_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for place in ("file", "file/below", "file/below/deeper"):
        with pytest.raises(StorageError, match="cannot be written") as caught:
            check_storage(str(tmp_path / place))
        assert str(tmp_path / place) in str(caught.value)
        assert "--storage" in str(caught.value)
    assert (tmp_path / "file").read_text() == "here"


@pytest.mark.parametrize("uri", ["gs://b", "file:///tmp/a"])
def test_a_store_of_another_kind_is_refused(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="is not supported; use a path or s3://"):
        check_storage(uri)
    assert not list(tmp_path.iterdir())


def test_commands_that_check_the_storage_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Somebody looks at a sweep again and again while another command begins."""
    count = 4
    gate = threading.Barrier(count)
    errors: list[StorageError] = []

    def look() -> None:
        gate.wait(30)
        for _ in range(200):
            try:
                check_storage(str(tmp_path / "storage"))
            except StorageError as error:
                errors.append(error)
                return

    lookers = [threading.Thread(target=look) for _ in range(count)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert errors == []


def test_a_command_to_type_says_where_the_sweep_lies(tmp_path: Path) -> None:
    assert SweepFolder(default_storage(), "one").command("resume") == "ractd sweep resume one"
    elsewhere = SweepFolder(tmp_path / "a folder", "one").command("status")
    assert shlex.split(elsewhere) == [
        *("ractd", "sweep", "status", "one", "--storage"),
        str(tmp_path / "a folder"),
    ]
