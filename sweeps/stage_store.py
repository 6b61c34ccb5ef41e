"""Content-addressed stages, one build per key.

::

    stages/<kind>-<key>/            model.safetensors, config.json, metrics.jsonl, manifest.json
    stages/.building/<kind>-<key>/  the same in the making, with its training checkpoint
    stages/.locks/<kind>-<key>.lock held by the one builder; the kernel frees it when that one dies

A stage is there if and only if its manifest is: the manifest is written last and the folder then
renamed into place. Whoever finds a key being built waits for it; if the builder dies, the next one
goes on from its checkpoint.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ractd_core.config import Recipe
from ractd_core.files import STAGE_SCHEMA, read_json, sha256, write_json, write_text
from ractd_core.training import DivergedError
from sweeps.canonical import key_of
from sweeps.mirror import commit, discard, pull, restore, share

MODEL = "model.safetensors"
CHECKPOINT = "checkpoint.safetensors"
MANIFEST = "manifest.json"
DIVERGED = "diverged.txt"
_log = logging.getLogger(__name__)

_DAMAGE = (OSError, ValueError, KeyError, TypeError)

Build = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class StageRequest:
    """What defines a stage's result: nothing else is in its key.

    ``parents`` maps the kind of each stage it is built from to that stage's name.
    """

    kind: str
    recipe: Recipe
    dataset: str
    fingerprint: str
    parents: dict[str, str] = field(default_factory=dict)

    @property
    def definition(self) -> dict[str, Any]:
        """The part of the recipe that this kind of stage reads, and what it is trained on."""
        recipe = self.recipe.model_dump(mode="json")
        together = {part: recipe[part] for part in ("teacher", "reward", "student")}
        definition = {
            "schema": STAGE_SCHEMA,
            "kind": self.kind,
            "config": together if self.kind == "joint" else recipe[self.kind],
            "fingerprint": self.fingerprint,
            "parents": self.parents,
        }
        if self.kind != "reward" or recipe["reward"]["network"] == "conv":
            definition["window"] = recipe["window"]
        return definition

    @property
    def name(self) -> str:
        """``<kind>-<key>``, the stage's folder."""
        return f"{self.kind}-{key_of(self.definition)}"


class BusyError(RuntimeError):
    """Somebody else is building the stage."""


class StageStore:
    """The stages under ``root``, shared by everybody who uses the same storage."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where the model of stage ``name`` lies once it is built."""
        return self.root / name / MODEL

    def building(self, name: str) -> Path:
        """Where stage ``name`` lies while it is being built."""
        return self.root / ".building" / name

    def has_builder(self, name: str) -> bool:
        """Whether a process is at stage ``name``, not only its checkpoint there."""
        lock = self._lock(name)
        if not lock.exists():
            return False
        try:
            with FileLock(lock, timeout=0):
                return False
        except (Timeout, OSError):  # Of a file that is not ours nobody can say.
            return True

    def _lock(self, name: str) -> Path:
        return self.root / ".locks" / f"{name}.lock"

    def find(self, name: str) -> dict[str, Any] | None:
        """The manifest of stage ``name``, or None if it is not there or not intact."""
        try:
            return self._intact(name)
        except _DAMAGE:
            if not restore(self.root / name, MANIFEST):
                return None
        try:
            return self._intact(name)
        except _DAMAGE:
            return None

    def _intact(self, name: str) -> dict[str, Any]:
        manifest: dict[str, Any] = read_json(self.root / name / MANIFEST)
        found = sha256(self.root / name / MODEL)
        if found != manifest["model_sha256"]:
            raise ValueError(f"{MODEL} has sha256 {found[:12]}..., not the manifest's")
        return manifest

    def _clear(self, name: str) -> None:
        """Remove a damaged stage; only for the holder of its lock."""
        try:
            self._intact(name)
        except _DAMAGE as error:
            _log.warning("stage %s is damaged (%s); it is built anew", name, error)
            discard(self.root / name, MANIFEST)
            # Renamed first: a folder half removed must not look like a stage.
            shutil.rmtree(_aside(self.root / name), ignore_errors=True)

    def ensure(self, request: StageRequest, build: Build, *, wait: bool = True) -> dict[str, Any]:
        """The stage's manifest, after building it if nobody has.

        ``build`` gets the folder to work in, which may hold an earlier attempt's checkpoint; it
        must leave ``model.safetensors`` there and return what the manifest is to say of the run.
        Raises what ``build`` raises; a stage that diverged once is not tried again. While somebody
        else builds it this waits, or raises :class:`BusyError` if ``wait`` is False.
        """
        name = request.name
        manifest = self.find(name)
        if manifest is not None:
            return manifest
        lock = self._lock(name)
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=-1 if wait else 0):
                return self._ensure(request, build)
        except Timeout as error:
            raise BusyError(name) from error

    def _ensure(self, request: StageRequest, build: Build) -> dict[str, Any]:
        name = request.name
        manifest = self.find(name)
        if manifest is not None:
            return manifest
        if (self.root / name).exists():
            self._clear(name)
        folder = self.building(name)
        folder.mkdir(parents=True, exist_ok=True)
        pull(folder)
        if (folder / DIVERGED).exists():
            raise DivergedError((folder / DIVERGED).read_text())
        try:
            run = build(folder)
        except DivergedError as error:
            # It would diverge again for everybody who asks for it.
            write_text(folder / DIVERGED, str(error))
            share(folder / DIVERGED)
            raise
        for leftover in folder.glob("checkpoint*"):
            leftover.unlink()
        config = request.definition["config"] | request.definition.get("window", {})
        write_json(folder / "config.json", config)
        manifest = {
            "schema": STAGE_SCHEMA,
            "kind": request.kind,
            "key": name.partition("-")[2],
            "name": name,
            "config": config,
            "parents": request.parents,
            "dataset": request.dataset,
            "fingerprint": request.fingerprint,
            "model_sha256": sha256(folder / MODEL),
            **run,
        }
        ours = commit(self.root / name, MANIFEST, manifest, folder)
        if not ours or (self.root / name).exists():
            # Built on another machine meanwhile, which counts; or brought back here already.
            shutil.rmtree(folder)
            restore(self.root / name, MANIFEST)
            return self._intact(name)
        write_json(folder / MANIFEST, manifest)
        folder.rename(self.root / name)
        return manifest


def _aside(folder: Path) -> Path:
    aside = folder.with_name(f".damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)
