"""A name stands for one content: what is D4RL's, what is one's own, and what is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ractd_core.data.acquire import ensure, import_arrays, import_file, import_minari
from ractd_core.data.flat import DataError
from ractd_core.data.generate import LocalRecipe, make_local
from ractd_core.data.rows import Rows
from ractd_core.data.store import is_present, load
from ractd_core.tasks import parse_dataset_name
from tests.core.sources import d4rl_rows, hdf5_bytes, write_npz

KITCHEN = parse_dataset_name("d4rl/kitchen-complete-v0")


def maze_arrays(count: int) -> dict[str, Any]:
    """Steps inside of the smallest maze."""
    arrays = dict(d4rl_rows("maze2d-umaze-v1", rows=count))
    arrays["observations"] = arrays["observations"].clip(-1, 1)
    return arrays


def maze_rows(count: int) -> Rows:
    return Rows(**maze_arrays(count), next_observations=None, where="mine", frame="gymnasium")


def test_who_knows_that_a_file_is_d4rls_can_insist(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = tmp_path / "short.hdf5"
    short.write_bytes(hdf5_bytes(d4rl_rows("kitchen-complete-v0", rows=3000)))
    assert import_file(KITCHEN, short, insist=True)
    assert "has 3,000 rows" in caplog.text


def test_a_file_named_as_another_tasks_is_refused(tmp_path: Path) -> None:
    partial = parse_dataset_name("d4rl/kitchen-partial-v0")
    path = tmp_path / partial.task.hdf5_file
    path.write_bytes(hdf5_bytes(d4rl_rows("kitchen-complete-v0")))
    with pytest.raises(DataError, match="D4RL's file for kitchen-partial-v0") as caught:
        import_file(KITCHEN, path, insist=True)
    assert KITCHEN.task.hdf5_file in str(caught.value)
    assert not is_present(KITCHEN)


def test_d4rls_ants_are_not_data_of_ones_own(tmp_path: Path) -> None:
    arrays = d4rl_rows("antmaze-umaze-v2", rows=60)
    hdf5, npz = tmp_path / "ant.hdf5", tmp_path / "ant.npz"
    hdf5.write_bytes(hdf5_bytes(arrays))
    write_npz(npz, arrays)
    own = parse_dataset_name("mylab/antmaze-umaze-v2")
    with pytest.raises(DataError, match=r"cannot be scored.* as \.npz or as a Minari dataset"):
        import_file(own, hdf5)
    assert import_file(own, npz)
    assert import_file(parse_dataset_name("d4rl/antmaze-umaze-v2"), hdf5, insist=True)


def test_other_content_under_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    name = parse_dataset_name("local/maze2d-umaze-v1")
    assert make_local(name, LocalRecipe(1000))
    before = load(name).fingerprint
    path = tmp_path / "mine.npz"
    write_npz(path, maze_arrays(60))
    with pytest.raises(DataError, match="something else"):
        import_file(name, path)
    with pytest.raises(DataError, match="something else"):
        import_arrays(name, maze_rows(60))
    with pytest.raises(DataError, match="was made with"):
        make_local(name, LocalRecipe(1001))
    assert load(name).fingerprint == before

    own = parse_dataset_name("local/maze2d-medium-v1")
    assert import_arrays(own, maze_rows(60))
    assert not import_arrays(own, maze_rows(60))
    with pytest.raises(DataError, match="something else"):
        import_arrays(own, maze_rows(80))
    with pytest.raises(DataError, match="was not generated"):
        make_local(own, LocalRecipe(1000))
    # A sweep takes it as it is.
    assert not ensure(own, LocalRecipe(1000))


def test_what_was_stored_for_another_environment_is_refused() -> None:
    umaze = parse_dataset_name("mylab/maze2d-umaze-v1")
    assert import_arrays(umaze, maze_rows(60))
    for other in ("maze2d-large-v1", "maze2d-umaze-dense-v1"):
        with pytest.raises(DataError, match="was collected in PointMaze_UMaze-v3"):
            import_minari(parse_dataset_name(f"yours/{other}"), str(umaze))
    assert import_minari(parse_dataset_name("yours/maze2d-umaze-v1"), str(umaze))
