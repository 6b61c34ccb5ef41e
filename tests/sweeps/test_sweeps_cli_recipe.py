"""``ractd recipe``: what it prints is a recipe, and says whose numbers they are."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import yaml

from ractd_core.config import Recipe
from ractd_core.recipes import Family, recipe_for
from ractd_core.tasks import get_task, parse_dataset_name
from sweeps.spec import parse_spec
from tests.sweeps.command import ractd

pytestmark = pytest.mark.usefixtures("project_home")


@pytest.mark.parametrize("family", get_args(Family))
@pytest.mark.parametrize("task", ["maze2d-large-v1", "hopper-random-v2"])
def test_the_recipe_is_printed_whole_as_yaml_and_as_json(task: str, family: Family) -> None:
    expected = recipe_for(get_task(task), family)
    printed = ractd("recipe", task, "--family", family)
    assert Recipe.model_validate(yaml.safe_load(printed)) == expected
    as_json = json.loads(ractd("recipe", task, "--family", family, "--json"))
    assert Recipe.model_validate(as_json) == expected


def test_what_is_printed_can_be_pasted_into_a_spec() -> None:
    printed = ractd("recipe", "hopper-medium-v2", "--family", "released")
    pasted = "".join(f"  {line}\n" for line in printed.splitlines())
    spec = parse_spec(
        "name: one\ntasks: [d4rl/hopper-medium-v2]\ntrials: 1\n"
        f"search: {{sigma: {{low: 0, high: 2}}}}\nrecipe:\n{pasted}",
        "spec.yaml",
    )
    dataset = parse_dataset_name("d4rl/hopper-medium-v2")
    assert spec.recipe_of(dataset) == recipe_for(dataset.task, "released")


@pytest.mark.parametrize(
    ("task", "family", "whose"),
    [
        ("hopper-medium-v2", "small", "ours, for a CPU"),
        ("hopper-medium-v2", "released", "the released configuration"),
        ("hopper-random-v2", "released", "ours, after hopper-medium-replay-v2's released"),
        (
            "maze2d-umaze-v1",
            "paper",
            "the released configuration, with what the paper says instead",
        ),
    ],
)
def test_the_first_line_says_whose_numbers_they_are(task: str, family: str, whose: str) -> None:
    first, *_ = ractd("recipe", task, "--family", family).splitlines()
    assert first == f"# {task}, {family}: {whose}"


def test_a_task_that_is_none_is_refused_with_near_names() -> None:
    message = ractd("recipe", "hoper-medium-v2", code=2)
    assert message.startswith(
        "error: unknown task 'hoper-medium-v2'; did you mean hopper-medium-v2"
    )


def test_a_family_that_is_none_is_refused_with_those_that_are() -> None:
    message = ractd("recipe", "hopper-medium-v2", "--family", "papers", code=2)
    for family in get_args(Family):
        assert family in message
