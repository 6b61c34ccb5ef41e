"""The sweep spec: every mistake at once, each with its path, and nothing lost on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ractd_core.config import Recipe
from ractd_core.recipes import recipe_for
from ractd_core.tasks import parse_dataset_name
from sweeps.search_space import apply, canonical_path, value_at
from sweeps.spec import (
    SpecError,
    SweepSpec,
    dump_spec,
    load_spec,
    parse_spec,
    parse_yaml,
    presets,
)
from sweeps.spec_parts import CONFIRMATION_SEED, SELECTION_SEED

pytestmark = pytest.mark.usefixtures("project_home")

UMAZE = parse_dataset_name("local/maze2d-umaze-v1")
RELEASED = {
    "window.horizon": 128,
    "student.reward_weight": 1e-4,
    "student.ctm_weight": 1.0,
    "student.dsm_weight": 1.0,
}

GOOD: dict[str, Any] = {
    "name": "good",
    "tasks": ["local/maze2d-umaze-v1"],
    "trials": 3,
    "search": {
        "horizon": {"choices": [128, 160]},
        "sigma": {"low": 1e-5, "high": 1e-2, "log": True},
        "alpha": {"low": 0.5, "high": 2.0},
    },
    "first_trials": ["released", {"horizon": 128}, {"horizon": 160}],
    "recipe": {"student": {"optim": {"steps": 100}}},
    "evaluation": {"every": 50},
    "resources": {"teacher": {"workers": 2}, "student": {"cpus": 1}},
}


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets ``value`` at ``path`` (keys and list indices, separated by ``/``)."""

    def change(raw: dict[str, Any]) -> None:
        *parents, leaf = path.split("/")
        table: Any = raw
        for parent in parents:
            table = table[int(parent)] if isinstance(table, list) else table.setdefault(parent, {})
        if isinstance(table, list):
            table.insert(int(leaf), value)
        else:
            table[leaf] = value

    return change


def parse(raw: Any) -> SweepSpec:
    return parse_spec(yaml.safe_dump(raw, sort_keys=False), "spec.yaml")


def problems(raw: Any) -> list[str]:
    """The problems that parsing names, without the heading, whose count is checked here."""
    with pytest.raises(SpecError) as caught:
        parse(raw)
    heading, *lines = str(caught.value).split("\n  ")
    number = heading.removeprefix("spec.yaml: ").split()[0]
    assert int(number) == len(lines)
    assert "nothing was started" in heading
    return lines


def changed(*changes: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    raw = copy.deepcopy(GOOD)
    for change in changes:
        change(raw)
    return raw


MISTAKES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (put("name", "../x"), "name: '../x' cannot name a job or sweep"),
    (
        put("tasks/1", "local/maze2d-umase-v1"),
        "tasks.1: unknown task or group 'maze2d-umase-v1'; did you mean maze2d-umaze-v1",
    ),
    (put("trials", 0), "trials: Input should be greater than 0 (found 0)"),
    (put("trails", 3), "trails: unknown key; did you mean trials"),
    (put("seed", -1), "seed: Input should be greater than or equal to 0 (found -1)"),
    (put("evaluation/evry", 5), "evaluation.evry: unknown key; did you mean every?"),
    (put("evaluation/episodes", 0), "evaluation.episodes: Input should be greater than 0"),
    (put("pruner/kind", "meridian"), "pruner.kind: "),
    (put("data/transitions", 10), "data.transitions: "),
    (
        put("search/bta", {"low": 0.1, "high": 1.0}),
        "search.bta: 'bta' is not a field of the recipe; did you mean beta",
    ),
    (
        put("search/beta", {"low": 1.0, "high": 0.5}),
        "search.beta: low 1.0 must be below high 0.5",
    ),
    (
        put("search/student.optim.lr", {"low": 0, "high": 1.0, "log": True}),
        "search.student.optim.lr: a log range must begin above 0",
    ),
    (
        put("search/teacher.optim.lr", {"low": 0.1, "high": 1.0, "lag": True}),
        "search.teacher.optim.lr.lag: unknown key; did you mean log",
    ),
    (
        put("search/regression.optim.lr", {"low": 0.1, "high": 1.0}),
        "search.regression.optim.lr: 'regression.optim.lr' belongs to the regression row",
    ),
    (
        put("search/horizon/choices/2", 100),
        "search.horizon: value 100: horizon 100 does not fit the teacher network",
    ),
    (put("family", "smal"), "family: Input should be 'small', 'released' or 'paper'"),
    (
        put("recipe/teacher/optim/lr", "fast"),
        "recipe.teacher.optim.lr: Input should be a valid number",
    ),
    (put("search/sigma/low", -1.0), "search.sigma: "),
    (put("search/student.dropout", {"low": 0.0, "high": 2.0}), "search.student.dropout: value 2.0"),
    (
        put("first_trials/1/horizon", 144),
        "first_trials.1.horizon: 144 lies outside search.horizon",
    ),
    (
        put("first_trials/2/student.seed", 4),
        "first_trials.2.student.seed: not searched; set it under recipe instead",
    ),
    (
        put("resources/teacher/workers", 70),
        "resources.teacher.workers: 70 workers, but batch_size 64 has a row for 64 of them",
    ),
    (
        put("resources/reward/workers", [1, 300]),
        "resources.reward.workers: 300 workers, but batch_size 256 has a row for 256 of them",
    ),
    (put("resources/student/micro_batch", 0), "resources.student.micro_batch: "),
]


