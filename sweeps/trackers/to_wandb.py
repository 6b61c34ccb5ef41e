"""Runs of Weights & Biases: a group per sweep, a run per trial and row that has ended.

Only those that have ended, since an offline run that is written in parts has to be put together by
hand. Online where the key is in the environment (``WANDB_API_KEY``), else offline: ``wandb sync``
sends such runs later.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import wandb
import wandb.errors

from ractd_core.files import write_text
from sweeps.trackers.protocol import Entry, Known, Point, TrackerError

_PROJECT = "ractd"


class WandbTracker:
    """Writes below ``out``, to the project ``WANDB_PROJECT`` or ``ractd``."""

    live = False

    def __init__(self, out: Path, sweep: str) -> None:
        self._out = out
        self._sweep = sweep
        self._project = os.environ.get("WANDB_PROJECT") or _PROJECT
        self._mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"

    def begin(self, spec: str) -> None:
        """See :class:`~sweeps.trackers.protocol.Tracker`."""
        self._spec = spec

    def known(self, entry: Entry) -> Known:
        """See :class:`~sweeps.trackers.protocol.Tracker`."""
        return Known(ended=self._mark(entry).exists())

    def add(self, entry: Entry, points: Sequence[Point]) -> None:
        """See :class:`~sweeps.trackers.protocol.Tracker`."""
        try:
            self._add(entry, points)
        except wandb.errors.Error as error:
            raise TrackerError(f"W&B: {error}") from error

    def _add(self, entry: Entry, points: Sequence[Point]) -> None:
        assert entry.end is not None
        name = self._id(entry)
        # Half a run of a mirroring that was killed. Online its steps are there, and ignored now.
        # Their folders are called (offline-)run-DATE_TIME-NAME; another sweep's name may end alike.
        for half in self._out.glob(f"wandb/*run-*-{name}"):
            if re.fullmatch(rf"(offline-)?run-\d+_\d+-{re.escape(name)}", half.name):
                shutil.rmtree(half)
        run = wandb.init(
            project=self._project,
            id=name,
            name=entry.name,
            group=self._sweep,
            job_type=entry.kind,
            tags=[entry.dataset, entry.end.status],
            notes=entry.end.reason,
            config={**entry.params, "dataset": entry.dataset, "spec": self._spec},
            dir=str(self._out),
            mode=self._mode,
            resume="allow",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        for point in points:
            run.log(point.values, step=point.step)
        run.summary.update(entry.end.values)
        run.finish(exit_code=1 if entry.end.status == "failed" else 0)
        write_text(self._mark(entry), "")

    def _id(self, entry: Entry) -> str:
        return f"{self._sweep}-{entry.kind}-{entry.key}"

    def _mark(self, entry: Entry) -> Path:
        """A file that is there once the whole run is."""
        return self._out / "whole" / self._mode / self._id(entry)
