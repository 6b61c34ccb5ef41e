"""What the driver decides before anything runs: which stages to build, and whether they fit."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ractd_core.config import Recipe
from ractd_core.tasks import parse_dataset_name
from sweeps.drive import main as drive
from sweeps.driver import Driver, TasksFailedError
from sweeps.embedded_ray import ResourceError, capacity, check_resources, idle_gpus
from sweeps.layout import SweepFolder, TaskContext
from sweeps.requests import describe, stage_requests
from sweeps.search_space import apply
from sweeps.spec import parse_spec
from sweeps.spec_parts import Resources, StageResources
from tests.sweeps.study import Start, open_search, run

pytestmark = pytest.mark.usefixtures("project_home")

RANGE = {"low": 0.1, "high": 1.0}
SHARED = ("teacher", "reward")


def context(search: dict[str, Any], **changes: Any) -> TaskContext:
    raw = {
        "name": "one",
        "tasks": ["local/maze2d-umaze-v1"],
        "trials": 100,
        "search": search,
        "first_trials": [],
        **changes,
    }
    spec = parse_spec(yaml.safe_dump(raw), "spec.yaml")
    return TaskContext(SweepFolder(Path("storage"), "one"), spec, spec.datasets()[0], "f" * 64)


def test_every_task_whose_data_cannot_be_had_is_named(tmp_path: Path) -> None:
    here = context({"sigma": RANGE}, tasks=["mylab/maze2d-umaze-v1", "mylab/pen-human-v1"])
    folder = SweepFolder(tmp_path, "one")
    folder.freeze(here.spec)
    with pytest.raises(TasksFailedError) as caught:
        Driver(folder).run()
    for name in here.spec.tasks:
        assert f"{name}: dataset {name} is not under " in str(caught.value)


def test_while_it_searches_a_driver_reads_a_record_once(start: Start) -> None:
    search = open_search(start())
    context = search.context
    run(search, 3)
    driver = Driver(context.folder)
    before = driver._search_news([context])
    [line] = before
    assert "3/6 trials (3 completed)" in line
    for path in context.folder.trials.root.glob("*/record.json"):
        path.write_text("{torn")
    assert driver._search_news([context]) == before


# Stages before the trials


def test_a_teacher_for_every_horizon_and_one_reward_for_all() -> None:
    here = context({"horizon": {"choices": [128, 160, 256]}, "sigma": RANGE})
    teachers = stage_requests(here, "teacher")
    assert [request.recipe.window.horizon for request in teachers] == [128, 160, 256]
    assert len({request.name for request in teachers}) == 3
    assert len(stage_requests(here, "reward")) == 1


@pytest.mark.parametrize("kind", SHARED)
def test_stages_that_the_search_does_not_touch_are_built_once(kind: str) -> None:
    here = context({"sigma": RANGE, "student.optim.lr": RANGE})
    assert stage_requests(here, kind) == [here.request(kind, here.recipe)]


def test_choices_of_stage_fields_are_combined() -> None:
    here = context(
        {
            "horizon": {"choices": [128, 160]},
            "teacher.seed": {"choices": [0, 1, 2]},
            "reward.discount": {"choices": [0.9, 0.99]},
            "student.seed": {"choices": [0, 1]},
        }
    )
    assert len(stage_requests(here, "teacher")) == 6
    assert len(stage_requests(here, "reward")) == 2


def test_fields_drawn_from_a_range_are_left_to_the_trials() -> None:
    here = context({"teacher.optim.lr": RANGE, "horizon": {"choices": [128, 160]}})
    assert stage_requests(here, "teacher") == []
    assert len(stage_requests(here, "reward")) == 1


def test_more_choices_than_trials_are_left_to_the_trials() -> None:
    horizons = {"horizon": {"low": 16, "high": 240, "step": 16}}
    assert len(stage_requests(context(horizons, trials=15), "teacher")) == 15
    assert stage_requests(context(horizons, trials=14), "teacher") == []
    many = context({"teacher.seed": {"low": 0, "high": 1_000_000}}, trials=14)
    assert stage_requests(many, "teacher") == []
    assert len(stage_requests(many, "reward")) == 1


def test_points_of_a_space_that_ask_for_one_stage_are_not_looked_at_without_end() -> None:
    here = context(
        {
            "teacher.reward_weight": {"choices": [0.0]},
            "reward.seed": {"low": 0, "high": 1_000_000},
        }
    )
    assert stage_requests(here, "teacher") == []


@given(
    st.lists(st.sampled_from([16, 128, 160, 256]), min_size=1, unique=True),
    st.lists(st.integers(0, 3), min_size=1, unique=True),
)
def test_every_trial_finds_its_stages_among_those_built(
    horizons: list[int], seeds: list[int]
) -> None:
    here = context({"horizon": {"choices": horizons}, "teacher.seed": {"choices": seeds}})
    built = {request.name for kind in SHARED for request in stage_requests(here, kind)}
    wanted = {
        name
        for horizon in horizons
        for seed in seeds
        for name in here.trial(
            {"window.horizon": horizon, "teacher.seed": seed}
        ).student.parents.values()
    }
    assert built == wanted


REWARDED = {"recipe": {"teacher": {"reward_weight": 0.1}}}


@pytest.mark.parametrize(
    ("weights", "changes"), [([0.1], REWARDED), ([0.0, 0.1], {})], ids=["recipe", "searched"]
)
def test_a_rewarded_teacher_is_built_for_every_reward_model(
    weights: list[float], changes: dict[str, Any]
) -> None:
    searched = {"teacher.reward_weight": {"choices": weights}} if len(weights) > 1 else {}
    discounts = [0.9, 0.99]
    here = context({"reward.discount": {"choices": discounts}, **searched}, **changes)
    rewards, teachers = (stage_requests(here, kind) for kind in ("reward", "teacher"))
    # Without a reward in it, a teacher is one for all.
    assert len(teachers) == len(weights) * 2 - (0.0 in weights)
    named = {name for teacher in teachers for name in teacher.parents.values()}
    assert named == {reward.name for reward in rewards}
    wanted = {
        here.trial({"reward.discount": discount, "teacher.reward_weight": weight}).student.parents[
            "teacher"
        ]
        for discount in discounts
        for weight in weights
    }
    assert {teacher.name for teacher in teachers} == wanted


def test_a_rewarded_teacher_is_left_to_the_trials_if_its_reward_model_is() -> None:
    assert stage_requests(context({"reward.optim.lr": RANGE}, **REWARDED), "teacher") == []
    assert len(stage_requests(context({"reward.optim.lr": RANGE}), "teacher")) == 1


def test_tasks_do_not_share_stages() -> None:
    one = context({"sigma": RANGE})
    other = dataclasses.replace(
        one, dataset=parse_dataset_name("local/maze2d-large-v1"), fingerprint="e" * 64
    )
    for kind in SHARED:
        [a], [b] = stage_requests(one, kind), stage_requests(other, kind)
        assert a.name != b.name
        assert b.dataset == "local/maze2d-large-v1"


def test_a_stage_is_described_by_its_kind_horizon_and_name() -> None:
    here = context({"sigma": RANGE})
    recipe = apply(Recipe(), {"window.horizon": 192})
    teacher, reward = (here.request(kind, recipe) for kind in SHARED)
    assert describe(teacher).startswith("teacher for horizon 192 ")
    assert "horizon" not in describe(reward)
    for request in (teacher, reward):
        assert request.name in describe(request)


# Resources


def stage(workers: int = 1, cpus: float = 1.0, gpus: float = 0.0) -> StageResources:
    return StageResources(workers=workers, cpus=cpus, gpus=gpus)


eighths = st.integers(1, 64).map(lambda n: n / 8)


whole = st.integers(0, 8).map(float)


@given(st.integers(1, 4), eighths, whole, eighths, whole)
def test_capacity_is_the_most_that_fits(
    workers: int, cpus: float, gpus: float, has_cpus: float, has_gpus: float
) -> None:
    found = capacity(stage(workers, cpus, gpus), {"CPU": has_cpus, "GPU": has_gpus})

    def fit(count: int) -> bool:
        return count * workers * cpus <= has_cpus and count * workers * gpus <= has_gpus

    assert fit(found)
    assert not fit(found + 1)


def test_tenths_of_a_cpu_add_up() -> None:
    assert capacity(stage(3, 0.1), {"CPU": 0.3}) == 1
    assert capacity(stage(1, 0.1), {"CPU": 0.7}) == 7
    assert capacity(stage(1, 0.1), {"CPU": 1.0}) == 10


def test_who_asks_for_none_of_the_gpus_there_are_is_told_how() -> None:
    [line] = idle_gpus(Resources(), {"CPU": 2.0, "GPU": 1.0})
    assert line.startswith("1 GPU not used: ")
    assert "resources.student.gpus" in line
    assert idle_gpus(Resources(), {"CPU": 2.0}) == []
    shared = Resources(student=StageResources(gpus=0.25))
    assert idle_gpus(shared, {"CPU": 2.0, "GPU": 1.0}) == []


def test_a_machine_without_gpus_has_room_for_none() -> None:
    assert capacity(stage(gpus=0.5), {"CPU": 8.0}) == 0
    assert capacity(stage(), {}) == 0


IMPOSSIBLE: dict[str, StageResources] = {
    "teacher": stage(workers=3),
    "reward": stage(gpus=1.0),
    "student": stage(cpus=2.5),
}


@given(st.sets(st.sampled_from(sorted(IMPOSSIBLE))))
def test_every_stage_that_cannot_be_placed_is_named(asked: set[str]) -> None:
    resources = Resources(**{kind: IMPOSSIBLE[kind] for kind in asked})
    available = {"CPU": 2.0, "memory": 1e9}
    if not asked:
        check_resources(resources, available)
        return
    with pytest.raises(ResourceError) as caught:
        check_resources(resources, available)
    lines = str(caught.value).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == sorted(
        f"resources.{kind}" for kind in asked
    )
    assert all("2 CPUs" in line and "0 GPUs" in line for line in lines)


@pytest.mark.parametrize("kind", sorted(IMPOSSIBLE))
def test_what_does_not_fit_names_what_it_asked_for(kind: str) -> None:
    wanted = IMPOSSIBLE[kind]
    with pytest.raises(ResourceError) as caught:
        check_resources(Resources(**{kind: wanted}), {"CPU": 2.0})
    text = str(caught.value)
    for number in (wanted.workers, wanted.cpus, wanted.gpus):
        assert f"{number:g}" in text


def test_a_full_disk_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = SweepFolder(tmp_path, "one")
    folder.freeze(context({"sigma": RANGE}).spec)
    monkeypatch.setattr(os, "fsync", full)
    assert drive(str(tmp_path), "one") == 1
    said = capsys.readouterr().err
    assert f"storage {tmp_path} is full" in said
    assert "`ractd sweep resume one --storage " in said
    assert "Traceback" not in said
