"""One stage in a folder of its own, without a sweep, its store or Ray.

::

    <kind>.safetensors             the model: it is there if and only if training has ended
    <kind>.jsonl                   metrics, a row per report
    <kind>.json                    what the model is made of; written before it is trained
    <kind>.checkpoint.safetensors  what an interrupted training goes on from
    .<kind>.lock                   held by the one trainer; the kernel frees it when that one dies
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ractd_core.checkpoint import CheckpointError
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.files import FileError, read_json, write_json
from ractd_core.stages import Model, load_model, make_stage
from sweeps.build import Outputs, train_to_end
from sweeps.interruption import Notices
from sweeps.spec import SpecError
from sweeps.stage_store import StageRequest
from sweeps.workers import Report

_REPORTS = 50
"""More than a shared stage has: an interrupt loses what came after the last one."""


class StageFolder:
    """Where a stage of one kind lies, beside those of other kinds."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        self.outputs = Outputs(
            path / f"{kind}.safetensors",
            path / f"{kind}.jsonl",
            path / f"{kind}.checkpoint.safetensors",
        )
        self._about = path / f"{kind}.json"

    def find(self, request: StageRequest) -> Model | None:
        """The model of ``request``, None if it is not trained to its end.

        Raises :class:`FileError` if a stage of something else lies or is begun here, or if the
        model is damaged.
        """
        model, anew = self.outputs.model, f"delete {self.path / self.kind}.* to train it anew"
        if not (model.exists() or self.outputs.checkpoint.exists()):
            return None
        if not self._about.exists():
            raise FileError(
                f"there is a {self.kind} in {self.path}, but no {self._about.name}, which would "
                f"say what it is made of; name another --out, or {anew}"
            )
        there = dict(_leaves(read_json(self._about)))
        wanted = dict(_leaves(_definition(request)))
        differing = [
            f"{path} is {there.get(path, 'absent')} there and {wanted.get(path, 'absent')} here"
            for path in {**wanted, **there}
            if there.get(path) != wanted.get(path)
        ]
        if differing:
            what = model if model.exists() else f"the unfinished {self.kind} in {self.path}"
            raise FileError(
                f"{what} is of something else: {'; '.join(differing)}; name another --out, or "
                f"{anew}"
            )
        if not model.exists():
            return None
        try:
            return load_model(model)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {anew}") from error

    def train(
        self,
        request: StageRequest,
        data: FlatDataset,
        parents: dict[str, Path],
        where: torch.device,
        report: Report,
        *,
        micro_batch: int | None = None,
        compile: bool = False,
    ) -> Model:
        """Train ``request`` to its end, from its checkpoint if there is one, and read its model.

        ``parents`` are the model files by kind. Nothing is written before it is clear that it can
        be trained. Raises :class:`SpecError` for a recipe that does not fit the data,
        :class:`CheckpointError` for parents that do not, what :meth:`find` raises,
        :class:`FileError` while another process trains it, and
        :class:`~ractd_core.training.DivergedError`; the last healthy checkpoint then stays. A
        SIGTERM that is heeded (:func:`sweeps.interruption.heed_sigterm`) raises
        :class:`~ractd_core.training.TrainingInterrupted` after a checkpoint.
        """
        try:
            stage, normalizers = make_stage(self.kind, request.recipe, data, parents, where)
        except (FileError, DataError):
            raise
        except ValueError as error:
            raise SpecError(str(error)) from error
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self.find(request) is None:
                write_json(self._about, _definition(request))
                with Notices() as interrupted:
                    train_to_end(
                        stage,
                        normalizers,
                        self.outputs,
                        where,
                        report,
                        identity=request.name,
                        reports=_REPORTS,
                        micro_batch=micro_batch,
                        compile=compile,
                        interrupted=interrupted,
                    )
            self.outputs.checkpoint.unlink(missing_ok=True)
        return load_model(self.outputs.model)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.path / f".{self.kind}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise FileError(
                f"another process is training {self.outputs.model}; wait for it, or name another "
                "--out"
            ) from error
        try:
            yield
        finally:
            lock.release()


def _definition(request: StageRequest) -> dict[str, Any]:
    """What the model is made of, in the recipe's own names."""
    definition = request.definition
    config = definition.pop("config")
    own = config if request.kind == "joint" else {request.kind: config}
    return {"dataset": request.dataset, **definition, **own}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{path}.{key}" if path else key)
