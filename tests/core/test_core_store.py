"""Datasets on disk: exact round trips, damage noticed and repaired, half-made ones never left."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import minari
import numpy as np
import pytest

from ractd_core.data.collect_maze2d import collect_maze2d
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.store import (
    LocalRecipe,
    datasets_root,
    flatten,
    is_present,
    load,
    make_local,
    recipe_of,
)
from ractd_core.files import home
from ractd_core.tasks import DatasetName, get_task, parse_dataset_name

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
    assert data.name == "local/maze2d-umaze-v1"
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
    assert recipe_of(stored) == RECIPE


def test_terminated_episodes_come_back_terminated(flat: Callable[..., FlatDataset]) -> None:
    data = flat([3, 5, 2], terminated=[True, False, True])
    episodes = []
    for index in range(3):
        first, end = data.bounds[index : index + 2]
        episodes.append(
            SimpleNamespace(
                observations=data.observations[first:end],
                actions=data.actions[first : end - 1],
                rewards=data.rewards[first : end - 1],
                terminations=np.array([False] * (end - first - 2) + [data.terminated[index]]),
            )
        )
    assert same(flatten(get_task("maze2d-umaze-v1"), "again", episodes), data)


def test_the_cache_is_used(stored: DatasetName, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = load(stored).fingerprint

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the Minari files were read again")

    monkeypatch.setattr(minari, "load_dataset", refuse)
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
    assert str(RECIPE) in str(caught.value)
    assert str(other) in str(caught.value)
    assert same(load(stored), original)


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
    try:
        generated = make_local(umaze, RECIPE)
    except DataError as error:
        assert str(stale.parent) in str(error)  # noqa: PT017 - raising is allowed, not required
    else:
        assert generated
        assert same(load(umaze), original)


@pytest.mark.parametrize("file", ["main_data.hdf5", "metadata.json"])
@pytest.mark.parametrize("damage", [half, empty, remove])
def test_damaged_minari_files_are_named_with_the_way_out(
    stored: DatasetName, file: str, damage: Callable[[Path], None]
) -> None:
    damage(datasets_root() / "local" / "maze2d-umaze-v1" / "data" / file)
    with pytest.raises(DataError, match="ractd data make local/maze2d-umaze-v1"):
        load(stored)


@pytest.mark.parametrize(
    ("observations", "actions", "rewards"),
    [
        ((4, 4), (4, 2), 4),
        ((5, 3), (4, 2), 4),
        ((5, 4), (4, 3), 4),
        ((5, 4), (3, 2), 4),
        ((5, 4), (4,), 4),
        ((1, 4), (0, 2), 0),
    ],
)
def test_episodes_that_do_not_fit_the_task_are_named(
    observations: tuple[int, ...], actions: tuple[int, ...], rewards: int
) -> None:
    def episode(o: tuple[int, ...], a: tuple[int, ...], r: int) -> SimpleNamespace:
        ends = np.zeros(max(r, 1), dtype=bool)
        return SimpleNamespace(
            observations=np.zeros(o), actions=np.zeros(a), rewards=np.zeros(r), terminations=ends
        )

    good = episode((5, 4), (4, 2), 4)
    with pytest.raises(DataError, match="given: episode 1 has"):
        flatten(
            get_task("maze2d-umaze-v1"), "given", [good, episode(observations, actions, rewards)]
        )


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


def _make(gate: Any, results: Any, transitions: int) -> None:
    name = parse_dataset_name("local/maze2d-umaze-v1")
    gate.wait(60)
    results.put((make_local(name, LocalRecipe(transitions)), load(name).fingerprint))


def test_processes_that_make_it_at_once_make_it_once(umaze: DatasetName) -> None:
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(3), context.Queue()
    makers = [
        context.Process(target=_make, args=(gate, results, 6000), daemon=True) for _ in range(3)
    ]
    for maker in makers:
        maker.start()
    answers = [results.get(timeout=120) for _ in makers]
    for maker in makers:
        maker.join(60)
        assert maker.exitcode == 0
    assert sorted(made for made, _ in answers) == [False, False, True]
    expected = collect_maze2d(umaze, 6000).fingerprint
    assert {fingerprint for _, fingerprint in answers} == {expected}
    assert len(list((home() / "cache" / "datasets").iterdir())) == 1
