"""What follows the search: the best trials confirmed, the rows played, and the rows timed.

Tasks are confirmed and played side by side, each in a process of its own. Rows are timed last, one
after the other while nothing else runs, so that their times compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from sweeps.budget import when_there_is_room
from sweeps.confirmation import confirm, confirmation, to_confirm, winner
from sweeps.current import point_out
from sweeps.finals import RowsFailedError, play_rows, time_rows, to_play, to_time, wanted
from sweeps.interruption import PreemptedError, heed_sigterm, making_room
from sweeps.layout import SweepFolder, TaskContext, storage_path
from sweeps.messages import log_to
from sweeps.mirrored_sweep import bring_finished
from sweeps.progress import Progress
from sweeps.workers import failure_reason

_SETTLE = 3.0
"""Seconds until the processes that have just played are gone: they slowed the first row timed."""

Work = Callable[[dict[str, Any]], None]


class AfterSearch:
    """Takes tasks whose search is over to the records of their rows."""

    def __init__(self, folder: SweepFolder, progress: Progress) -> None:
        self._folder, self._progress = folder, progress
        self._spec = folder.spec()
        self._failed: list[str] = []

    def run(self, contexts: list[TaskContext]) -> list[str]:
        """Do what is missing; returns what failed, a task each, which keeps no other from its own.

        A row that cannot be played does not keep the others from being timed.
        """
        for context in contexts:
            numbers = ", ".join(str(trial["number"]) for trial in to_confirm(context))
            if numbers:
                self._progress.say(
                    f"{context.dataset}: confirming trials {numbers} on "
                    f"{self._spec.selection.confirmation_episodes} fresh seeds"
                )
        point_out(self._folder, contexts)
        self._side_by_side(confirm, to_confirm, contexts, self._confirmed)
        point_out(self._folder, contexts)
        for context in contexts:
            best, rows = winner(context), to_play(context)
            if best is not None and rows:
                self._progress.say(
                    f"{context.dataset}: trial {best['number']} wins; playing {', '.join(rows)} "
                    f"on {self._spec.evaluation.final_episodes} fresh seeds"
                )
        self._side_by_side(play_rows, to_play, contexts, self._recorded)
        if any(map(to_time, contexts)):
            time.sleep(_SETTLE)
        for context in contexts:
            self._side_by_side(time_rows, to_time, [context], self._recorded)
        return self._failed

    def _side_by_side(
        self,
        work: Work,
        todo: Callable[[TaskContext], list[Any]],
        contexts: list[TaskContext],
        done: Callable[[TaskContext, list[Any]], None],
    ) -> None:
        """Call ``work`` for every task with something ``todo``, each in a process of its own.

        As many at once as fit. ``done`` gets each as its work ends, with what was to be done.
        """
        student = self._spec.resources.student
        # In one process, however many trained.
        task = ray.remote(_in_its_process).options(
            num_cpus=student.cpus,
            num_gpus=min(student.gpus, 1.0),
            retry_exceptions=[PreemptedError],
        )
        running = {
            task.remote(work, context.to_json()): (context, before)
            for context in contexts
            if (before := todo(context))
        }
        while running:
            [ready], _ = ray.wait(list(running), num_returns=1)
            context, before = running.pop(ready)
            try:
                ray.get(ready)
            except RayError as error:
                cause = getattr(error, "cause", error)
                reason = str(cause) if isinstance(cause, RowsFailedError) else failure_reason(cause)
                self._progress.say(f"{context.dataset} failed: {reason}")
                self._failed.append(f"{context.dataset}: {reason}")
            done(context, before)

    def _confirmed(self, context: TaskContext, trials: list[Any]) -> None:
        for trial in trials:
            record = confirmation(context, trial)
            if record is None:
                continue
            ending = record["reason"] or (
                f"scored {record['confirmation']['score']:.1f} "
                f"(selected with {record['selection_score']:.1f})"
            )
            self._progress.say(f"{self._whose(context)}trial {trial['number']} {ending}")

    def _recorded(self, context: TaskContext, rows: list[Any]) -> None:
        """Of ``rows``, say those that have their record now: timed, or failed as it was trained."""
        best = winner(context)
        assert best is not None
        for row in rows:
            record = self._folder.rows.get(wanted(context, best)[row])
            if record is None:
                continue
            result = record["evaluation"] or {"score": None, "episodes": None}
            ending = record["reason"] or (
                f"{result['score']:.1f} over {result['episodes']} episodes, "
                f"{record['latency_ms']['median']:.2f} ms per decision"
            )
            self._progress.event(
                "row",
                f"{self._whose(context)}{row}: {ending}",
                state=record["status"],
                score=None if record["reason"] else result["score"],
                episodes=result["episodes"],
                **{key: record[key] for key in ("dataset", "key", "method")},
            )

    def _whose(self, context: TaskContext) -> str:
        return f"{context.dataset}: " if len(self._spec.tasks) > 1 else ""


def _in_its_process(work: Work, context: dict[str, Any]) -> None:
    folder = SweepFolder(storage_path(context["storage"]), context["name"])
    log_to(folder.path / "messages")
    heed_sigterm()
    # Trials of other nodes are among the candidates.
    bring_finished(folder.path)
    with making_room(folder.path):
        when_there_is_room(folder, lambda: work(context))
