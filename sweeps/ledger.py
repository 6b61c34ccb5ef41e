"""Records on storage: the truth of a sweep.

A record is written once, whole, under the key of what defines it, and never again. Everything else
(the Optuna study, Tune's state) is a memory that is repaired from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ractd_core.files import FileError, read_json, write_json_once
from sweeps.mirror import bring, commit

Record = dict[str, Any]
RECORD = "record.json"
SCHEMA = 2


class Ledger:
    """Records of one kind (trials, confirmations or rows) under ``root/KEY/record.json``.

    Reading raises FileError naming a record that is damaged or another release's.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        """Where everything about ``key`` lies, finished or not."""
        return self.root / key

    def get(self, key: str) -> Record | None:
        """The record of ``key``, None if there is none."""
        return self.here(key) if bring(self.folder(key), RECORD) else None

    def here(self, key: str) -> Record | None:
        """As :meth:`get`, without asking an object store."""
        path = self.folder(key) / RECORD
        return _read(path) if path.exists() else None

    def put(self, key: str, record: Record) -> bool:
        """Write the record unless there is one; whether it was written."""
        path, whole = self.folder(key) / RECORD, {"schema": SCHEMA, "key": key, **record}
        return commit(path.parent, RECORD, whole) and write_json_once(path, whole)

    def __iter__(self) -> Iterator[Record]:
        for path in sorted(self.root.glob(f"*/{RECORD}")):
            yield _read(path)


def _read(path: Path) -> Record:
    record: Record = read_json(path)
    if record.get("schema") != SCHEMA:
        raise FileError(
            f"{path}: schema {record.get('schema')}, expected {SCHEMA}: go on with the release "
            "that wrote it, or start a sweep of another name"
        )
    return record
