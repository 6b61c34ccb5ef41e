"""Whole or not at all: files, folders and checkpoints under injected failures."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ractd_core.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    under_prefix,
    with_prefix,
)
from ractd_core.files import (
    FileError,
    new_folder,
    read_json,
    write_bytes,
    write_json,
    write_json_once,
    write_text,
)


def disk_full(*args: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os if failing == "fsync" else Path, failing, disk_full)
        with pytest.raises(OSError, match="No space left"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_the_new_file_is_complete_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sub" / "file"
    seen: list[bytes] = []
    replace = Path.replace

    def watch(self: Path, target: Path) -> Path:
        assert not path.exists()
        assert self.parent == path.parent
        seen.append(self.read_bytes())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watch)
    write_bytes(path, b"content" * 1000)
    assert seen == [b"content" * 1000]
    assert path.read_bytes() == seen[0]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)  # fmt: skip
def test_json_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_without_a_meaning_is_refused_and_the_old_kept(tmp_path: Path, number: float) -> None:
    path = tmp_path / "value.json"
    write_json(path, [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": number})
    assert read_json(path) == [1]


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\x00\x00", b"\xff\xfe{}"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"manifest\.json is not valid JSON"):
        read_json(path)


def test_of_many_who_write_a_file_once_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "value.json"
    gate = Barrier(8)

    def attempt(number: int) -> bool:
        gate.wait(30)
        return write_json_once(path, {"from": number, "padding": "x" * 10_000})

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(attempt, range(8)))
    assert done.count(True) == 1
    assert read_json(path)["from"] == done.index(True)
    assert list(path.parent.iterdir()) == [path]
    assert not write_json_once(path, {"from": 9})
    assert read_json(path)["from"] == done.index(True)


def test_a_failed_write_once_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value.json"
    for failing in ("fsync", "link"):
        with monkeypatch.context() as patch:
            patch.setattr(os, failing, disk_full)
            with pytest.raises(OSError, match="No space left"):
                write_json_once(path, [1])
        assert list(tmp_path.iterdir()) == []
    assert write_json_once(path, [1])


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    final = tmp_path / "a" / "final"
    with new_folder(final) as folder:
        assert folder.parent == final.parent
        (folder / "one").write_text("1")
        assert not final.exists()
    assert (final / "one").read_text() == "1"
    assert list(final.parent.iterdir()) == [final]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    final = tmp_path / "final"

    def interrupted() -> None:
        with new_folder(final) as folder:
            (folder / "one").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_of_two_who_make_the_same_folder_the_first_stays(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with new_folder(final) as slow:
        (slow / "who").write_text("slow")
        (slow / "more").write_text("x")
        with new_folder(final) as quick:
            assert quick != slow
            (quick / "who").write_text("quick")
    assert (final / "who").read_text() == "quick"
    assert [path.name for path in final.iterdir()] == ["who"]
    assert list(tmp_path.iterdir()) == [final]


def test_a_folder_that_cannot_be_renamed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "final"
    monkeypatch.setattr(Path, "rename", disk_full)
    with pytest.raises(OSError, match="No space left"), new_folder(final) as folder:
        (folder / "one").write_text("1")
    assert list(tmp_path.iterdir()) == []


# Checkpoints


def some_tensors() -> dict[str, torch.Tensor]:
    return {
        "float": torch.randn(3, 5),
        "scalar": torch.tensor(7.0),
        "half": torch.randn(4).bfloat16(),
        "integers": torch.arange(6).reshape(2, 3),
        "flags": torch.tensor([True, False]),
        "strided": torch.randn(4, 6).T,
        "nothing": torch.zeros(0, 3),
    }


def test_tensors_and_description_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a" / "checkpoint"
    tensors, about = some_tensors(), {"step": 3, "list": [1, None, "é"], "deep": {"x": 0.1}}
    tensors["strided"].requires_grad_()
    save_checkpoint(path, tensors, about)
    found, said = load_checkpoint(path)
    assert said == about
    assert found.keys() == tensors.keys()
    for key, value in tensors.items():
        assert found[key].dtype == value.dtype
        assert found[key].shape == value.shape
        assert torch.equal(found[key], value)
        assert not found[key].requires_grad


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "checkpoint"
    save_checkpoint(path, {"x": torch.ones(2)}, {"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os if failing == "fsync" else Path, failing, disk_full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, {"x": torch.zeros(2)}, {"step": 2})
    found, about = load_checkpoint(path)
    assert about == {"step": 1}
    assert torch.equal(found["x"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_truncated_anywhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    save_checkpoint(path, some_tensors(), {"step": 3})
    content = path.read_bytes()
    for length in [0, 1, 8, 9, *range(20, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="checkpoint is truncated or damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize("kind", ["pickle", "text", "zeros"])
def test_files_of_another_format_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "checkpoint"
    if kind == "pickle":
        torch.save({"x": torch.ones(2)}, path)
    else:
        path.write_bytes(b"version https://git-lfs.github.com" if kind == "text" else bytes(4096))
    with pytest.raises(CheckpointError, match="checkpoint is truncated or damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"ractd": "{"}, {"ractd": ""}])
def test_somebody_elses_safetensors_are_named(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "checkpoint"
    save_file({"x": torch.ones(2)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="checkpoint was not written by this program"):
        load_checkpoint(path)


def test_an_absent_checkpoint_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match=f"{path.name}: no such checkpoint"):
            load_checkpoint(path)


_KEYS = st.text(st.sampled_from("ab."), min_size=1, max_size=5)


@given(st.dictionaries(_KEYS, st.integers(0, 9)), st.dictionaries(_KEYS, st.integers(0, 9)))
def test_prefixes_keep_states_apart(one: dict[str, int], two: dict[str, int]) -> None:
    left = {key: torch.tensor(value) for key, value in one.items()}
    right = {key: torch.tensor(value) for key, value in two.items()}
    # "optimizer.1" is the beginning of "optimizer.11".
    both = with_prefix("optimizer.1", left) | with_prefix("optimizer.11", right)
    assert len(both) == len(left) + len(right)
    assert under_prefix("optimizer.1", both) == left
    assert under_prefix("optimizer.11", both) == right
    assert under_prefix("optimizer.2", both) == {}
