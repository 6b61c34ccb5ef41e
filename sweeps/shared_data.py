"""A sweep's data in its object store, for nodes that have none of their own.

They lie under ``datasets/FINGERPRINT/``, Minari's files as they are, with the metadata last:
without these they are not there. On a storage that is a folder every node finds them by itself.
"""

from __future__ import annotations

from pathlib import Path

from ractd_core.data.store import folder_of, is_present, locked, new_dataset
from ractd_core.tasks import DatasetName
from sweeps.mirror import mirror_of

_LAST = "metadata.json"


def share_data(storage: Path, name: DatasetName, fingerprint: str) -> bool:
    """Put the dataset that is here into the store; False if it is there, or there is none.

    Waits while the store is away.
    """
    mirror = mirror_of(storage)
    if mirror is None:
        return False
    base = _base(fingerprint)
    if mirror.patient.changed(f"{base}/{_LAST}") is not None:
        return False
    data = folder_of(name) / "data"
    files = (path for path in data.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: (path == data / _LAST, path)):
        mirror.patient.upload(path, f"{base}/{path.relative_to(data).as_posix()}")
    return True


def bring_data(storage: Path, name: DatasetName, fingerprint: str) -> None:
    """Have the dataset here if the store has it and nothing of its name is here.

    Of several processes that ask at once one brings it. Waits while the store is away. Raises
    DataError if the datasets' folder cannot be written or is full.
    """
    mirror = mirror_of(storage)
    if mirror is None or is_present(name):
        return
    base = f"{_base(fingerprint)}/"
    keys = [entry.key for entry in mirror.patient.list(base.rstrip("/"))]
    if f"{base}{_LAST}" not in keys:
        return
    with locked(name):
        if is_present(name):
            return
        with new_dataset(name) as staging:
            for key in keys:
                target = staging / name.minari_id / "data" / key.removeprefix(base)
                mirror.patient.download(key, target)


def _base(fingerprint: str) -> str:
    return f"datasets/{fingerprint}"
