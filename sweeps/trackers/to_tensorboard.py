"""Event files for TensorBoard: one folder per run, one file per look at the storage.

A file is written aside and renamed into place under the last step it holds, so the names alone say
what is there. TensorBoard reads a folder's files in the order of their names.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from sweeps.trackers.protocol import Entry, Known, Point

_PREFIX = "events.out.tfevents."
_GOES_ON, _ENDED = "curve", "ended"


class TensorBoardTracker:
    """Writes below ``out/SWEEP``."""

    live = True

    def __init__(self, out: Path, sweep: str) -> None:
        self._root = out / sweep
        self._aside = self._root / ".writing"

    def begin(self, spec: str) -> None:
        """See :class:`~sweeps.trackers.protocol.Tracker`."""
        shutil.rmtree(self._aside, ignore_errors=True)
        if not (self._root / "spec").exists():
            with self._written(self._root / "spec" / f"{_PREFIX}{_ENDED}") as writer:
                # Markdown: an indented block is shown as it is.
                writer.add_text("spec", "".join(f"    {line}\n" for line in spec.splitlines()))

    def known(self, entry: Entry) -> Known:
        """See :class:`~sweeps.trackers.protocol.Tracker`."""
        names = [path.name for path in self._folder(entry).glob(f"{_PREFIX}*")]
        parts = [name.removeprefix(_PREFIX).split(".") for name in names]
        steps = (int(step) for step, _ in parts)
        return Known(max(steps, default=0), any(state == _ENDED for _, state in parts))

    def add(self, entry: Entry, points: Sequence[Point]) -> None:
        """See :class:`~sweeps.trackers.protocol.Tracker`."""
        last = entry.points[-1] if entry.points else None
        step = last.step if last else 0
        state = _GOES_ON if entry.end is None else _ENDED
        path = self._folder(entry) / f"{_PREFIX}{step:012d}.{state}"
        with self._written(path) as writer:
            for point in points:
                for name, value in point.values.items():
                    writer.add_scalar(name, value, point.step, point.time.timestamp())
            if entry.end is not None:
                time = last.time.timestamp() if last else None
                for name, value in entry.end.values.items():
                    writer.add_scalar(name, value, step, time)
                params = {name: "none" if v is None else v for name, v in entry.params.items()}
                for summary in hparams(params, dict.fromkeys(entry.end.values)):
                    writer.file_writer.add_summary(summary)

    def _folder(self, entry: Entry) -> Path:
        return self._root / entry.dataset / f"{entry.name.replace(':', '-')}-{entry.key[:8]}"

    @contextmanager
    def _written(self, path: Path) -> Iterator[SummaryWriter]:
        """A writer whose one file becomes ``path`` when the block ends without an error."""
        try:
            with SummaryWriter(str(self._aside)) as writer:
                yield writer
            [written] = self._aside.iterdir()
            path.parent.mkdir(parents=True, exist_ok=True)
            written.rename(path)
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)