def assert_exactly(found: list[str], expected: list[str]) -> None:
    assert len(found) == len(expected), found
    for prefix in expected:
        assert sum(line.startswith(prefix) for line in found) == 1, (prefix, found)


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[text for _, text in MISTAKES])
def test_a_single_mistake_is_named_with_its_path(
    mistake: Callable[[dict[str, Any]], None], message: str
) -> None:
    parse(GOOD)
    assert_exactly(problems(changed(mistake)), [message])


@settings(max_examples=40)
@given(st.lists(st.sampled_from(range(len(MISTAKES))), min_size=1, max_size=10, unique=True))
def test_any_set_of_mistakes_is_named_completely_and_nothing_else(chosen: list[int]) -> None:
    mistakes = [MISTAKES[index] for index in chosen]
    found = problems(changed(*(change for change, _ in mistakes)))
    assert_exactly(found, [message for _, message in mistakes])


MISSPELT: list[tuple[str, str]] = [
    ("trails", "trials"),
    ("evaluation/evry", "every"),
    ("resources/teacher/wrkers", "workers"),
    ("recipe/techer", "teacher"),
    ("recipe/student/optm", "optim"),
    ("recipe/student/optim/stepz", "steps"),
    ("recipe/teacher/network/width", "widths"),
    ("search/sigma/hig", "high"),
]


@pytest.mark.parametrize(("path", "near"), MISSPELT)
def test_a_misspelt_key_at_any_depth_names_its_place_and_what_was_meant(
    path: str, near: str
) -> None:
    [problem] = problems(changed(put(path, 1)))
    assert problem.startswith(f"{path.replace('/', '.')}: unknown key; did you mean ")
    assert near in problem


def test_misspelt_keys_at_every_depth_come_at_once() -> None:
    found = problems(changed(*(put(path, 1) for path, _ in MISSPELT)))
    assert_exactly(found, [f"{path.replace('/', '.')}: unknown key" for path, _ in MISSPELT])


@pytest.mark.parametrize(
    ("key", "in_the_way"),
    [("recipe/student/optim/stepz", "recipe"), ("resources/reward/wrkers", "resources")],
)
def test_a_misspelt_key_hides_no_other_mistake(key: str, in_the_way: str) -> None:
    """A part that is invalid for one reason still has its other mistakes named."""
    others = {
        "recipe": (
            put("search/horizon/choices/2", 100),
            "search.horizon: value 100: horizon 100 does not fit",
        ),
        "resources": (
            put("resources/teacher/workers", 70),
            "resources.teacher.workers: 70 workers, but batch_size 64 has",
        ),
    }
    change, message = others[in_the_way]
    found = problems(changed(put(key, 1), change))
    assert_exactly(found, [f"{key.replace('/', '.')}: unknown key", message])


def test_a_broken_parameter_is_not_also_called_unsearched() -> None:
    found = problems(
        changed(
            put("search/beta", {"low": 2.0, "high": 1.0}),
            put("first_trials/1/beta", 1.5),
        )
    )
    assert_exactly(found, ["search.beta: low 2.0 must be below high 1.0"])


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"sigmo": 1}, "first_trials.0.sigmo: 'sigmo' is not a field of the recipe"),
        ("papr", "first_trials.0: "),
    ],
)
def test_a_wrong_first_trial_is_one_problem(point: Any, message: str) -> None:
    assert_exactly(problems({**GOOD, "first_trials": [point]}), [message])


@pytest.mark.parametrize("key", ["tasks", "search", "first_trials", "recipe", "resources"])
@pytest.mark.parametrize("value", [5, "words", ["a", 3], {"a": 3}, None, True])
def test_a_part_of_the_wrong_kind_is_a_problem_at_its_key(key: str, value: Any) -> None:
    found = problems({**GOOD, "first_trials": [], key: value})
    assert all(line.startswith(key) for line in found), found


@pytest.mark.parametrize("key", ["name", "tasks", "trials", "search"])
def test_a_missing_key_is_named(key: str) -> None:
    found = problems({name: value for name, value in GOOD.items() if name != key})
    assert f"{key}: Field required" in found


