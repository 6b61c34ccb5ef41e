"""Datasets on disk: exact round trips, damage noticed and repaired, half-made ones never left."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from ractd_core.data.collect_maze2d import collect_maze2d
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.generate import LocalRecipe, make_local
from ractd_core.data.minari_io import datasets_root
from ractd_core.data.rows import Rows, from_rows
from ractd_core.data.store import (
    Original,
    folder_of,
    how_to_get,
    is_present,
    load,
    origin_of,
    present_datasets,
    put,
)
from ractd_core.files import home
from ractd_core.tasks import DatasetName, all_tasks, get_task, parse_dataset_name
from tests.core.sources import (
    at_once,
    change_metadata,
    d4rl_rows,
    minari_episodes,
    store_minari,
)

RECIPE = LocalRecipe(transitions=1200, seed=3, noisy=True)
ARRAYS = ("observations", "actions", "rewards", "bounds", "terminated")


@pytest.fixture(scope="module")
def original(umaze: DatasetName) -> FlatDataset:
    return collect_maze2d(umaze, 1200, seed=3, noisy=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, umaze: DatasetName) -> Path:
    """A root with one dataset, made once and copied by those who need it."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        assert make_local(umaze, RECIPE)
    return root


@pytest.fixture
def stored(made: Path, umaze: DatasetName) -> DatasetName:
    """The dataset under this test's own root, without a cache."""
    shutil.copytree(made, datasets_root())
    return umaze


def cached(name: str) -> Path:
    (path,) = (home() / "cache").rglob(name)
    return path


def same(left: FlatDataset, right: FlatDataset) -> bool:
    for key in ARRAYS:
        np.testing.assert_array_equal(getattr(left, key), getattr(right, key))
        assert getattr(left, key).dtype == getattr(right, key).dtype
    return left.fingerprint == right.fingerprint


def test_what_is_collected_comes_back_exactly(stored: DatasetName, original: FlatDataset) -> None:
    data = load(stored)
    assert same(data, original)
    assert data.name is stored
    assert all(isinstance(getattr(data, key), np.memmap) for key in ARRAYS)
    assert same(load(stored), original)


def test_minari_reads_it_too(stored: DatasetName, original: FlatDataset) -> None:
    dataset = minari.load_dataset("local/maze2d-umaze-v1")
    assert dataset.total_steps == original.transitions
    assert dataset.total_episodes == original.episodes
    episode = next(iter(dataset.iterate_episodes([4])))
    first, end = original.bounds[4:6]
    np.testing.assert_array_equal(episode.observations, original.observations[first:end])
    assert episode.truncations.tolist() == [False] * (end - first - 2) + [True]
    assert not episode.terminations.any()
    assert dataset.storage.metadata["ref_min_score"] == 23.85
    assert dataset.storage.metadata["ref_max_score"] == 161.86
    assert origin_of(stored) == {
        "kind": "generated",
        "recipe": RECIPE.relevant(stored.task),
        "task": stored.task.name,
        "fingerprint": load(stored).fingerprint,
    }


def test_terminated_episodes_come_back_terminated() -> None:
    name = parse_dataset_name("mylab/hopper-medium-v2")
    arrays = d4rl_rows(name.task.name, rows=60) | {"next_observations": None}
    arrays["timeouts"][[4, 9]] = True
    data = from_rows(name, Rows(**arrays, where="mine"))
    assert data.terminated.tolist() == [False, False, True, True, True]
    assert put(name, lambda: Original(data, {"kind": "made"}, "by hand", "made up"))
    assert same(load(name), data)
    assert not put(name, lambda: pytest.fail("made twice"))
    metadata = minari.load_dataset("mylab/hopper-medium-v2").storage.metadata
    assert (metadata["algorithm_name"], metadata["description"]) == ("by hand", "made up")


def test_the_cache_is_used(stored: DatasetName, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = load(stored).fingerprint

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the Minari files were read again")

    monkeypatch.setattr("ractd_core.data.store.read_minari", refuse)
    assert load(stored).fingerprint == fingerprint
    monkeypatch.setenv("RACTD_HOME", str(home().parent / "elsewhere"))
    with pytest.raises(AssertionError, match="read again"):
        load(stored)


def half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def inside_the_header(file: Path) -> None:
    os.truncate(file, 20)


def one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [half, empty, inside_the_header, one_bit, zeros, remove])
@pytest.mark.parametrize("file", ["observations.npy", "bounds.npy"])
def test_a_damaged_cache_is_made_anew(
    stored: DatasetName,
    original: FlatDataset,
    caplog: pytest.LogCaptureFixture,
    file: str,
    damage: Callable[[Path], None],
) -> None:
    load(stored)
    damage(cached(file))
    with caplog.at_level(logging.WARNING):
        assert same(load(stored), original)
    assert "damaged" in caplog.text
    caplog.clear()
    assert same(load(stored), original)
    assert caplog.text == ""


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"fingerprint": "other"}'])
def test_a_cache_whose_description_is_damaged_is_made_anew(
    stored: DatasetName, original: FlatDataset, content: str
) -> None:
    load(stored)
    cached("about.json").write_text(content)
    assert same(load(stored), original)


