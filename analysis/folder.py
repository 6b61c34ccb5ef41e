"""A report's folder: every file whole, and none that an earlier report has left there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from ractd_core.files import write_text

LIST = "files.txt"
"""What the last report has written, a path a line."""


def replace_files(folder: Path, texts: Mapping[str, str], others: Iterable[str] = ()) -> None:
    """Write `texts` by their paths in `folder`, in order, each whole or not at all.

    Of what was there before, exactly those files go that the list names and that are neither in
    `texts` nor among `others`, which somebody else writes. OSError where `folder` cannot be
    written.
    """
    kept = {*texts, *others}
    stale = _listed(folder) - kept
    # Until the stale ones are gone they stand in the list: a report that is cut short loses none.
    _list(folder, kept | stale)
    for name, text in texts.items():
        write_text(folder / name, text)
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    _list(folder, kept)


def _listed(folder: Path) -> set[str]:
    path = folder / LIST
    if not path.is_file():
        return set()
    names = path.read_text(encoding="utf-8").splitlines()
    return {name for name in names if _is_own(folder, name)}


def _is_own(folder: Path, name: str) -> bool:
    """Whether a line of the list is a file inside the folder, whoever has edited it."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and (folder / path).is_file()


def _list(folder: Path, names: Iterable[str]) -> None:
    write_text(folder / LIST, "".join(f"{name}\n" for name in sorted(names)))
