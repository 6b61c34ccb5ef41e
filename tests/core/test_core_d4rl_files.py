"""Files of flat rows: every layout D4RL used, and what is said about files that are none."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ractd_core.data.d4rl_files import read_rows
from ractd_core.data.flat import DataError
from ractd_core.data.rows import Rows, from_rows
from ractd_core.tasks import parse_dataset_name

HOPPER = parse_dataset_name("own/hopper-medium-v2")

Arrays = dict[str, Any]


def _hopper(rows: int = 12) -> Arrays:
    """Hopper rows with a termination after every four."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(rows + 1, 11)).astype(np.float32)
    return {
        "observations": states[:-1],
        "actions": rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": np.arange(rows) % 4 == 3,
        "timeouts": np.zeros(rows, dtype=bool),
        "next_observations": states[1:],
    }


def _with(**changes: Any) -> Arrays:
    """The hopper rows with some arrays replaced, or left out where None."""
    return {key: value for key, value in (_hopper() | changes).items() if value is not None}


def _hdf5(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value


def _npz(path: Path, arrays: Arrays) -> None:
    # A file object: given a path, NumPy would append .npz to it.
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _bad(key: str, at: Any, value: float) -> Arrays:
    values = np.array(_hopper()[key], dtype=np.float64)
    values[at] = value
    return _with(**{key: values})


def _cut(path: Path, removed: int) -> None:
    path.write_bytes(path.read_bytes()[:-removed])


def _message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        from_rows(HOPPER, read_rows(path))
    return str(caught.value)


WRITERS = pytest.mark.parametrize("write", [_hdf5, _npz])


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        (b"", "empty", "download or export it again"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web page", "server's message"),
        (b"<HTML><body>404</body>", "web page", "download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer", "git lfs pull"),
        (b"\x1f\x8b\x08 anything", "neither HDF5 nor .npz", "unpack it"),
        (b"PK\x03\x04 no archive at all", "truncated or damaged", "download or export it again"),
        (b"PK\x01\x02 nor this one", "truncated or damaged", "download or export it again"),
    ],
)
def test_other_bytes(tmp_path: Path, content: bytes, found: str, remedy: str) -> None:
    path = tmp_path / "hopper_medium-v2.hdf5"
    path.write_bytes(content)
    message = _message(path)
    assert message.startswith(f"{path}: ")
    assert found in message
    assert "expected an HDF5 file in D4RL's layout or a NumPy .npz" in message
    assert remedy in message


def test_no_file_a_folder_and_a_forbidden_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "absent.hdf5"
    assert _message(path).startswith(f"{path}: no such file, expected an HDF5 file")
    assert "check the path" in _message(path)
    assert _message(tmp_path).startswith(f"{tmp_path}: this is a folder, expected an HDF5 file")
    assert "a file in it" in _message(tmp_path)

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path.write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refuse)
    assert re.search(r"cannot be read \(Permission denied\).*you may read it", _message(path))


@pytest.mark.parametrize("removed", [5, 50, 1000, 2500])
@WRITERS
def test_truncated(tmp_path: Path, write: Callable[..., None], removed: int) -> None:
    path = tmp_path / "rows"
    write(path, _hopper())
    _cut(path, removed)
    message = _message(path)
    assert message.startswith(f"{path}: the file is truncated or damaged (")
    assert "can be read to its end" in message
    assert "compare its size" in message