def test_a_replaced_dataset_is_not_served_from_the_old_cache(stored: DatasetName) -> None:
    before = load(stored).fingerprint
    shutil.rmtree(datasets_root())
    assert make_local(stored, LocalRecipe(transitions=900, seed=4))
    after = load(stored)
    assert after.fingerprint != before
    assert after.transitions <= 900


def test_an_absent_dataset_says_how_to_get_it(umaze: DatasetName) -> None:
    assert not is_present(umaze)
    with pytest.raises(DataError, match="ractd data make local/maze2d-umaze-v1") as caught:
        load(umaze)
    assert str(datasets_root()) in str(caught.value)


def test_the_same_recipe_makes_it_once(stored: DatasetName, original: FlatDataset) -> None:
    assert not make_local(stored, RECIPE)
    assert same(load(stored), original)


@pytest.mark.parametrize(
    "other",
    [LocalRecipe(1201, 3, True), LocalRecipe(1200, 4, True), LocalRecipe(1200, 3, False)],
)
def test_another_recipe_is_refused_and_nothing_touched(
    stored: DatasetName, original: FlatDataset, other: LocalRecipe
) -> None:
    with pytest.raises(DataError, match="was made with") as caught:
        make_local(stored, other)
    for recipe in (RECIPE, other):
        assert str(recipe.relevant(stored.task)) in str(caught.value)
    assert same(load(stored), original)


def test_what_a_mazes_recipe_does_not_read_makes_no_other_recipe(stored: DatasetName) -> None:
    assert not make_local(stored, replace(RECIPE, training_steps=5000))
    hopper = get_task("hopper-medium-v2")
    assert RECIPE.relevant(hopper) == replace(RECIPE, noisy=False).relevant(hopper)
    assert RECIPE.relevant(hopper) != replace(RECIPE, training_steps=5000).relevant(hopper)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupted_write_leaves_nothing_behind(
    umaze: DatasetName, original: FlatDataset, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    create = minari.create_dataset_from_buffers
    root = os.environ["MINARI_DATASETS_PATH"]

    def fail(*args: Any, **kwargs: Any) -> None:
        if moment == "after":
            create(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(minari, "create_dataset_from_buffers", fail)
        with pytest.raises(KeyboardInterrupt):
            make_local(umaze, RECIPE)
    assert os.environ["MINARI_DATASETS_PATH"] == root
    assert not is_present(umaze)
    assert [path for path in datasets_root().rglob("*") if path.suffix in (".hdf5", ".json")] == []
    with pytest.raises(DataError, match="ractd data make"):
        load(umaze)
    assert make_local(umaze, RECIPE)
    assert same(load(umaze), original)
    leftovers = {path.name for path in (datasets_root() / "local").iterdir()}
    assert leftovers <= {"maze2d-umaze-v1", "namespace_metadata.json"}


def test_a_half_made_folder_of_somebody_elses_does_not_pass_for_a_dataset(
    umaze: DatasetName, original: FlatDataset
) -> None:
    # What an interrupted download by Minari itself leaves.
    stale = datasets_root() / "local" / "maze2d-umaze-v1" / "data"
    stale.mkdir(parents=True)
    (stale / "main_data.hdf5").write_bytes(b"")
    assert make_local(umaze, RECIPE)
    assert same(load(umaze), original)


@pytest.mark.parametrize("file", ["main_data.hdf5", "metadata.json"])
@pytest.mark.parametrize("damage", [half, empty, remove])
def test_damaged_minari_files_are_named_with_the_way_out(
    stored: DatasetName, file: str, damage: Callable[[Path], None]
) -> None:
    damage(datasets_root() / "local" / "maze2d-umaze-v1" / "data" / file)
    with pytest.raises(DataError) as caught:
        load(stored)
    message = str(caught.value)
    if damage is remove and file == "metadata.json":
        assert "`ractd data make local/maze2d-umaze-v1` generates it" in message
    else:
        assert str(folder_of(stored)) in message
        assert "get the dataset again" in message


def test_root_and_home_default_to_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.delenv("RACTD_HOME")
    assert datasets_root() == Path.home() / ".minari" / "datasets"
    assert home() == Path.home() / ".ractd"
    monkeypatch.setenv("MINARI_DATASETS_PATH", "")
    assert datasets_root() == Path.home() / ".minari" / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", "~/sets")
    assert datasets_root() == Path.home() / "sets"
    monkeypatch.setenv("RACTD_HOME", "relative")
    assert home() == Path.cwd() / "relative"


MAKE = """
from ractd_core.data.generate import LocalRecipe, make_local
from ractd_core.data.store import load
from ractd_core.tasks import parse_dataset_name
name = parse_dataset_name("local/maze2d-umaze-v1")
# go
print(make_local(name, LocalRecipe(6000)), load(name).fingerprint)
"""


def test_processes_that_make_it_at_once_make_it_once(umaze: DatasetName, tmp_path: Path) -> None:
    results = at_once(MAKE, count=3, gate=tmp_path / "gate")
    assert [code for code, _, _ in results] == [0] * 3, results
    made, fingerprints = zip(*(out.split() for _, out, _ in results), strict=True)
    assert sorted(made) == ["False", "False", "True"]
    assert set(fingerprints) == {collect_maze2d(umaze, 6000).fingerprint}
    assert len(list((home() / "cache" / "datasets").iterdir())) == 1


@contextmanager
def no_file_larger_than(limit: int) -> Any:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [10, 1000, 10_000])
def test_no_room_for_the_cache_is_a_message(
    stored: DatasetName, original: FlatDataset, limit: int
) -> None:
    with no_file_larger_than(limit), pytest.raises(DataError, match="no room left for") as caught:
        load(stored)
    assert str(home()) in str(caught.value)
    assert [path for path in home().rglob("*") if path.is_file()] == []
    assert same(load(stored), original)


# What is here


def test_datasets_of_every_source_are_found_in_the_tables_order(stored: DatasetName) -> None:
    root = datasets_root()
    for task_name, minari_id in (
        ("kitchen-mixed-v0", "D4RL/kitchen/mixed-v2"),
        ("hopper-medium-v2", "mujoco/hopper/medium-v0"),
        ("hopper-medium-v2", "mylab/hopper-medium-v2"),
        ("hopper-medium-v2", "somebody/else-v0"),
    ):
        act_dim = all_tasks()[task_name].act_dim
        store_minari(root, minari_id, minari_episodes(task_name), act_dim)
    (root / "mylab" / "door-human-v1").mkdir()
    assert [str(name) for name in present_datasets()] == [
        "minari/hopper-medium-v2",
        "mylab/hopper-medium-v2",
        "local/maze2d-umaze-v1",
        "minari/kitchen-mixed-v0",
    ]
    shutil.rmtree(root)
    assert present_datasets() == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("d4rl/antmaze-umaze-v2", "`ractd data download antmaze-umaze-v2` fetches it"),
        ("minari/pen-human-v1", "`ractd data download pen-human-v1 --source minari` fetches it"),
        ("local/hopper-medium-v2", "`ractd data make local/hopper-medium-v2` generates it"),
        (
            "local/pen-human-v1",
            "`ractd data import FILE --task pen-human-v1 --source local` stores data of your own",
        ),
        ("mylab/pen-human-v1", "`ractd data import FILE --task pen-human-v1 --source mylab`"),
        ("mylob/pen-human-v1", "; did you mean mylab?"),
        ("d4rk/pen-human-v1", "; did you mean d4rl?"),
    ],
)
def test_how_to_get_a_dataset(name: str, told: str) -> None:
    store_minari(datasets_root(), "mylab/pen-human-v1", minari_episodes("pen-human-v1"), 24)
    assert told in how_to_get(parse_dataset_name(name))


