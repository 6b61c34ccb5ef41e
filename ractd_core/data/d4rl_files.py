"""Read files of flat rows: D4RL's HDF5 in all its variants, and NumPy's .npz with the same keys.

D4RL's files differ from each other: flags are float or bool, rewards (N,) or (N, 1), ``timeouts``
and ``next_observations`` may be absent, ``infos`` is a group or an array. Only what is needed is
read; ``infos`` and ``metadata`` are not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np

from ractd_core.data.flat import DataError
from ractd_core.data.rows import Rows

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations")
_FORMATS = "an HDF5 file in D4RL's layout or a NumPy .npz"
_ZIP = b"PK"
_LFS = b"version https://git-lfs"
_WEB_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")
_SHOWN_KEYS = 12


def read_rows(path: Path) -> Rows:
    """The rows of an HDF5 or .npz file; its content decides which it is, not its name.

    Both hold ``observations``, ``actions``, ``rewards``, ``terminals`` and, optionally,
    ``timeouts`` and ``next_observations``, with the shapes and units of
    :func:`ractd_core.data.rows.from_rows`. For maze2d HDF5 is taken to be in D4RL's coordinate
    frame, .npz (arrays of one's own) in the evaluation environment's.

    Raises :class:`DataError` for a file that is absent, of another kind or damaged, that lacks
    arrays, holds pickled objects, or whose arrays are no :class:`Rows`.
    """
    head = _head(path)
    if h5py.is_hdf5(path):
        return Rows(**_read_hdf5(path), where=str(path), frame="d4rl")
    if head.startswith(_ZIP):
        return Rows(**_read_npz(path), where=str(path), frame="gymnasium")
    _refuse_foreign(path, head)


def _head(path: Path) -> bytes:
    """The first bytes of a file that can be read."""
    try:
        if path.is_dir():
            raise DataError(
                f"{path}: this is a folder, expected {_FORMATS}; give the path of a file in it"
            )
        if not path.is_file():
            raise DataError(f"{path}: no such file, expected {_FORMATS}; check the path")
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise DataError(
            f"{path}: the file cannot be read ({error.strerror}), expected {_FORMATS}; check its "
            "path and that you may read it"
        ) from error


def _refuse_foreign(path: Path, head: bytes) -> NoReturn:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        found, remedy = "the file is empty", "download or export it again"
    elif text.startswith(_LFS):
        found = "this is a git-lfs pointer, not the file that it stands for"
        remedy = "run `git lfs pull` where it was cloned"
    elif text.startswith(_WEB_PAGE):
        found = "this looks like a web page, so the download failed"
        remedy = "open the file to see the server's message, then download it again"
    else:
        found = f"this is neither HDF5 nor .npz (it begins with {head[:8]!r})"
        remedy = "unpack it if it is compressed, or download it again"
    raise DataError(f"{path}: {found}, expected {_FORMATS}; {remedy}")


def _read_hdf5(path: Path) -> dict[str, Any]:
    try:
        with h5py.File(path, "r") as file:
            found = list(file)
            _check_keys(path, found)
            groups = [key for key in _REQUIRED + _OPTIONAL if isinstance(file.get(key), h5py.Group)]
            if groups:
                raise DataError(
                    f"{path}: {', '.join(groups)} found as a group, expected an array with one "
                    "row per step; join its members into one array"
                )
            return {key: file[key][()] if key in found else None for key in _REQUIRED + _OPTIONAL}
    except DataError:
        raise
    # Damaged bytes make h5py raise nearly anything: OSError, KeyError, TypeError, ValueError...
    except Exception as error:
        _refuse_damaged(path, error)


def _read_npz(path: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = dict.fromkeys(_OPTIONAL)
    problems = []
    try:
        # Opened here because numpy.load leaves a damaged archive's file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _check_keys(path, sorted(archive.files))
            for key in _REQUIRED + _OPTIONAL:
                if key not in archive.files:
                    continue
                try:
                    arrays[key] = archive[key]
                except ValueError as error:
                    problems.append(f"{key} ({error})")
    except DataError:
        raise
    # As for HDF5, and the parts of NumPy's reader add zipfile's, zlib's and tokenize's own errors.
    except Exception as error:
        _refuse_damaged(path, error)
    if problems:
        raise DataError(
            f"{path}: these cannot be read: {', '.join(problems)}; expected arrays of numbers. "
            "Arrays of Python objects are refused because unpickling runs code: save each as one "
            "array with a numeric dtype"
        )
    return arrays


def _check_keys(path: Path, found: list[str]) -> None:
    missing = [key for key in _REQUIRED if key not in found]
    if missing:
        shown = ", ".join(found[:_SHOWN_KEYS]) or "nothing"
        more = f" and {len(found) - _SHOWN_KEYS} more" if len(found) > _SHOWN_KEYS else ""
        raise DataError(
            f"{path}: {', '.join(missing)} missing, found {shown}{more}; expected "
            f"{', '.join(_REQUIRED)} (and {', '.join(_OPTIONAL)} if stored) at the top level; "
            "rename the arrays, or check that this is the right file"
        )


def _refuse_damaged(path: Path, error: Exception) -> NoReturn:
    raise DataError(
        f"{path}: the file is truncated or damaged ({error}), expected {_FORMATS} that can be read "
        "to its end; download or export it again and compare its size with the original's"
    ) from error
