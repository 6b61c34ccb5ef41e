"""Datasets from elsewhere: D4RL's files, Minari's datasets, arrays of one's own."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import minari

from ractd_core.data.d4rl_files import read_rows
from ractd_core.data.fetch import fetch
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.generate import LocalRecipe, check_recipe, make_local
from ractd_core.data.minari_io import (
    ORIGIN_KEY,
    check_minari_id,
    datasets_root,
    read_minari,
    with_root,
)
from ractd_core.data.rows import Rows, from_rows
from ractd_core.data.store import (
    Original,
    folder_of,
    how_to_get,
    is_present,
    load,
    locked,
    new_dataset,
    put,
)
from ractd_core.files import sha256
from ractd_core.tasks import D4RL, LOCAL, MINARI, DatasetName, all_tasks

MIRROR = "RACTD_D4RL_MIRROR"
_D4RL_BASE = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
_TOLERANCE = 0.01
_log = logging.getLogger(__name__)

Progress = Callable[[str], None]


def import_file(
    name: DatasetName, path: Path, *, clip_actions: bool = False, insist: bool = False
) -> bool:
    """Store a D4RL-layout HDF5 file or ``.npz`` as ``name``; False if it is here already.

    Raises :class:`DataError` if the file is malformed or not for ``name``'s task, or if ``name``
    claims to be D4RL's own and the file is no HDF5 or has not D4RL's number of rows, or if
    ``name`` is here already with other content. ``insist`` stores a file of another size than
    D4RL's as D4RL's own all the same.
    """
    _refuse_minari(name)

    def make() -> Original:
        rows = read_rows(path)
        _check_rows(name, rows, insist=insist)
        origin = {"kind": "imported", "file": path.name, "sha256": sha256(path)}
        return _original(name, from_rows(name, rows, clip_actions=clip_actions), origin)

    return _put_the_same(name, make, str(path))


def import_arrays(name: DatasetName, rows: Rows, *, clip_actions: bool = False) -> bool:
    """Store arrays of one's own as ``name``; False if ``name`` is here already.

    ``rows`` are flat arrays, one row per step, as :class:`~ractd_core.data.rows.Rows` describes.
    Raises :class:`DataError` if they are not for ``name``'s task, if ``name`` is not one's own, or
    is here already with other content.
    """
    _refuse_minari(name)
    if name.source == D4RL:
        raise DataError(
            f"{name} is D4RL's own file {name.task.hdf5_file}; arrays of your own need a label of "
            "their own"
        )
    return _put_the_same(
        name,
        lambda: _original(
            name, from_rows(name, rows, clip_actions=clip_actions), {"kind": "imported"}
        ),
        "these arrays",
    )


def import_minari(name: DatasetName, minari_id: str) -> bool:
    """Store the local Minari dataset ``minari_id`` as ``name``, in the task's flat vectors.

    The task's own Minari dataset needs no import: it is ``minari/TASK`` as soon as it is there.
    Returns False if it is here already. Raises :class:`DataError` if there is no such dataset, or
    it is of another environment, or ``name`` is here already with other content.
    """
    check_minari_id(minari_id)
    if name.source == MINARI:
        if minari_id != name.minari_id:
            raise DataError(
                f"{name} is Minari's {name.minari_id}, not {minari_id}; give yours a label of its "
                "own with --source"
            )
        load(name)
        return False
    if name.source == D4RL:
        raise DataError(
            f"{minari_id} is a Minari dataset and not D4RL's own file {name.task.hdf5_file}; give "
            "it a label of its own with --source"
        )
    origin = {"kind": "imported", "minari_id": minari_id}
    return _put_the_same(
        name, lambda: _original(name, read_minari(name, minari_id), origin), minari_id
    )


def download(
    name: DatasetName, *, mirror: str | None = None, progress: Progress = lambda line: None
) -> bool:
    """Fetch ``d4rl/TASK`` or ``minari/TASK``; False if it is here already.

    Of several processes that ask at once one fetches and the others wait. D4RL's file comes from
    its own address or from ``mirror`` (default ``RACTD_D4RL_MIRROR``), a base URL with the same
    folders below; Minari's from the server that ``MINARI_REMOTE`` names. An interrupted D4RL
    download is resumed, a Minari one starts again. The checksum is kept with the dataset. Raises
    :class:`DataError` for other sources and if the download fails.
    """
    if name.source == MINARI:
        return _download_minari(name, progress)
    if name.source != D4RL:
        raise DataError(f"{name} cannot be downloaded: only d4rl/... and minari/... can")
    # Under the same root as the lock, so that no other process can write to it.
    path = datasets_root() / ".downloads" / name.task.hdf5_file
    url = d4rl_url(name, mirror or os.environ.get(MIRROR))
    made = put(name, lambda: _download_d4rl(name, url, path, progress))
    # Only now: a process killed while it converts the file need not fetch it again.
    path.unlink(missing_ok=True)
    return made


def ensure(
    name: DatasetName, recipe: LocalRecipe, *, progress: Progress = lambda line: None
) -> bool:
    """Have ``name`` here: generate, download, or say what to do; True if it was not here.

    ``recipe`` is how ``local/...`` is generated; one that was imported is taken as it is. Raises
    :class:`DataError` if it cannot be had.
    """
    check_obtainable(name, recipe)
    if is_present(name):
        return False
    if name.source != LOCAL:
        return download(name, progress=progress)
    return make_local(name, recipe, progress=progress)


def check_obtainable(name: DatasetName, recipe: LocalRecipe) -> None:
    """Raise :class:`DataError` if ``name`` is here by another recipe or cannot be had."""
    check_recipe(name, recipe)
    generated = name.source == LOCAL and name.task.generated
    if not (is_present(name) or generated or name.source in (D4RL, MINARI)):
        raise DataError(f"dataset {name} is not under {datasets_root()}; {how_to_get(name)}")


def d4rl_url(name: DatasetName, mirror: str | None) -> str:
    """The address of D4RL's file for the task, at D4RL's own server or at ``mirror``."""
    url = name.task.hdf5_url
    return mirror.rstrip("/") + url.removeprefix(_D4RL_BASE) if mirror else url


def _download_d4rl(name: DatasetName, url: str, path: Path, progress: Progress) -> Original:
    shown = -1

    def show(done: int, total: int | None) -> None:
        nonlocal shown
        percent = 100 * done // total if total else done // (1 << 24)
        if percent != shown:
            shown = percent
            of = f" of {total / 1e6:,.1f}" if total else ""
            progress(f"{name.task.hdf5_file}: {done / 1e6:,.1f}{of} MB")

    checksum = fetch(url, path, progress=show)
    try:
        rows = read_rows(path)
        # The address says that it is D4RL's, so its size only warrants a warning.
        _check_rows(name, rows, insist=True)
        data = from_rows(name, rows, clip_actions=True)
    except DataError as error:
        path.unlink()
        raise DataError(
            f"what {url} sent cannot be used and was deleted: {error}; try again, or name a mirror "
            "with --mirror"
        ) from error
    # A mirror's address may hold a password, which is nobody else's business.
    public = re.sub(r"//[^/@]*@", "//", url)
    return _original(name, data, {"kind": "downloaded", "url": public, "sha256": checksum})


def _download_minari(name: DatasetName, progress: Progress) -> bool:
    with locked(name):
        if is_present(name):
            return False
        progress(f"{name.minari_id}: downloading through Minari")
        with new_dataset(name) as staging:
            try:
                # Minari prints the temporary path as the place where the dataset is.
                with contextlib.redirect_stdout(io.StringIO()):
                    with_root(staging, lambda: minari.download_dataset(name.minari_id))
                data = with_root(staging, lambda: read_minari(name, name.minari_id))
                dataset = with_root(staging, lambda: minari.load_dataset(name.minari_id))
            except DataError:
                raise
            except ImportError as error:
                raise DataError(
                    "downloading from Minari needs the extra 'download': "
                    f"pip install 'ractd[download]' ({error})"
                ) from error
            except Exception as error:
                remote = os.environ.get("MINARI_REMOTE", "Minari's server")
                raise DataError(
                    f"{name.minari_id} cannot be downloaded from {remote} "
                    f"({type(error).__name__}: {error}); nothing was stored, so try again"
                ) from error
            origin = {"kind": "downloaded", "minari_id": name.minari_id}
            checksums = {
                file.name: sha256(file)
                for file in sorted((staging / name.minari_id / "data").glob("*.hdf5"))
            }
            dataset.storage.update_metadata(
                {
                    ORIGIN_KEY: json.dumps(
                        origin | {"sha256": checksums, "fingerprint": data.fingerprint}
                    )
                }
            )
        return True


def _refuse_minari(name: DatasetName) -> None:
    if name.source == MINARI:
        raise DataError(
            f"{name} is the Minari dataset {name.minari_id} under {datasets_root()}; a file of "
            "your own needs another --source"
        )


def _put_the_same(name: DatasetName, make: Callable[[], Original], what: str) -> bool:
    """Store what ``make`` returns; False if just that is here already."""
    made = put(name, make)
    if not made and make().data.fingerprint != load(name).fingerprint:
        raise DataError(
            f"{name} is here already, but what {what} holds is something else; name another label "
            f"with --source, or delete {folder_of(name)} first"
        )
    return made


def _check_rows(name: DatasetName, rows: Rows, *, insist: bool) -> None:
    """D4RL's name is for D4RL's data: a file of another name, kind or size must say what it is."""
    if name.source != D4RL:
        if name.task.domain == "antmaze" and rows.frame == "d4rl":
            raise DataError(
                f"{rows.where} is of D4RL's layout, whose ant policies cannot be scored; import it "
                "as --source d4rl, or, if you collected it in Gymnasium's AntMaze, give it as .npz "
                "or as a Minari dataset"
            )
        return
    own, published, found = name.task.hdf5_file, name.task.hdf5_rows, len(rows)
    file = Path(rows.where).name
    others = [task for task in all_tasks().values() if task.hdf5_file == file != own]
    if others:
        raise DataError(
            f"{rows.where} has the name of D4RL's file for {others[0].name}, but {name.task.name} "
            f"is {own}; name the task that it is for"
        )
    if not h5py.is_hdf5(rows.where):
        raise DataError(
            f"{rows.where} is no HDF5 file, but D4RL's {own} is; say where it comes from with "
            "--source (local, or a label of yours)"
        )
    if abs(found - published) > _TOLERANCE * published:
        difference = f"{rows.where} has {found:,} rows, but D4RL's {own} has about {published:,}"
        if not insist:
            raise DataError(
                f"{difference}; say where it comes from with --source (local, or a label of "
                "yours), or --source d4rl if you know that it is D4RL's"
            )
        _log.warning("%s", difference)


def _original(name: DatasetName, data: FlatDataset, origin: dict[str, str]) -> Original:
    whose = "D4RL's own data" if name.source == D4RL else f"Not D4RL's own data: {name.source}"
    return Original(data, origin, "see the source", f"{whose}, for {name.task.name}")
