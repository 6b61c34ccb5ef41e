"""A folder as Minari's server, so that Minari's own download runs without a network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import minari.storage.remotes
from minari.storage.remotes.cloud_storage import CloudStorage

SCHEME = "folder"
_LOG = "downloads.log"


class FolderStorage(CloudStorage):
    """Serves the Minari root ``name``; a file ``fail`` there breaks the next download off.

    Every download leaves a line in ``downloads.log``.
    """

    def __init__(self, name: str, token: str | None = None) -> None:
        self.root = Path(name)

    def list_datasets(self, prefix: str | None = None) -> Iterable[str]:
        for path in sorted(self.root.rglob("metadata.json")):
            found = path.parents[1].relative_to(self.root).as_posix()
            if found.startswith(prefix or ""):
                yield found

    def get_dataset_metadata(self, dataset_id: str) -> Any:
        return json.loads((self.root / dataset_id / "data" / "metadata.json").read_text())

    def download_dataset(self, dataset_id: str, path: Path) -> None:
        with (self.root / _LOG).open("a") as log:
            log.write(f"{dataset_id}\n")
        source, target = self.root / dataset_id / "data", Path(path) / dataset_id / "data"
        target.mkdir(parents=True)
        shutil.copy(source / "metadata.json", target)
        content = (source / "main_data.hdf5").read_bytes()
        if (self.root / "fail").exists():
            (self.root / "fail").unlink()
            (target / "main_data.hdf5").write_bytes(content[: len(content) // 2])
            raise ConnectionResetError("the line went dead")
        (target / "main_data.hdf5").write_bytes(content)

    def list_namespaces(self) -> Iterable[str]:
        for path in self.root.rglob("namespace_metadata.json"):
            yield path.parent.relative_to(self.root).as_posix()

    def download_namespace_metadata(self, namespace: str, path: Path) -> None:
        target = Path(path) / namespace / "namespace_metadata.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.root / namespace / target.name, target)

    def upload_dataset(self, dataset_id: str) -> None:
        raise AssertionError("a download uploads nothing")

    def upload_namespace(self, namespace: str) -> None:
        raise AssertionError("a download uploads nothing")


def install(root: Path) -> None:
    """Make Minari download from ``root``, in this process and in those that call it too."""
    registry: dict[str, Callable[[], type[CloudStorage]]] | None
    registry = getattr(minari.storage.remotes, "_registry", None)
    if not isinstance(registry, dict) or "hf" not in registry:
        raise AssertionError(
            "minari.storage.remotes._registry, a private name, is gone: find out how this release "
            "of Minari chooses its server, and change this helper"
        )
    registry[SCHEME] = lambda: FolderStorage
    os.environ["MINARI_REMOTE"] = f"{SCHEME}://{root}"


def downloads(root: Path) -> list[str]:
    """The ids that were downloaded, in order."""
    log = root / _LOG
    return log.read_text().split() if log.exists() else []
