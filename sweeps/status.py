"""How far a sweep is, from the storage alone: works on any machine that sees it, at any time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ractd_core.files import read_json
from ractd_core.tasks import parse_dataset_name
from sweeps.build import METRICS
from sweeps.jsonl import read_rows
from sweeps.layout import ABOUT, SweepFolder


@dataclass(frozen=True)
class TaskStatus:
    """Counts of one task's trials.

    ``running`` have begun and have no record; ``best`` is the best selection score so far, None
    without a completed trial.
    """

    dataset: str
    trials: int
    completed: int
    pruned: int
    failed: int
    running: int
    best: float | None

    @property
    def done(self) -> int:
        """Trials with a record."""
        return self.completed + self.pruned + self.failed

    def line(self) -> str:
        """One line for people."""
        parts = [f"{self.completed} completed"]
        for count, word in ((self.pruned, "pruned"), (self.failed, "failed")):
            parts += [f"{count} {word}"] if count else []
        best = "" if self.best is None else f", best {self.best:.1f}"
        waiting = max(0, self.trials - self.done - self.running)
        return (
            f"{self.dataset}: {self.done}/{self.trials} trials ({', '.join(parts)}), "
            f"{self.running} under way, {waiting} to come{best}"
        )


def task_status(folder: SweepFolder, dataset: str) -> TaskStatus:
    """Count the records and folders of one task."""
    records = [record for record in folder.trials if record["dataset"] == dataset]
    count = {
        status: sum(record["status"] == status for record in records)
        for status in ("completed", "pruned", "failed")
    }
    scores = [r["selection"]["score"] for r in records if r["status"] == "completed"]
    begun = [
        path
        for path in folder.trials.root.glob(f"*/{ABOUT}")
        if read_json(path)["dataset"] == dataset and folder.trials.get(path.parent.name) is None
    ]
    return TaskStatus(
        dataset=dataset,
        trials=folder.spec().planned_trials(parse_dataset_name(dataset)),
        running=len(begun),
        best=max(scores, default=None),
        **count,
    )


def building(folder: SweepFolder) -> list[str]:
    """One phrase per stage in the making: which, how far, at what loss."""
    phrases = []
    for path in sorted((folder.storage / "stages" / ".building").glob(f"*/{METRICS}")):
        rows = read_rows(path)
        if rows:
            last = rows[-1]
            kind = path.parent.name.partition("-")[0]
            phrases.append(
                f"{kind} step {last['step']}/{last['total']} (loss {_short(last['loss'])})"
            )
    return phrases


def report_page(folder: SweepFolder) -> Path:
    """Where the sweep's report lies once it is written."""
    return folder.path / "report" / "index.html"


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