def test_damage_inside_never_escapes_as_another_error(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    rng = np.random.default_rng(0)
    for write in (_hdf5, _npz):
        write(path, _hopper())
        intact = path.read_bytes()
        for _ in range(150):
            content = bytearray(intact)
            for position in rng.integers(0, len(content), 8):
                content[position] = rng.integers(256)
            path.write_bytes(content)
            with contextlib.suppress(DataError):
                read_rows(path)


@pytest.mark.parametrize(
    ("arrays", "fragments"),
    [
        (
            _with(rewards=None, terminals=None) | {"reward": np.zeros(12)},
            ["rewards, terminals missing", "found actions,", "expected observations,", "rename"],
        ),
        ({}, ["missing, found nothing", "check that this is the right file"]),
        (
            _with(rewards=None) | {f"key{i:02}": np.zeros(1) for i in range(20)},
            ["rewards missing", "and 13 more"],
        ),
        (
            _with(
                observations=np.zeros((12, 17)), next_observations=None, actions=np.ones((12, 6))
            ),
            ["observations are 17 wide, expected 11 and actions are 6 wide, expected 3", "use its"],
        ),
        (
            _with(rewards=np.zeros(11), timeouts=np.zeros(13)),
            ["rewards has 11 rows, expected 12", "timeouts has 13 rows, expected 12", "correct"],
        ),
        (
            _with(next_observations=np.zeros((12, 10))),
            ["next_observations are 10 wide, expected 11 as in observations", "correct"],
        ),
        (
            _with(observations=np.zeros(12), rewards=np.zeros((12, 2))),
            ["observations has shape (12,), expected (rows, width)", "(12, 2), expected (rows,)"],
        ),
        (
            _bad("observations", (7, 2), np.nan),
            [
                "observations holds 1 values that are not finite",
                "row 7",
                "expected finite",
                "again",
            ],
        ),
        (_bad("actions", (slice(5, 9), 0), np.inf), ["actions holds 4 values", "row 5", "finite"]),
        (_bad("rewards", 3, 1e39), ["rewards holds 1 values", "not finite in 32 bits", "row 3"]),
        (_bad("next_observations", (0, 0), -np.inf), ["next_observations holds 1", "row 0"]),
        (
            _bad("terminals", 6, 0.5) | {"timeouts": np.full(12, 2)},
            [
                "terminals holds 1 flags other than 0 and 1, first 0.5 in row 6, expected 0 and 1",
                "timeouts holds 12 flags",
                "correct the arrays",
            ],
        ),
        (_bad("terminals", 6, np.nan), ["terminals holds 1 flags", "first nan in row 6"]),
        (
            {key: value[:0] for key, value in _hopper().items()},
            ["observations holds 0 rows, expected one or more", "download"],
        ),
        (
            _with(terminals=np.zeros(12)),
            [
                "12 rows hold no complete episode",
                "expected a terminal or time-out",
                "set terminals",
            ],
        ),
        (
            _bad("actions", (4, 1), -1.37),
            ["1 action values", "1.37 in size in row 4", "expected actions in", "--clip-actions"],
        ),
        (
            _with(next_observations=_hopper()["next_observations"][::-1]),
            ["in 9 of 9 rows", "first in row 0", "expected at most 1%", "store whole episodes"],
        ),
        (
            _with(actions=np.array([b"left"] * 12)),
            ["actions holds values of type", "expected numbers", "correct"],
        ),
    ],
)
@WRITERS
@pytest.mark.filterwarnings("error")
def test_malformed_content(
    tmp_path: Path, write: Callable[..., None], arrays: Arrays, fragments: list[str]
) -> None:
    path = tmp_path / "rows"
    write(path, arrays)
    message = _message(path)
    assert message.startswith(f"{path}: ")
    for fragment in fragments:
        assert fragment in message


def test_object_arrays_are_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    uneven = np.array([np.zeros(3), np.zeros(2)], dtype=object)
    _npz(path, _with(actions=uneven, terminals=uneven))
    message = _message(path)
    assert message.startswith(f"{path}: these cannot be read: actions (")
    assert "terminals (" in message
    assert "expected arrays of numbers" in message
    assert "unpickling runs code: save each as one array with a numeric dtype" in message


def test_a_group_where_an_array_is_due(tmp_path: Path) -> None:
    path = tmp_path / "rows.hdf5"
    _hdf5(path, _with(observations=None) | {"observations/position": np.zeros((12, 2))})
    message = _message(path)
    assert f"{path}: observations found as a group, expected an array" in message
    assert "join its members" in message


def _assert_same(rows: Rows, arrays: Arrays) -> None:
    for key, value in _hopper().items():
        found = getattr(rows, key)
        if key not in arrays:
            assert found is None
            continue
        np.testing.assert_array_equal(found, value)
        assert found.dtype == value.dtype


@pytest.mark.parametrize(
    "arrays",
    [
        _hopper(),
        _with(timeouts=None),
        _with(next_observations=None),
        {key: value.astype(np.float64) for key, value in _hopper().items()},
        {key: value.reshape(12, -1) for key, value in _hopper().items()},
        _with(terminals=_hopper()["terminals"].astype(np.int8)),
        _with(infos=np.arange(12)),
    ],
    ids=["v2", "no timeouts", "no next", "float64", "(N, 1)", "integer flags", "infos array"],
)
@WRITERS
def test_layouts(tmp_path: Path, write: Callable[..., None], arrays: Arrays) -> None:
    path = tmp_path / "named.anyhow"
    write(path, arrays)
    rows = read_rows(path)
    _assert_same(rows, arrays)
    assert rows.where == str(path)
    assert rows.frame == ("d4rl" if write is _hdf5 else "gymnasium")


def test_infos_and_metadata_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rows.hdf5"
    extra = {"infos/qpos": np.full((3, 2), np.nan), "metadata/algorithm": "SAC"}
    _hdf5(path, _hopper() | extra)
    _assert_same(read_rows(path), _hopper())
