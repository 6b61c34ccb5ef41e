"""Getting data: whole or not at all, once however many ask, and never under a wrong name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ractd_core.data.acquire import (
    MIRROR,
    check_obtainable,
    d4rl_url,
    download,
    ensure,
    import_arrays,
    import_file,
    import_minari,
)
from ractd_core.data.d4rl_files import read_rows
from ractd_core.data.flat import DataError
from ractd_core.data.generate import LocalRecipe
from ractd_core.data.minari_io import datasets_root
from ractd_core.data.rows import Rows, from_rows
from ractd_core.data.store import folder_of, is_present, load, origin_of
from ractd_core.tasks import DatasetName, get_task, parse_dataset_name
from tests.core.file_server import FileServer, serving
from tests.core.remote import downloads, install
from tests.core.sources import (
    at_once,
    d4rl_rows,
    hdf5_bytes,
    minari_episodes,
    store_minari,
    write_npz,
)

KITCHEN = parse_dataset_name("d4rl/kitchen-complete-v0")
PAGE = b"<!doctype html><html>Sign in to the campus network</html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
# Where D4RL's file is below a mirror.
BELOW = "/kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(key, "127.0.0.1")


@pytest.fixture(scope="module")
def published() -> bytes:
    """As many rows as D4RL's file, a demonstration every 184."""
    return hdf5_bytes(d4rl_rows("kitchen-complete-v0", every=184))


@pytest.fixture
def mirror(published: bytes) -> Iterator[FileServer]:
    with serving(files={BELOW: published}) as server:
        yield server


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Minari's kitchen-complete, served as Minari's server."""
    root = tmp_path / "remote"
    store_minari(root, "D4RL/kitchen/complete-v2", minari_episodes("kitchen-complete-v0"), 9)
    monkeypatch.setenv("MINARI_REMOTE", "")
    install(root)
    return root


def leftovers() -> list[str]:
    """Files under the datasets' root and the project's home, but for locks."""
    roots = [datasets_root(), Path(os.environ["RACTD_HOME"])]
    found = [file for root in roots for file in root.rglob("*") if file.is_file()]
    return [str(file) for file in found if file.suffix != ".lock"]


def kept(name: DatasetName) -> dict[str, str]:
    """What every dataset's origin records."""
    return {"task": name.task.name, "fingerprint": load(name).fingerprint}


# D4RL's server


def test_addresses_are_d4rls_or_the_same_below_a_mirror() -> None:
    own = "http://rail.eecs.berkeley.edu/datasets/offline_rl/hand_dapg_v1/door-human-v1.hdf5"
    name = parse_dataset_name("d4rl/door-human-v1")
    assert d4rl_url(name, None) == d4rl_url(name, "") == own
    for mirror in ("https://m.org/d4rl", "https://m.org/d4rl/"):
        assert d4rl_url(name, mirror) == "https://m.org/d4rl/hand_dapg_v1/door-human-v1.hdf5"


def test_d4rls_file_is_fetched_converted_and_put_away(
    mirror: FileServer, published: bytes, tmp_path: Path
) -> None:
    shown: list[str] = []
    assert download(KITCHEN, mirror=mirror.url, progress=shown.append)
    path = tmp_path / "by-hand.hdf5"
    path.write_bytes(published)
    assert load(KITCHEN).fingerprint == from_rows(KITCHEN, read_rows(path)).fingerprint
    assert folder_of(KITCHEN) == datasets_root() / "d4rl" / "kitchen-complete-v0"
    assert origin_of(KITCHEN) == {
        "kind": "downloaded",
        "url": mirror.url + BELOW,
        "sha256": hashlib.sha256(published).hexdigest(),
        **kept(KITCHEN),
    }
    assert list((datasets_root() / ".downloads").iterdir()) == []
    assert KITCHEN.task.hdf5_file in shown[-1]
    assert not download(KITCHEN, mirror=mirror.url)
    assert len(mirror.requests) == 1


