"""The driver of a sweep: data, stages, search, final rows, report; each step only if missing.

Killed at any moment and started again, it finds its place from what is on storage.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ray import tune

from analysis import write_report
from ractd_core.data.acquire import ensure
from ractd_core.data.check import behaviour_returns
from ractd_core.data.flat import DataError
from ractd_core.data.store import load, origin_of
from ractd_core.files import lacks_room, read_json, write_json
from sweeps.after_search import AfterSearch
from sweeps.budget import Budget
from sweeps.confirmation import candidates, to_confirm, winner
from sweeps.current import point_out
from sweeps.embedded_ray import capacity, embedded_ray, idle_gpus
from sweeps.ending import Ending
from sweeps.finals import missing
from sweeps.interruption import making_room
from sweeps.layout import SweepFolder, TaskContext, pin_data, storage_path
from sweeps.ledger import Record
from sweeps.messages import Messages, log_to
from sweeps.mirrored_sweep import bring_finished
from sweeps.progress import Progress
from sweeps.ray_signals import heeding_sigterm
from sweeps.requests import stage_requests
from sweeps.search import StudySearch
from sweeps.shared_data import bring_data, share_data
from sweeps.shared_storage import check_shared
from sweeps.spec import SweepSpec
from sweeps.stage_builds import StageBuilds
from sweeps.status import StatusReader, building, report_page
from sweeps.studies import open_database
from sweeps.sweep_search import NO_ROOM, TROUBLE, QuietProgress, SweepSearch
from sweeps.trial import run_trial
from sweeps.versions import versions
from sweeps.workers import WorkersLostError, failure_reason

_HEARTBEAT = 5.0


class TasksFailedError(RuntimeError):
    """Some of the sweep's tasks came to no result; the message says which and why."""


