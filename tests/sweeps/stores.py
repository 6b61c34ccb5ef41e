"""A store on local disk whose connection fails on demand, and machines that share it."""

from __future__ import annotations

import io
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyarrow import PythonFile
from pyarrow.fs import FileSystemHandler, LocalFileSystem, PyFileSystem

from sweeps.mirror import Mirror, open_mirror
from sweeps.object_store import ObjectStore

URI = "s3://bucket/prefix"


@dataclass
class Faults:
    """``failures`` are used up, one per call; ``calls`` are what was asked, in order."""

    failures: list[bool] = field(default_factory=list)
    away: bool = False
    delay: float = 0.0
    calls: list[tuple[str, str]] = field(default_factory=list)

    def check(self, call: str, path: str) -> None:
        """Count a call, and fail it if that is due."""
        self.calls.append((call, path))
        time.sleep(self.delay)
        if self.away or (self.failures and self.failures.pop(0)):
            raise OSError("the connection was cut")


class Object(io.BytesIO):
    """What is written appears at ``path`` when it is closed: whole, whoever else writes it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        """Put it there, once."""
        if not self.closed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}")
            part.write_bytes(self.getvalue())
            part.replace(self._path)
        super().close()


class FailingFiles(FileSystemHandler):
    """LocalFileSystem as an object store is: no folders to make, and calls that fail."""

    def __init__(self, faults: Faults) -> None:
        self.faults, self.disk = faults, LocalFileSystem()

    def get_type_name(self) -> str:
        return "failing"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        self.faults.check("info", paths[0])
        return self.disk.get_file_info(paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        self.faults.check("list", selector.base_dir)
        return self.disk.get_file_info(selector)

    def open_input_stream(self, path: str) -> Any:
        self.faults.check("get", path)
        return self.disk.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        self.faults.check("put", path)
        return PythonFile(Object(Path(path)), mode="w")

    def delete_file(self, path: str) -> None:
        self.faults.check("delete", path)
        self.disk.delete_file(path)

    def _refuse(self, *args: Any) -> Any:
        pytest.fail("an object store is asked for nothing else")

    open_input_file = open_append_stream = copy_file = move = create_dir = _refuse
    delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse


class Machine:
    """A machine with an empty mirror of the store in the folder ``bucket``, and its line to it.

    It is a context: inside, the project's paths are this machine's.
    """

    def __init__(self, home: Path, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.faults, self._patch = home, Faults(), monkeypatch
        files = PyFileSystem(FailingFiles(self.faults))
        self.store = ObjectStore(files, str(bucket), URI, pauses=(0.0, 0.0), patience=(0.01,))
        with self:
            self.root = open_mirror(URI)
            self.mirror = Mirror(self.root, URI, home.name, self.store)

    def __enter__(self) -> Machine:
        """Be the machine that this process runs on."""
        self._patch.setenv("RACTD_HOME", str(self.home))
        self._patch.setattr("sweeps.mirror._open", lambda root: self.mirror)
        return self

    def __exit__(self, *error: object) -> None:
        """Be no machine in particular; entering another is enough."""

    def wipe(self) -> None:
        """Lose everything that is on its disk."""
        shutil.rmtree(self.root)
        with self:
            open_mirror(URI)
            self.mirror = Mirror(self.root, URI, self.home.name, self.store)