def test_a_field_under_two_names_is_searched_twice() -> None:
    search = {"sigma": {"choices": [0.1]}, "reward_weight": {"choices": [0.2]}}
    [problem] = problems({**GOOD, "search": search, "first_trials": []})
    assert problem == "search.reward_weight: reward_weight is searched twice"


def test_a_range_of_horizons_that_holds_unusable_ones_is_refused() -> None:
    """128 and 160 fit the network, 129 does not, and a search would draw it."""
    raw = changed(put("search/horizon", {"low": 128, "high": 160}))
    assert_exactly(problems({**raw, "first_trials": []}), ["search.horizon: "])


def test_first_trials_that_no_recipe_allows_are_refused() -> None:
    """Each weight may be 0, but not both: nothing would tie the plans to the data."""
    raw = {
        **GOOD,
        "search": {"alpha": {"choices": [0.0, 1.0]}, "beta": {"choices": [0.0, 1.0]}},
        "first_trials": [{"alpha": 0.0, "beta": 0.0}],
    }
    assert_exactly(problems(raw), ["first_trials.0"])


def test_numbers_that_yaml_reads_as_words_are_numbers() -> None:
    """YAML 1.1 takes ``1e-4`` for a word; a person means the number."""
    text = yaml.safe_dump({**GOOD, "search": {}, "first_trials": []}).replace("search: {}\n", "")
    words = parse_spec(f"{text}search: {{sigma: {{choices: [1e-4, 1e-3]}}}}\n", "spec.yaml")
    numbers = parse_spec(f"{text}search: {{sigma: {{choices: [1.0e-4, 1.0e-3]}}}}\n", "spec.yaml")
    assert words == numbers


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n", "7\n", "null\n"])
def test_yaml_that_is_no_mapping(text: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.yaml: expected a mapping of keys, found "):
        parse_spec(text, "spec.yaml")


@pytest.mark.parametrize("text", ["{{name: a, {}}}", "name: a\nrecipe: {{{}}}"])
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    twice = text.format("search: {sigma: 1.0}, search: {beta: 1.0}")
    with pytest.raises(SpecError, match=r"search stands there twice\s+in .*, line \d"):
        parse_spec(twice, "spec.yaml")
    merged = parse_yaml("a: &one {x: 1}\nb: {<<: *one, x: 2}")
    assert merged == {"a": {"x": 1}, "b": {"x": 2}}


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "a: 1\n---\nb: 2", "\x00", "? [a]\n: 1"])
def test_text_that_is_no_yaml(text: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.yaml is not valid YAML"):
        parse_spec(text, "spec.yaml")


def test_a_python_tag_is_refused_and_not_executed(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    call = f"!!python/object/apply:os.mkdir ['{witness}']"
    for text in (call, yaml.safe_dump(GOOD) + f"pruner: {call}\n"):
        with pytest.raises(SpecError, match="is not valid YAML"):
            parse_spec(text, "spec.yaml")
        assert not witness.exists()


def test_a_spec_file_that_is_not_text_is_a_spec_error(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(SpecError, match=r"spec\.yaml"):
        load_spec(str(path))


def test_a_source_that_is_neither_file_nor_preset_hints_at_presets(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"quikstart: no such spec file.*did you mean quickstart"):
        load_spec("quikstart")
    with pytest.raises(SpecError, match=r"no such spec file or preset.*quickstart"):
        load_spec(str(tmp_path))


@pytest.mark.parametrize("name", list(presets()))
def test_every_preset_loads_and_is_named_like_its_file(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    assert spec == load_spec(str(presets()[name]))


def test_the_quickstart_begins_with_the_released_values_and_uses_two_workers() -> None:
    spec = load_spec("quickstart")
    assert spec.first_points(UMAZE)[0] == RELEASED
    assert spec.resources.teacher.workers == 2
    assert set(spec.rows_of(spec.datasets()[0])) == {"regression", "teacher", "ctd"}


def test_a_file_wins_over_a_preset_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text(yaml.safe_dump(GOOD))
    assert load_spec("quickstart").name == "good"


names = st.from_regex(r"[a-z][a-z0-9._-]{0,20}", fullmatch=True)
weights = st.floats(0, 1e6, allow_nan=False)


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted(draw(st.tuples(st.floats(1e-9, 1e3), st.floats(1e-9, 1e3))))
    return {"low": low, "high": high * 2 + 1e-9, "log": draw(st.booleans())}


parameters = st.one_of(
    ranges(),
    st.fixed_dictionaries({"choices": st.lists(weights, min_size=1, max_size=4, unique=True)}),
)


@settings(max_examples=40)
@given(
    name=names,
    trials=st.integers(1, 10**6),
    search=st.dictionaries(
        st.sampled_from(["sigma", "alpha", "student.optim.weight_decay"]), parameters, min_size=1
    ),
    seed=st.integers(0, 2**31),
    horizon=st.sampled_from([16, 128, 160]),
    workers=st.sampled_from([1, 2, 4]),
    cpus=st.floats(0.01, 64),
    rows=st.lists(st.sampled_from(["regression", "teacher", "ctd"]), unique=True),
)
def test_a_dumped_spec_is_read_back_the_same(
    name: str,
    trials: int,
    search: dict[str, Any],
    seed: int,
    horizon: int,
    workers: int,
    cpus: float,
    rows: list[str],
) -> None:
    spec = parse(
        {
            "name": name,
            "tasks": ["local/maze2d-umaze-v1", "local/maze2d-large-v1"],
            "trials": trials,
            "search": search,
            "first_trials": [],
            "rows": rows,
            "seed": seed,
            "recipe": {"window": {"horizon": horizon}},
            "resources": {"student": {"workers": workers, "cpus": cpus}},
        }
    )
    assert (spec.name, spec.trials, spec.seed) == (name, trials, seed)
    assert {spec.recipe_of(name).window.horizon for name in spec.datasets()} == {horizon}
    again = parse_spec(dump_spec(spec), "spec.yaml")
    assert again == spec
    assert dump_spec(again) == dump_spec(spec)


@pytest.mark.parametrize("name", list(presets()))
def test_a_dumped_preset_is_read_back_the_same(name: str) -> None:
    spec = load_spec(name)
    assert parse_spec(dump_spec(spec), "spec.yaml") == spec


def test_a_recipe_given_in_part_keeps_the_other_defaults() -> None:
    spec = parse({**GOOD, "recipe": {"reward": {"optim": {"steps": 7}}}})
    assert spec.recipe_of(UMAZE) == apply(Recipe(), {"reward.optim.steps": 7})
    assert spec.recipe_of(UMAZE).reward.optim.batch_size != Recipe().teacher.optim.batch_size


@pytest.mark.parametrize(
    ("alias", "section", "leaf"),
    [
        ("alpha", "student", "ctm_weight"),
        ("beta", "student", "dsm_weight"),
        ("sigma", "student", "reward_weight"),
        ("horizon", "window", "horizon"),
    ],
)
def test_the_papers_names_stand_for_fields(alias: str, section: str, leaf: str) -> None:
    by_alias, by_path = (
        parse({**GOOD, "search": {name: {"choices": [32]}}, "first_trials": [{name: 32}]})
        for name in (alias, f"{section}.{leaf}")
    )
    assert by_alias == by_path
    recipe = apply(by_alias.recipe_of(UMAZE), {canonical_path(alias): 32})
    assert getattr(getattr(recipe, section), leaf) == 32


def test_first_points_hold_the_searched_part_of_the_recipe_that_they_name() -> None:
    spec = parse({**GOOD, "first_trials": ["default", "released", {"horizon": 128}]})
    default, released, other = spec.first_points(UMAZE)
    assert set(default) == set(released) == set(spec.search)
    assert default == {path: value_at(Recipe(), path) for path in spec.search}
    assert released == {path: RELEASED[path] for path in spec.search}
    assert other == {"window.horizon": 128}


def test_the_default_first_trial_knows_the_sweeps_own_changes_and_a_familys_does_not() -> None:
    changes = {"window": {"horizon": 128}, "student": {"reward_weight": 5e-4}}
    spec = parse({**GOOD, "first_trials": ["default", "small"], "recipe": changes})
    default, small = spec.first_points(UMAZE)
    assert (default["window.horizon"], default["student.reward_weight"]) == (128, 5e-4)
    assert (small["window.horizon"], small["student.reward_weight"]) == (160, 1e-4)


def test_any_field_that_is_searched_begins_with_the_familys_value() -> None:
    search = {"student.optim.lr": {"low": 1e-5, "high": 1e-2, "log": True}}
    spec = parse({**GOOD, "search": search, "first_trials": ["released"]})
    released = recipe_for(UMAZE.task, "released")
    assert spec.first_points(UMAZE) == [{"student.optim.lr": released.student.optim.lr}]


def test_selection_and_final_evaluation_never_share_a_seed() -> None:
    room = CONFIRMATION_SEED - SELECTION_SEED
    parse({**GOOD, "evaluation": {"selection_episodes": room - 1}})
    [problem] = problems({**GOOD, "evaluation": {"selection_episodes": room}})
    assert problem.startswith("evaluation.selection_episodes: ")


@pytest.mark.parametrize("name", ["0e0", "1e5", "12", "1.5"])
def test_a_name_that_looks_like_a_number_is_read_back_as_a_name(name: str) -> None:
    spec = parse(changed()).model_copy(update={"name": name})
    assert parse_spec(dump_spec(spec), "spec.yaml").name == name
