"""A store that builds each stage once, whatever happens to the builders.

Some tests start processes, which import this file anew: it imports little.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ractd_core.config import Recipe
from sweeps.stage_store import MANIFEST, MODEL, StageRequest, StageStore

SPAWN = multiprocessing.get_context("spawn")


def request(kind: str = "teacher", seed: int = 0) -> StageRequest:
    """A stage of the default recipe, or its teacher with another seed."""
    recipe = Recipe.model_validate({"teacher": {"seed": seed}})
    parents = {"teacher": "teacher-01", "reward": "reward-02"} if kind == "student" else {}
    return StageRequest(kind, recipe, "local/maze2d-umaze-v1", "f" * 64, parents)


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "stages")


def builder(content: bytes = b"weights") -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        (folder / MODEL).write_bytes(content)
        return {"steps": 3, "loss": 0.5}

    return build


def refuse(folder: Path) -> dict[str, Any]:
    raise AssertionError(f"built again in {folder}")


def test_a_stage_is_built_once_and_then_found(store: StageStore) -> None:
    wanted = request()
    assert store.find(wanted.name) is None
    built = store.ensure(wanted, builder())
    assert store.ensure(wanted, refuse) == built
    assert StageStore(store.root).find(wanted.name) == built
    assert store.path(wanted.name).read_bytes() == b"weights"
    assert not store.building(wanted.name).exists()


def test_stages_of_other_keys_are_built_apart(store: StageStore) -> None:
    for seed in range(3):
        store.ensure(request(seed=seed), builder(bytes([seed])))
    found = {store.path(request(seed=seed).name).read_bytes() for seed in range(3)}
    assert found == {b"\x00", b"\x01", b"\x02"}


def test_the_manifest_says_what_the_stage_is_and_how_it_ran(store: StageStore) -> None:
    student = request("student")
    manifest = store.ensure(student, builder(b"student weights"))
    folder = store.path(student.name).parent
    assert json.loads((folder / MANIFEST).read_text()) == manifest
    assert manifest["name"] == f"{manifest['kind']}-{manifest['key']}" == folder.name
    assert manifest["model_sha256"] == hashlib.sha256(b"student weights").hexdigest()
    assert manifest["parents"] == student.parents
    assert (manifest["dataset"], manifest["fingerprint"]) == (student.dataset, student.fingerprint)
    assert (manifest["steps"], manifest["loss"]) == (3, 0.5)
    assert manifest["config"]["horizon"] == student.recipe.window.horizon
    assert manifest["config"]["reward_weight"] == student.recipe.student.reward_weight
    assert json.loads((folder / "config.json").read_text()) == manifest["config"]
    assert "horizon" not in store.ensure(request("reward"), builder())["config"]


def test_a_training_checkpoint_does_not_become_part_of_the_stage(store: StageStore) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "checkpoint.safetensors").write_bytes(b"half way")
        (folder / "metrics.jsonl").write_text("{}\n")
        return builder()(folder)

    name = store.ensure(request(), build)["name"]
    there = {path.name for path in (store.root / name).iterdir()}
    assert there == {MODEL, MANIFEST, "config.json", "metrics.jsonl"}


@pytest.mark.parametrize("model_left", [False, True])
def test_a_build_that_fails_leaves_no_stage_and_can_be_tried_again(
    store: StageStore, model_left: bool
) -> None:
    wanted = request()

    def fail(folder: Path) -> dict[str, Any]:
        (folder / "checkpoint.safetensors").write_bytes(b"half way")
        if model_left:
            (folder / MODEL).write_bytes(b"half written")
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        store.ensure(wanted, fail)
    assert store.find(wanted.name) is None
    assert not (store.root / wanted.name).exists()

    def go_on(folder: Path) -> dict[str, Any]:
        assert (folder / "checkpoint.safetensors").read_bytes() == b"half way"
        return builder(b"whole")(folder)

    store.ensure(wanted, go_on)
    assert store.path(wanted.name).read_bytes() == b"whole"


def test_a_build_that_leaves_no_model_makes_no_stage(store: StageStore) -> None:
    with pytest.raises(OSError, match=MODEL):
        store.ensure(request(), lambda folder: {})
    assert store.find(request().name) is None
    store.ensure(request(), builder())


def test_without_its_manifest_a_stage_is_not_there_and_is_built(store: StageStore) -> None:
    wanted = request()
    store.ensure(wanted, builder(b"old"))
    (store.root / wanted.name / MANIFEST).unlink()
    assert store.find(wanted.name) is None
    store.ensure(wanted, builder(b"new"))
    assert store.find(wanted.name) is not None
    assert store.path(wanted.name).read_bytes() == b"new"


def truncate(folder: Path) -> None:
    path = folder / MODEL
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path) -> None:
    path = folder / MODEL
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def remove(folder: Path) -> None:
    (folder / MODEL).unlink()


def tear_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_bytes(path.read_bytes()[:-20])


def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("")


def null_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("null")


def binary_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00")


def unsigned_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["model_sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        remove,
        tear_manifest,
        empty_manifest,
        null_manifest,
        binary_manifest,
        unsigned_manifest,
    ],
)
def test_a_damaged_stage_is_reported_and_built_anew(
    store: StageStore, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    wanted = request()
    first = store.ensure(wanted, builder(b"weights" * 9))
    damage(store.root / wanted.name)
    with caplog.at_level(logging.WARNING, "sweeps"):
        again = store.ensure(wanted, builder(b"weights" * 9))
    assert any(
        wanted.name in record.getMessage() and "damaged" in record.getMessage()
        for record in caplog.records
    )
    assert again == first == store.find(wanted.name)
    assert store.path(wanted.name).read_bytes() == b"weights" * 9
    assert [path.name for path in store.root.iterdir() if not path.name.startswith(".")] == [
        wanted.name
    ]


def ask(root: str, notes: str, seed: int, pause: float, gate: Any) -> None:
    """A process that wants a stage: notes its build, and then what it got."""
    here = Path(notes)

    def build(folder: Path) -> dict[str, Any]:
        (here / f"built-{os.getpid()}").touch()
        time.sleep(pause)
        return builder(b"x" * 1000)(folder)

    gate.wait(60)
    manifest = StageStore(Path(root)).ensure(request(seed=seed), build)
    (here / f"got-{os.getpid()}").write_text(manifest["model_sha256"])


def ask_all(root: Path, notes: Path, count: int, pause: float) -> list[int | None]:
    notes.mkdir()
    gate = SPAWN.Barrier(count)
    asked = [
        SPAWN.Process(target=ask, args=(str(root), str(notes), 0, pause, gate))
        for _ in range(count)
    ]
    for process in asked:
        process.start()
    for process in asked:
        process.join(60)
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in asked]


def test_four_processes_that_ask_at_once_build_once(store: StageStore, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    assert ask_all(store.root, notes, 4, pause=0.3) == [0, 0, 0, 0]
    assert len(list(notes.glob("built-*"))) == 1
    got = [path.read_text() for path in notes.glob("got-*")]
    assert got == [hashlib.sha256(b"x" * 1000).hexdigest()] * 4


def test_four_processes_that_find_a_damaged_stage_build_once(
    store: StageStore, tmp_path: Path
) -> None:
    """Reading the big damaged file takes long enough that all of them see the damage."""
    wanted = request(seed=0)
    store.ensure(wanted, builder())
    os.truncate(store.path(wanted.name), 100 * 2**20)
    notes = tmp_path / "notes"
    assert ask_all(store.root, notes, 4, pause=0.3) == [0, 0, 0, 0]
    assert len(list(notes.glob("built-*"))) == 1
    assert store.path(wanted.name).read_bytes() == b"x" * 1000


def build_for_ever(root: str, started: str) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "checkpoint.safetensors").write_bytes(b"half way")
        Path(started).write_text(str(folder))
        time.sleep(600)
        return {}

    StageStore(Path(root)).ensure(request(), build)


def test_a_killed_builder_is_followed_in_the_same_folder(store: StageStore, tmp_path: Path) -> None:
    started = tmp_path / "started"
    process = SPAWN.Process(target=build_for_ever, args=(str(store.root), str(started)))
    process.start()
    got: list[dict[str, Any]] = []
    seen: list[tuple[Path, bytes, bool]] = []
    try:
        deadline = time.monotonic() + 60
        while not (started.exists() and started.read_text()):
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)

        def go_on(folder: Path) -> dict[str, Any]:
            left = (folder / "checkpoint.safetensors").read_bytes()
            seen.append((folder, left, process.is_alive()))
            return builder()(folder)

        waiting = threading.Thread(target=lambda: got.append(store.ensure(request(), go_on)))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive(), "did not wait for the builder"
        assert not seen
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        waiting.join(30)
    finally:
        process.kill()
    [(folder, left, _)] = seen
    assert folder == Path(started.read_text()) == store.building(request().name)
    assert left == b"half way"
    assert got == [store.find(request().name)]
    assert not list((store.root / request().name).glob("checkpoint*"))
