"""Trials that failed, as far as is known through no fault of their own, to be run again."""

from __future__ import annotations

import shutil

from filelock import FileLock

from sweeps.layout import ABOUT, StorageError, SweepFolder
from sweeps.ledger import RECORD, Record
from sweeps.mirror import address_of, mirror_of

_FINAL = ("diverged: ", "timed out after ")
"""How reasons begin that would only come again."""


def retry_failed(folder: SweepFolder) -> list[int]:
    """Take back the records of trials that failed, and whatever they left; returns their numbers.

    What diverged or was over its time stays failed. A search then finds the others begun and not
    ended, and suggests them first, under their numbers. Raises :class:`filelock.Timeout` while a
    driver runs, and StorageError for an object store, whose records are final: other machines have
    copies of them.
    """
    if mirror_of(folder.path) is not None:
        raise StorageError(
            f"sweep {folder.name!r} is in {address_of(folder.storage)}: failed trials can be run "
            "again only in a storage folder; start a sweep of another name"
        )
    with FileLock(folder.path / "driver.lock", timeout=0):
        failed = [record for record in folder.trials if _may_succeed(record)]
        for record in failed:
            _take_back(folder, record["key"])
    return sorted(record["number"] for record in failed)


def _may_succeed(record: Record) -> bool:
    return record["status"] == "failed" and not record["reason"].startswith(_FINAL)


def _take_back(folder: SweepFolder, key: str) -> None:
    """The record last, and at once: killed before that, the trial has failed as before."""
    trial = folder.trials.folder(key)
    earlier = sorted(trial.glob("failed-*.json"))
    for path in trial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (ABOUT, RECORD) and path not in earlier:
            path.unlink()
    (trial / RECORD).rename(trial / f"failed-{len(earlier) + 1}.json")
