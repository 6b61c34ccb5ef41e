"""Writers of datasets that are killed, run out of room or may not write: nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ractd_core.data.acquire import import_arrays
from ractd_core.data.flat import DataError
from ractd_core.data.minari_io import datasets_root
from ractd_core.data.rows import Rows
from ractd_core.data.store import folder_of, is_present, load, present_datasets
from ractd_core.tasks import parse_dataset_name
from tests.core.sources import REPOSITORY, d4rl_rows, write_npz

IMPORT = """
import sys
from pathlib import Path
from ractd_core.data.acquire import import_file
from ractd_core.tasks import parse_dataset_name
limit = int(sys.argv[2])
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
import_file(parse_dataset_name("mylab/hopper-medium-v2"), Path(sys.argv[1]))
"""
MINE = parse_dataset_name("mylab/hopper-medium-v2")


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 short episodes, which take a second or more to write."""
    path = tmp_path_factory.mktemp("npz") / "mine.npz"
    return write_npz(path, d4rl_rows("hopper-medium-v2", rows=2000, every=4))


def files_here() -> list[Path]:
    return [
        path for path in datasets_root().rglob("*") if path.is_file() and path.suffix != ".lock"
    ]


def size(path: Path) -> int:
    """Of a file that may be moved at any time."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def importing(npz: Path, limit: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", IMPORT, str(npz), str(limit)],
        cwd=REPOSITORY,
        env=os.environ.copy(),
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_import_leaves_no_dataset_and_no_obstacle(npz: Path) -> None:
    process = importing(npz)
    deadline = time.monotonic() + 60
    while not any(size(path) > 1 << 16 for path in datasets_root().rglob("main_data.hdf5")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not is_present(MINE)
    assert present_datasets() == []
    assert files_here() != []
    with pytest.raises(DataError, match="ractd data import FILE --task hopper-medium-v2"):
        load(MINE)
    second = importing(npz)
    second.communicate(timeout=90)
    assert second.returncode == 0
    assert load(MINE).episodes == 500
    # The dead writer's folder is gone.
    assert [path.name for path in folder_of(MINE).parent.glob(".*")] == []


@pytest.mark.parametrize("limit", [300, 100_000, 5_000_000])
def test_a_full_disk_is_a_message_and_leaves_nothing(npz: Path, limit: int) -> None:
    process = importing(npz, limit)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "DataError: no room left for mylab/hopper-medium-v2 under " in errors, errors
    assert "free some space" in errors
    assert files_here() == []
    assert not is_present(MINE)
    arrays = d4rl_rows("hopper-medium-v2", rows=40) | {"next_observations": None}
    assert import_arrays(MINE, Rows(**arrays, where="mine"))
    assert load(MINE).episodes == 2


@pytest.mark.parametrize("place", ["{tmp}/file/below", "/proc/datasets"])
@pytest.mark.parametrize("variable", ["MINARI_DATASETS_PATH", "RACTD_HOME"])
def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, place: str
) -> None:
    (tmp_path / "file").touch()
    where = place.format(tmp=tmp_path)
    monkeypatch.setenv(variable, where)
    arrays = d4rl_rows("hopper-medium-v2", rows=40) | {"next_observations": None}

    def store_and_load() -> None:
        import_arrays(MINE, Rows(**arrays, where="mine"))
        load(MINE)

    with pytest.raises(DataError, match=variable) as caught:
        store_and_load()
    assert where in str(caught.value)
