"""Data that a sweep's driver has, on nodes of an object store's sweep that have none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ractd_core.data.generate import LocalRecipe, make_local
from ractd_core.data.store import folder_of, load, origin_of
from ractd_core.files import write_json
from ractd_core.tasks import parse_dataset_name
from sweeps.driver import Driver
from sweeps.layout import SweepFolder
from sweeps.shared_data import bring_data, share_data
from sweeps.spec import load_spec
from tests.sweeps.stores import Machine

UMAZE = parse_dataset_name("local/maze2d-umaze-v1")
Go = Callable[[str], Machine]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """Be a machine with a disk of its own, data and all."""

    def go(name: str) -> Machine:
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / name / "datasets"))
        return Machine(tmp_path / name, tmp_path / "bucket", monkeypatch)

    return go


def shared(where: Machine) -> str:
    """The fingerprint of data that are made here and put into the store."""
    make_local(UMAZE, LocalRecipe(transitions=2000))
    fingerprint = load(UMAZE).fingerprint
    assert share_data(where.root, UMAZE, fingerprint)
    return fingerprint


def test_a_node_without_data_has_the_drivers(go: Go) -> None:
    here = go("here")
    fingerprint = shared(here)
    rewards, origin = np.array(load(UMAZE).rewards), origin_of(UMAZE)
    here.faults.calls.clear()
    assert not share_data(here.root, UMAZE, fingerprint)
    assert {call for call, _ in here.faults.calls} == {"info"}, "not put again"
    there = go("there")
    bring_data(there.root / "stages" / "a", UMAZE, fingerprint)
    assert np.array_equal(load(UMAZE, fingerprint).rewards, rewards)
    assert origin_of(UMAZE) == origin


def test_processes_of_one_node_that_ask_at_once_bring_the_data_once(go: Go) -> None:
    fingerprint = shared(go("here"))
    there = go("there")
    there.faults.delay = 0.02
    threads = [
        threading.Thread(target=bring_data, args=(there.root, UMAZE, fingerprint)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [path for call, path in there.faults.calls if call == "get"]
    assert got
    assert len(set(got)) == len(got)
    assert load(UMAZE, fingerprint).fingerprint == fingerprint


def test_data_of_which_only_a_part_was_put_are_not_there(go: Go) -> None:
    here = go("here")
    fingerprint = shared(here)
    here.store.delete(f"datasets/{fingerprint}/metadata.json")
    there = go("there")
    bring_data(there.root, UMAZE, fingerprint)
    assert not folder_of(UMAZE).exists()


def test_data_that_are_here_are_left_alone(go: Go) -> None:
    fingerprint = shared(go("here"))
    there = go("there")
    make_local(UMAZE, LocalRecipe(transitions=2500))
    own = load(UMAZE).fingerprint
    bring_data(there.root, UMAZE, fingerprint)
    assert load(UMAZE).fingerprint == own


def test_a_folder_as_storage_has_no_need_of_it(go: Go, tmp_path: Path) -> None:
    here = go("here")
    fingerprint = shared(here)
    assert not share_data(tmp_path / "plain", UMAZE, fingerprint)
    go("there")
    bring_data(tmp_path / "plain", UMAZE, fingerprint)
    assert not folder_of(UMAZE).exists()


def test_a_driver_that_goes_on_elsewhere_has_the_first_ones_data(
    go: Go, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_spec(str(tiny()))
    said: list[str] = []
    for name in ("first", "second"):
        with go(name) as machine:
            folder = SweepFolder(machine.root, "tiny")
            folder.freeze(spec)
            about = folder.path / "sweep.json"
            if not about.exists():
                write_json(about, {"name": "tiny", "datasets": {}})
            driver = Driver(folder)
            monkeypatch.setattr(driver, "say", said.append)
            fingerprint = driver._prepare_data(0).fingerprint
            machine.store.upload(about, "sweeps/tiny/sweep.json")
    assert load(UMAZE).fingerprint == fingerprint
    assert sum("got in" in line for line in said) == 1, "not made a second time"
    assert sum("put into the store" in line for line in said) == 1