def test_a_dataset_that_changed_while_in_use_is_noticed(stored: DatasetName) -> None:
    fingerprint = load(stored).fingerprint
    assert load(stored, fingerprint).fingerprint == fingerprint
    with pytest.raises(DataError, match="it was replaced while it was in use") as caught:
        load(stored, "0" * 64)
    assert fingerprint[:12] in str(caught.value)


def test_a_cache_that_never_holds_is_given_up(
    stored: DatasetName, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk that loses what is written.
    save = np.save
    monkeypatch.setattr(np, "save", lambda file, array: save(file, array[:-1]))
    with pytest.raises(DataError, match="damaged 3 times in a row; check the disk"):
        load(stored)


# Records of where data come from


@pytest.mark.parametrize("origin", ["{", "[1]", '"text"', 7])
def test_a_damaged_record_of_the_origin_is_named(stored: DatasetName, origin: Any) -> None:
    change_metadata(folder_of(stored) / "data", ractd_origin=origin)
    for call in (lambda: origin_of(stored), lambda: make_local(stored, RECIPE)):
        with pytest.raises(DataError, match="is damaged") as caught:
            call()
        assert str(folder_of(stored)) in str(caught.value)


def test_a_recipe_of_another_release_is_another_recipe(stored: DatasetName) -> None:
    origin = {"kind": "generated", "recipe": {"transitions": 1200, "colour": "red"}}
    change_metadata(folder_of(stored) / "data", ractd_origin=json.dumps(origin))
    with pytest.raises(DataError, match=r"was made with .*colour"):
        make_local(stored, RECIPE)


def test_a_dataset_that_nobody_recorded_has_no_origin() -> None:
    store_minari(datasets_root(), "mylab/pen-human-v1", minari_episodes("pen-human-v1"), 24)
    assert origin_of(parse_dataset_name("mylab/pen-human-v1")) == {}


def test_only_local_data_are_generated() -> None:
    for text in ("d4rl/hopper-medium-v2", "local/pen-human-v1", "mylab/maze2d-umaze-v1"):
        with pytest.raises(DataError, match="cannot be generated here"):
            make_local(parse_dataset_name(text), RECIPE)
