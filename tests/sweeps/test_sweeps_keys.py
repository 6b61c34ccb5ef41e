"""Keys of stages: everything that changes the result is in them, and nothing else."""

from __future__ import annotations

import json
import multiprocessing
import random
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ractd_core.config import Config, Recipe
from ractd_core.tasks import parse_dataset_name
from sweeps.canonical import key_of
from sweeps.layout import SweepFolder, TaskContext
from sweeps.search_space import apply
from sweeps.spec import parse_spec
from sweeps.stage_store import StageRequest

KINDS = ("teacher", "reward", "student", "regression", "joint")
SPAWN = multiprocessing.get_context("spawn")


def context(name: str = "keys", extra: str = "", fingerprint: str = "f" * 64) -> TaskContext:
    spec = parse_spec(
        f"name: {name}\ntasks: [local/maze2d-umaze-v1]\ntrials: 2\n"
        f"search: {{sigma: {{low: 0, high: 1}}}}\n{extra}",
        "spec.yaml",
    )
    return TaskContext(SweepFolder(Path("storage"), name), spec, spec.datasets()[0], fingerprint)


def leaf_paths(model: type[Config], prefix: str = "") -> dict[str, Any]:
    """Every field of the recipe with its type."""
    found: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        if isinstance(info.default, Config):
            found |= leaf_paths(type(info.default), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = info.annotation
    return found


LEAVES = leaf_paths(Recipe)
ENSEMBLE = apply(Recipe(), {"reward.members": 2})
"""In which every field may have another value: pessimism needs several members."""


def value_at(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for part in path.split("."):
        value = getattr(value, part)
    return value


def with_another_value(path: str) -> Recipe:
    """:data:`ENSEMBLE` with another valid value in one field."""
    recipe = ENSEMBLE
    old = value_at(recipe, path)
    if isinstance(old, str):
        candidates = [value for value in get_args(LEAVES[path]) if value != old]
    elif isinstance(old, tuple):
        candidates = [[value * 2 for value in old], [value / 2 for value in old]]
    else:
        old_number = 0 if old is None else old
        candidates = [old_number * 2, old_number / 2, old_number + 2, 0.5]
    for candidate in candidates:
        try:
            changed = apply(recipe, {path: candidate})
        except ValidationError:
            continue
        if value_at(changed, path) != old:
            return changed
    raise AssertionError(f"no other value for {path}")


@pytest.mark.parametrize("path", list(LEAVES))
def test_a_stages_key_changes_with_what_it_reads_and_with_nothing_else(path: str) -> None:
    reads = {
        "teacher": {"teacher", "window"},
        "reward": {"reward"},
        "regression": {"regression", "window"},
        "student": {"student", "teacher", "reward", "window"},
        "joint": {"student", "teacher", "reward", "window"},
    }
    changed = with_another_value(path)
    for kind in KINDS:
        before, after = (context().request(kind, recipe).name for recipe in (ENSEMBLE, changed))
        assert (before != after) == (path.split(".")[0] in reads[kind]), kind


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_only_a_reward_model_of_whole_windows_is_one_of_its_windows(network: str) -> None:
    recipe = apply(Recipe(), {"reward.network": network})
    for other in (
        apply(recipe, {"window.horizon": 80}),
        apply(recipe, {"window.padding": "none"}),
    ):
        before, after = (context().request("reward", each).name for each in (recipe, other))
        assert (before != after) == (network == "conv")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stages_key_changes_with_the_data(kind: str) -> None:
    names = {context(fingerprint=c * 64).request(kind, Recipe()).name for c in "abc"}
    assert len(names) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "extra",
    [
        "resources: {teacher: {workers: 2}, reward: {gpus: 1}, student: {cpus: 3}}",
        "evaluation: {every: 7, final_episodes: 3}",
        "pruner: {kind: none}",
        "seed: 5",
        "rows: []",
        "first_trials: []",
    ],
)
def test_a_stages_key_does_not_know_the_sweep(kind: str, extra: str) -> None:
    one, other = context(), context("another-name", extra)
    assert one.spec != other.spec
    assert one.request(kind, Recipe()).name == other.request(kind, Recipe()).name


def test_kinds_do_not_share_keys_and_the_name_says_the_kind() -> None:
    names = [context().request(kind, Recipe()).name for kind in KINDS]
    assert [name.partition("-")[0] for name in names] == list(KINDS)
    assert len({name.partition("-")[2] for name in names}) == len(KINDS)


def test_a_student_names_its_parents_and_its_key_depends_on_them() -> None:
    student = context().request("student", Recipe())
    assert student.parents == {
        kind: context().request(kind, Recipe()).name for kind in ("teacher", "reward")
    }
    for kind in student.parents:
        other = {**student.parents, kind: f"{kind}-0123456789"}
        changed = StageRequest(
            student.kind, student.recipe, student.dataset, student.fingerprint, other
        )
        assert changed.name != student.name


def test_a_teacher_has_a_reward_model_only_if_it_is_rewarded() -> None:
    plain = context().request("teacher", Recipe())
    assert plain.parents == {}
    rewarded = apply(Recipe(), {"teacher.reward_weight": 1e-3})
    request = context().request("teacher", rewarded)
    assert request.parents == {"reward": context().request("reward", Recipe()).name}
    other = apply(rewarded, {"reward.discount": 0.9})
    names = [context().request("teacher", each).name for each in (Recipe(), rewarded, other)]
    assert len(set(names)) == 3
    students = {context().request("student", each).name for each in (Recipe(), rewarded, other)}
    assert len(students) == 3


def test_a_student_is_built_after_the_stages_it_is_built_from() -> None:
    rewarded = apply(Recipe(), {"teacher.reward_weight": 1e-3})
    assert list(context().request("student", rewarded).parents) == ["reward", "teacher"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # JSON itself has no lone surrogates.
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcd"), inner, max_size=3),
    max_leaves=8,
)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        order.shuffle(items)
        return {key: shuffled(inner, order) for key, inner in items}
    return [shuffled(inner, order) for inner in value] if isinstance(value, list) else value


@given(json_values, st.randoms(use_true_random=False))
def test_a_key_does_not_depend_on_the_order_of_keys(value: Any, order: random.Random) -> None:
    key = key_of(value)
    assert key_of(shuffled(value, order)) == key
    assert key_of(json.loads(json.dumps(value))) == key
    assert len(key) == 20
    assert set(key) <= set("0123456789abcdef")


@given(json_values, json_values)
def test_different_values_have_different_keys(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key_of(one) == key_of(other)) == same


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_key_of_no_number_is_refused(value: float) -> None:
    for where in (value, {"a": value}, [[value]]):
        with pytest.raises(ValueError, match="JSON"):
            key_of(where)
    with pytest.raises(TypeError):
        key_of({"a": Path("a")})


@settings(max_examples=15)
@given(st.sampled_from(["local/maze2d-umaze-v1", "local/maze2d-medium-v1"]), st.integers(0, 3))
def test_the_same_request_in_another_process_has_the_same_name(dataset: str, seed: int) -> None:
    """What crosses a process border is JSON; the key must survive the trip."""
    recipe = apply(Recipe(), {"teacher.seed": seed, "student.reward_weight": 1e-4})
    sent = json.loads(json.dumps(recipe.model_dump(mode="json")))
    name = str(parse_dataset_name(dataset))
    one, other = (
        StageRequest("teacher", each, name, "f" * 64)
        for each in (recipe, Recipe.model_validate(sent))
    )
    assert one.name == other.name