def test_the_mirror_may_be_named_by_the_environment(
    mirror: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MIRROR == "RACTD_D4RL_MIRROR"
    monkeypatch.setenv("RACTD_D4RL_MIRROR", f"{mirror.url}/")
    assert ensure(KITCHEN, LocalRecipe())
    assert not ensure(KITCHEN, LocalRecipe())
    assert origin_of(KITCHEN)["url"] == mirror.url + BELOW


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (lambda whole: PAGE, "web page"),
        (lambda whole: POINTER, "git-lfs pointer"),
        (lambda whole: b"", "the file is empty"),
        (lambda whole: whole[:-5], "truncated or damaged"),
        (lambda whole: whole[: len(whole) // 2], "truncated or damaged"),
        (
            lambda whole: hdf5_bytes(d4rl_rows("door-human-v1", rows=3680)),
            "observations are 39 wide, expected 60",
        ),
    ],
)
def test_what_is_not_d4rls_file_is_deleted_and_may_be_fetched_again(
    mirror: FileServer, published: bytes, sent: Callable[[bytes], bytes], found: str
) -> None:
    mirror.files[BELOW] = sent(published)
    with pytest.raises(DataError, match=found) as caught:
        download(KITCHEN, mirror=mirror.url)
    message = str(caught.value)
    assert message.startswith(f"what {mirror.url}{BELOW} sent cannot be used and was deleted")
    assert "--mirror" in message
    assert not is_present(KITCHEN)
    assert leftovers() == []
    mirror.files[BELOW] = published
    assert download(KITCHEN, mirror=mirror.url)
    assert load(KITCHEN).transitions > 3000


@pytest.mark.parametrize(("rows", "warned"), [(3680 - 36, False), (3000, True)])
def test_a_download_of_another_size_is_warned_of(
    mirror: FileServer, rows: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.files[BELOW] = hdf5_bytes(d4rl_rows("kitchen-complete-v0", rows=rows))
    assert download(KITCHEN, mirror=mirror.url)
    said = "has 3,000 rows, but D4RL's mini_kitchen_microwave_kettle_light_slider-v0.hdf5 has about"
    assert (said in caplog.text) == warned


def test_a_mirrors_password_is_not_recorded(mirror: FileServer) -> None:
    assert download(KITCHEN, mirror=mirror.url.replace("//", "//me:secret@"))
    assert origin_of(KITCHEN)["url"] == mirror.url + BELOW


def test_an_absent_mirror_file_stores_nothing(mirror: FileServer) -> None:
    mirror.files.clear()
    with pytest.raises(DataError, match="404") as caught:
        download(KITCHEN, mirror=mirror.url)
    assert mirror.url + BELOW in str(caught.value)
    assert leftovers() == []


@pytest.mark.parametrize("name", ["local/hopper-medium-v2", "mylab/kitchen-complete-v0"])
def test_only_published_data_can_be_downloaded(name: str) -> None:
    with pytest.raises(DataError, match=r"only d4rl/\.\.\. and minari/\.\.\. can"):
        download(parse_dataset_name(name))


DOWNLOAD = """
import sys
from ractd_core.data.acquire import download
from ractd_core.tasks import parse_dataset_name
# go
made = download(parse_dataset_name("d4rl/kitchen-complete-v0"), mirror=sys.argv[1])
print("downloaded" if made else "already there")
"""


def test_eight_that_download_at_once_fetch_once(mirror: FileServer, tmp_path: Path) -> None:
    mirror.chunk_pause = 0.01
    results = at_once(DOWNLOAD, mirror.url, count=8, gate=tmp_path / "gate")
    assert [code for code, _, _ in results] == [0] * 8, results
    assert sorted(out.strip() for _, out, _ in results) == ["already there"] * 7 + ["downloaded"]
    assert mirror.requests == [(BELOW, None)]
    assert list((datasets_root() / ".downloads").iterdir()) == []
    assert any("waiting for it" in errors for _, _, errors in results)


# Files and arrays of one's own

IMPORT = """
import sys
from pathlib import Path
from ractd_core.data.acquire import import_file
from ractd_core.tasks import parse_dataset_name
# go
made = import_file(parse_dataset_name("mylab/kitchen-complete-v0"), Path(sys.argv[1]))
print("imported" if made else "already there")
"""


def test_eight_that_import_at_once_import_once(published: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.hdf5"
    path.write_bytes(published)
    results = at_once(IMPORT, str(path), count=8, gate=tmp_path / "gate")
    assert [code for code, _, _ in results] == [0] * 8, results
    assert sorted(out.strip() for _, out, _ in results) == ["already there"] * 7 + ["imported"]
    name = parse_dataset_name("mylab/kitchen-complete-v0")
    assert load(name).fingerprint == from_rows(name, read_rows(path)).fingerprint
    entries = [entry.name for entry in folder_of(name).parent.iterdir()]
    assert sorted(entries) == ["kitchen-complete-v0", "namespace_metadata.json"]


def test_a_file_is_imported_once_and_says_where_it_came_from(
    published: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "mine.hdf5"
    path.write_bytes(published)
    name = parse_dataset_name("mylab/kitchen-complete-v0")
    assert import_file(name, path)
    assert not import_file(name, path)
    assert origin_of(name) == {
        "kind": "imported",
        "file": "mine.hdf5",
        "sha256": hashlib.sha256(published).hexdigest(),
        **kept(name),
    }
    assert import_file(KITCHEN, path)
    other = tmp_path / "other.hdf5"
    another = hdf5_bytes(d4rl_rows("kitchen-complete-v0", seed=1))
    for content, told in (
        (None, "no such file"),
        (published[:-5], "damaged"),
        (another, f"something else; .* delete {folder_of(name)}"),
    ):
        if content is not None:
            other.write_bytes(content)
        with pytest.raises(DataError, match=told) as caught:
            import_file(name, other)
        assert str(other) in str(caught.value)
    # The same file by another way is the same data.
    other.write_bytes(published)
    assert not import_file(name, other)


def test_d4rls_name_is_for_d4rls_files(tmp_path: Path) -> None:
    short, npz = tmp_path / "short.hdf5", tmp_path / "all.npz"
    short.write_bytes(hdf5_bytes(d4rl_rows("kitchen-complete-v0", rows=3000)))
    write_npz(npz, d4rl_rows("kitchen-complete-v0"))
    for path, found in ((short, "has 3,000 rows"), (npz, "is no HDF5 file")):
        with pytest.raises(DataError, match=found) as caught:
            import_file(KITCHEN, path)
        message = str(caught.value)
        assert str(path) in message
        assert KITCHEN.task.hdf5_file in message
        assert "--source (local, or a label of yours)" in message
        assert not is_present(KITCHEN)
        assert import_file(parse_dataset_name(f"{path.stem}/kitchen-complete-v0"), path)


def test_minaris_name_is_for_minaris_data(tmp_path: Path) -> None:
    name = parse_dataset_name("minari/kitchen-complete-v0")
    with pytest.raises(DataError, match="needs another --source"):
        import_file(name, tmp_path / "any.hdf5")


def rows(**changes: Any) -> Rows:
    arrays = d4rl_rows("hopper-medium-v2", rows=60) | {"next_observations": None} | changes
    return Rows(**arrays, where="mine")


def test_arrays_of_ones_own() -> None:
    name = parse_dataset_name("mylab/hopper-medium-v2")
    assert import_arrays(name, rows())
    assert not import_arrays(name, rows())
    assert load(name).episodes == 3
    assert origin_of(name) == {"kind": "imported", **kept(name)}
    wide = parse_dataset_name("wide/hopper-medium-v2")
    with pytest.raises(DataError, match="clip_actions"):
        import_arrays(wide, rows(actions=np.full((60, 3), 1.5)))
    assert import_arrays(wide, rows(actions=np.full((60, 3), 1.5)), clip_actions=True)
    assert np.unique(load(wide).actions).tolist() == [0.0, 1.0]
    for source in ("d4rl", "minari"):
        with pytest.raises(DataError):
            import_arrays(parse_dataset_name(f"{source}/hopper-medium-v2"), rows())


# Minari's server


def test_minaris_dataset_is_downloaded_through_minari(
    remote: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = parse_dataset_name("minari/kitchen-complete-v0")
    assert download(name)
    assert not download(name)
    assert downloads(remote) == ["D4RL/kitchen/complete-v2"]
    data = load(name)
    episodes = minari_episodes("kitchen-complete-v0")
    np.testing.assert_allclose(data.observations, np.vstack(episodes.states), rtol=1e-6)
    origin = origin_of(name)
    file = folder_of(name) / "data" / "main_data.hdf5"
    assert origin["kind"] == "downloaded"
    assert origin["fingerprint"] == data.fingerprint
    assert origin["sha256"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    root = datasets_root()
    assert (root / "D4RL" / "kitchen" / "namespace_metadata.json").is_file()
    assert capsys.readouterr().out == ""


def test_a_minari_download_that_breaks_off_leaves_nothing(remote: Path) -> None:
    (remote / "fail").touch()
    name = parse_dataset_name("minari/kitchen-complete-v0")
    with pytest.raises(DataError, match="the line went dead") as caught:
        download(name)
    assert f"D4RL/kitchen/complete-v2 cannot be downloaded from folder://{remote}" in str(
        caught.value
    )
    assert leftovers() == []
    assert os.environ["MINARI_DATASETS_PATH"] == str(datasets_root())
    assert download(name)
    assert load(name).episodes == 3


def test_minari_data_of_other_widths_are_not_stored(remote: Path) -> None:
    name = parse_dataset_name("minari/door-human-v1")
    store_minari(remote, name.minari_id, minari_episodes("door-human-v1", width=38), 28)
    with pytest.raises(DataError, match="expected"):
        download(name)
    assert leftovers() == []


@pytest.mark.parametrize("server", ["nowhere://x", "no-scheme", "folder:///nowhere"])
def test_a_minari_server_that_is_none(
    remote: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    monkeypatch.setenv("MINARI_REMOTE", server)
    with pytest.raises(DataError, match=f"cannot be downloaded from {server}"):
        download(parse_dataset_name("minari/kitchen-complete-v0"))
    assert leftovers() == []


MINARI = """
import sys
from pathlib import Path
from ractd_core.data.acquire import download
from ractd_core.tasks import parse_dataset_name
from tests.core.remote import install
install(Path(sys.argv[1]))
# go
made = download(parse_dataset_name("minari/kitchen-complete-v0"))
print("downloaded" if made else "already there")
"""


def test_eight_that_download_from_minari_at_once(remote: Path, tmp_path: Path) -> None:
    results = at_once(MINARI, str(remote), count=8, gate=tmp_path / "gate")
    assert [code for code, _, _ in results] == [0] * 8, results
    assert sorted(out.strip() for _, out, _ in results) == ["already there"] * 7 + ["downloaded"]
    assert downloads(remote) == ["D4RL/kitchen/complete-v2"]


# Local Minari datasets


def test_a_minari_dataset_becomes_data_of_ones_own() -> None:
    episodes = minari_episodes("door-human-v1")
    store_minari(datasets_root(), "mine/door-v0", episodes, 28)
    name = parse_dataset_name("mylab/door-human-v1")
    assert import_minari(name, "mine/door-v0")
    assert not import_minari(name, "mine/door-v0")
    assert origin_of(name) == {"kind": "imported", "minari_id": "mine/door-v0", **kept(name)}
    np.testing.assert_allclose(load(name).observations, np.vstack(episodes.states), rtol=1e-6)
    with pytest.raises(DataError, match="no Minari dataset mine/other-v0"):
        import_minari(name, "mine/other-v0")
    with pytest.raises(DataError, match="label of its own"):
        import_minari(parse_dataset_name("d4rl/door-human-v1"), "mine/door-v0")
    published = parse_dataset_name("minari/door-human-v1")
    with pytest.raises(DataError, match="is Minari's D4RL/door/human-v2, not mine/door-v0"):
        import_minari(published, "mine/door-v0")
    with pytest.raises(DataError, match="ractd data download door-human-v1 --source minari"):
        import_minari(published, "D4RL/door/human-v2")
    store_minari(datasets_root(), "D4RL/door/human-v2", episodes, 28)
    assert not import_minari(published, "D4RL/door/human-v2")


# Whether a dataset can be had


def test_data_that_cannot_be_had_say_so_before_anything_starts() -> None:
    recipe = LocalRecipe(1000)
    for text in ("local/hopper-medium-v2", "d4rl/door-human-v1", "minari/door-human-v1"):
        check_obtainable(parse_dataset_name(text), recipe)
    for text, told in (
        ("local/door-human-v1", "ractd data import FILE --task door-human-v1 --source local"),
        ("mylab/door-human-v1", "ractd data import FILE --task door-human-v1 --source mylab"),
        ("minarj/door-human-v1", "did you mean minari"),
    ):
        with pytest.raises(DataError, match=told):
            check_obtainable(parse_dataset_name(text), recipe)
        with pytest.raises(DataError, match=told):
            ensure(parse_dataset_name(text), recipe)
    name = parse_dataset_name("local/maze2d-umaze-v1")
    assert ensure(name, recipe)
    assert not ensure(name, recipe)
    with pytest.raises(DataError, match="was made with"):
        ensure(name, LocalRecipe(1001))


def test_every_task_has_an_address_below_a_mirror() -> None:
    for task in (get_task("antmaze-umaze-v2"), get_task("hopper-medium-v2")):
        url = d4rl_url(parse_dataset_name(f"d4rl/{task.name}"), "http://m")
        assert url.startswith("http://m/")
        assert url.endswith(task.hdf5_file)