class Driver:
    """Takes one sweep from where it is to its report."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        self.spec: SweepSpec = folder.spec_to_run()
        self.ending = Ending(folder.path, self.spec.resources.grace)
        self.progress = Progress(folder.path / "events.jsonl")
        self.say = self.progress.say
        self._messages = Messages(folder.path / "messages")
        self._failed: list[str] = []
        self.budget = Budget(folder)
        self._reader = StatusReader(folder)

    def run(self) -> None:
        """Everything that is still to be done, with a clock that tells who is at it."""
        with self.budget.ticking(), self.progress.every(_HEARTBEAT, self._tick):
            self._run()

    def _tick(self) -> list[str]:
        self.budget.tick()
        return []

    def _run(self) -> None:
        about = self.folder.path / "sweep.json"
        if not about.exists():
            created = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(
                about,
                {"name": self.folder.name, "created": created, "versions": versions()}
                | {"datasets": {}},
            )
        if self.spec.study != "journal":
            open_database(self.spec.study)  # before hours of stages, not after
        contexts = []
        for index, dataset in enumerate(self.spec.tasks):
            with self._apart(dataset):
                contexts.append(self._prepare_data(index))
        if not contexts:
            raise TasksFailedError("; ".join(self._failed))
        if any(self._to_do(context) for context in contexts):
            self._clean_scratch()
            address = os.environ.get("RAY_ADDRESS")
            self.say(f"joining Ray at {address}" if address else "starting Ray on this machine")
            with embedded_ray(self.spec.resources) as available:
                self.ending.listen()
                if address:
                    check_shared(self.folder.storage)
                for line in idle_gpus(self.spec.resources, available):
                    self.say(line)
                with self.ending.graceful():
                    self._build_stages(contexts, available)
                    self._search(contexts, available)
                with self.progress.every(_HEARTBEAT, self._news):
                    self._failed += AfterSearch(self.folder, self.progress).run(contexts)
            self._clean_scratch()
        else:
            self.say("every trial and row has its record: nothing to train")
        self._report(contexts)
        if self._failed:
            raise TasksFailedError("; ".join(self._failed))

    @contextmanager
    def _apart(self, dataset: str) -> Iterator[None]:
        """What goes wrong with one task's data or rows does not keep the others from theirs."""
        try:
            yield
        except (DataError, TasksFailedError) as error:
            self.say(f"{dataset} failed: {error}")
            self._failed.append(f"{dataset}: {error}")

    def _prepare_data(self, index: int) -> TaskContext:
        name = self.spec.datasets()[index]
        start = said = time.monotonic()

        def progress(line: str) -> None:
            nonlocal said
            if time.monotonic() - said > _HEARTBEAT:
                said = time.monotonic()
                self.say(f"{name}: {line}")

        known = read_json(self.folder.path / "sweep.json")["datasets"].get(str(name))
        if known is not None:
            bring_data(self.folder.storage, name, known)
        if ensure(name, self.spec.data.recipe(), progress=progress):
            self.say(f"{name}: got in {time.monotonic() - start:.0f} s")
        data = load(name)
        pin_data(self.folder, str(name), data.fingerprint)
        if share_data(self.folder.storage, name, data.fingerprint):
            self.say(f"{name}: put into the store, for nodes that have none")
        kind = origin_of(name).get("kind", "unrecorded origin")
        self.say(
            f"{name}: {data.transitions:,} transitions in {data.episodes:,} episodes, "
            f"fingerprint {data.fingerprint[:12]}, {kind}"
        )
        returns, counted = behaviour_returns(data)
        write_json(
            self.folder.path / "data" / f"{name.task.name}.json",
            {
                "dataset": str(name),
                "task": name.task.name,
                "fingerprint": data.fingerprint,
                "transitions": data.transitions,
                "episodes": data.episodes,
                "counted": counted,
                "behaviour_scores": [
                    round(float(score), 4) for score in name.task.normalized_score(returns)
                ],
            },
        )
        return TaskContext(self.folder, self.spec, name, data.fingerprint)

    def _to_do(self, context: TaskContext) -> bool:
        done = self._reader.task(str(context.dataset)).done
        searched = done >= self.spec.planned_trials(context.dataset)
        return not searched or bool(to_confirm(context)) or bool(missing(context))

    def _build_stages(self, contexts: list[TaskContext], available: dict[str, float]) -> None:
        """Teachers and rewards of every choice of every task, before the trials."""
        builds = StageBuilds(
            self.folder, available, self.budget, self.progress, lambda: self.ending.asked
        )
        with self.progress.every(_HEARTBEAT, self._news):
            # Teachers can be built from rewards.
            for kind in ("reward", "teacher"):
                builds.build(kind, [r for c in contexts for r in stage_requests(c, kind)])

    def _search(self, contexts: list[TaskContext], available: dict[str, float]) -> None:
        searches = [StudySearch(context, self._announce) for context in contexts]
        remaining = sum(max(0, search.remaining) for search in searches)
        if remaining == 0:
            return
        student = self.spec.resources.student
        concurrent = min(
            capacity(student, available), self.spec.resources.concurrent_trials or sys.maxsize
        )
        alone = student.alone
        # A trial that only waits for its workers must not take a share of a CPU from them, and
        # Tune refuses trials that take nothing at all.
        needs = {"CPU": student.cpus, "GPU": student.gpus} if alone else {"memory": 1e6}
        trial_resources = tune.PlacementGroupFactory([needs])
        for search in searches:
            if search.remaining > 0:
                count = search.remaining
                self.say(f"{search.context.dataset}: {count} trial{'s' * (count > 1)} to run")
        self.say(f"{concurrent} trials at once")
        tuner = tune.Tuner(
            tune.with_resources(heeding_sigterm(_tune_trial), trial_resources),
            tune_config=tune.TuneConfig(
                search_alg=SweepSearch(searches, self.budget, self.say, lambda: self.ending.asked),
                num_samples=-1,  # the search says when there are no more
                max_concurrent_trials=concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(self.folder.scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=2),
                callbacks=[QuietProgress()],
            ),
        )
        with self.progress.every(_HEARTBEAT * 2, lambda: self._search_news(contexts)):
            tuner.fit()

    def _announce(self, record: Record) -> None:
        self.budget.add(record)
        params = ", ".join(f"{key} {_number(value)}" for key, value in record["params"].items())
        reason = f" ({record['reason']})" if record["reason"] else ""
        ending = record["status"]
        if record["selection"]:
            ending = f"scored {record['selection']['score']:.1f}"
        which = f"{record['dataset']}: " if len(self.spec.tasks) > 1 else ""
        self.progress.event(
            "trial",
            f"{which}trial {record['number']} {ending}{reason}: {params}",
            state=record["status"],
            score=record["selection"]["score"] if record["selection"] else None,
            **{key: record[key] for key in ("dataset", "key", "number", "steps", "seconds")},
        )

    def _report(self, contexts: list[TaskContext]) -> None:
        bring_finished(self.folder.path)
        point_out(self.folder, contexts)
        report = write_report(self.folder.storage, self.folder.name)
        print(f"\n{report.table}\n", flush=True)
        for line in report.headlines:
            print(line, flush=True)
        print(f"\nreport: {report_page(self.folder)}", flush=True)
        self._failed += [
            f"{c.dataset}: no trial {'could be confirmed' if candidates(c) else 'completed'}; "
            "the report says why"
            for c in contexts
            if winner(c) is None
        ]

    def _news(self) -> list[str]:
        return [*self._messages.new(), *building(self.folder)]

    def _search_news(self, contexts: list[TaskContext]) -> list[str]:
        return [*self._news(), *(self._reader.task(str(c.dataset)).line() for c in contexts)]

    def _clean_scratch(self) -> None:
        shutil.rmtree(self.folder.scratch, ignore_errors=True)


def _tune_trial(config: dict[str, Any]) -> None:
    context = config["context"]
    folder = SweepFolder(storage_path(context["storage"]), context["name"])
    log_to(folder.path / "messages")
    try:
        with making_room(folder.path):
            run_trial(config, tune.report)
    except (OSError, WorkersLostError) as error:
        if lacks_room(error):
            tune.report({NO_ROOM: True})
            return
        tune.report({TROUBLE: failure_reason(error)})
        raise


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
