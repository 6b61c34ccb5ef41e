"""The driver of a sweep: data, stages, search, final rows, report; each step only if missing.

Killed at any moment and started again, it finds its place from what is on storage.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError

from analysis import write_report
from ractd_core.data.acquire import ensure
from ractd_core.data.check import behaviour_returns
from ractd_core.data.flat import DataError
from ractd_core.data.store import load, origin_of
from ractd_core.files import write_json
from ractd_core.training import DivergedError
from sweeps.build import ensure_stage
from sweeps.confirmation import candidates, confirm, confirmation, to_confirm, winner
from sweeps.embedded_ray import capacity, embedded_ray
from sweeps.finals import RowsFailedError, missing, play_rows, time_rows, wanted
from sweeps.layout import SweepFolder, TaskContext, pin_data, versions
from sweeps.ledger import Record
from sweeps.messages import Messages, log_to
from sweeps.progress import Progress
from sweeps.requests import describe, stage_requests
from sweeps.search import QuietProgress, StudySearch
from sweeps.spec import SweepSpec
from sweeps.stage_store import StageRequest
from sweeps.status import building, report_page, task_status
from sweeps.trial import run_trial
from sweeps.workers import failure_reason

_HEARTBEAT = 5.0


class TasksFailedError(RuntimeError):
    """Some of the sweep's tasks came to no result; the message says which and why."""


class Driver:
    """Takes one sweep from where it is to its report."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        self.spec: SweepSpec = folder.spec_to_run()
        self.progress = Progress(folder.path / "events.jsonl")
        self.say = self.progress.say
        self._messages = Messages(folder.path / "messages")
        self._failed: list[str] = []

    def run(self) -> None:
        """Everything that is still to be done."""
        about = self.folder.path / "sweep.json"
        if not about.exists():
            created = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(
                about,
                {"name": self.folder.name, "created": created, "versions": versions()}
                | {"datasets": {}},
            )
        contexts = []
        for index, dataset in enumerate(self.spec.tasks):
            with self._apart(dataset):
                contexts.append(self._prepare_data(index))
        if not contexts:
            raise TasksFailedError("; ".join(self._failed))
        if any(self._to_do(context) for context in contexts):
            self._clean_scratch()
            self.say("starting Ray on this machine")
            with embedded_ray(self.spec.resources) as available:
                self._build_stages(contexts, available)
                for context in contexts:
                    with self._apart(str(context.dataset)):
                        self._search(context, available)
                        self._confirm(context)
                        self._final_rows(context)
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

        if ensure(name, self.spec.data.recipe(), progress=progress):
            self.say(f"{name}: got in {time.monotonic() - start:.0f} s")
        data = load(name)
        pin_data(self.folder, str(name), data.fingerprint)
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
        done = task_status(self.folder, str(context.dataset)).done
        searched = done >= self.spec.planned_trials(context.dataset)
        return not searched or bool(to_confirm(context)) or bool(missing(context))

    def _build_stages(self, contexts: list[TaskContext], available: dict[str, float]) -> None:
        """Teachers and rewards of every choice, before the trials: none then waits for another."""
        for kind in ("reward", "teacher"):
            requests = {r.name: r for c in contexts for r in stage_requests(c, kind)}
            find = self.folder.store.find
            todo = [r for r in requests.values() if find(r.name) is None]
            if len(todo) < len(requests):
                self.say(f"{kind}: {len(requests) - len(todo)} of {len(requests)} in the store")
            # A stage whose parent could not be built is left to the trials, which say so.
            todo = [r for r in todo if all(map(find, r.parents.values()))]
            resources = getattr(self.spec.resources, kind)
            alone = resources.workers == 1
            # Ray Train's workers take their own resources; the task that waits for them takes none.
            task = ray.remote(_ensure).options(
                num_cpus=resources.cpus if alone else 0,
                num_gpus=resources.gpus if alone else 0,
                max_retries=2,
            )
            slots = capacity(resources, available)
            with self.progress.every(_HEARTBEAT, self._news):
                running: list[Any] = []
                for request in todo:
                    if len(running) >= slots:
                        self._finished(running)
                    workers = f" on {resources.workers} Ray Train workers" if not alone else ""
                    self.say(f"building {describe(request)}{workers}")
                    running.append(task.remote(str(self.folder.storage), self.folder.name, request))
                while running:
                    self._finished(running)

    def _finished(self, running: list[Any]) -> None:
        [ready], running[:] = ray.wait(running, num_returns=1)
        try:
            manifest = ray.get(ready)
        except (DivergedError, DataError) as error:
            # The trials that need it fail with this reason, and the sweep goes on.
            self.say(f"a stage cannot be built: {getattr(error, 'cause', error)}")
            return
        except RayTaskError as error:
            raise RuntimeError(f"a stage could not be built: {error.cause}") from error
        self.say(
            f"built {manifest['name']}: {manifest['steps']} steps in {manifest['seconds']:.0f} s, "
            f"loss {manifest['loss']:.3g}"
        )

    def _search(self, context: TaskContext, available: dict[str, float]) -> None:
        search = StudySearch(context, self._announce)
        if search.remaining <= 0:
            return
        student = self.spec.resources.student
        concurrent = min(
            capacity(student, available), self.spec.resources.concurrent_trials or sys.maxsize
        )
        alone = student.workers == 1
        # A trial that only waits for its workers must not take a share of a CPU from them, and
        # Tune refuses trials that take nothing at all.
        needs = {"CPU": student.cpus, "GPU": student.gpus} if alone else {"memory": 1e6}
        trial_resources = tune.PlacementGroupFactory([needs])
        self.say(f"{context.dataset}: {search.remaining} trials to run, {concurrent} at once")
        tuner = tune.Tuner(
            tune.with_resources(_tune_trial, trial_resources),
            tune_config=tune.TuneConfig(
                search_alg=search,
                num_samples=search.remaining,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=context.dataset.task.name,
                storage_path=str(self.folder.scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=2),
                callbacks=[QuietProgress()],
            ),
        )
        with self.progress.every(_HEARTBEAT * 2, lambda: self._search_news(context)):
            tuner.fit()

    def _announce(self, record: Record) -> None:
        params = ", ".join(f"{key} {_number(value)}" for key, value in record["params"].items())
        reason = f" ({record['reason']})" if record["reason"] else ""
        ending = record["status"]
        if record["selection"]:
            ending = f"scored {record['selection']['score']:.1f}"
        self.say(f"trial {record['number']} {ending}{reason}: {params}")

    def _confirm(self, context: TaskContext) -> None:
        todo = to_confirm(context)
        if not todo:
            return
        numbers = ", ".join(str(trial["number"]) for trial in todo)
        episodes = self.spec.selection.confirmation_episodes
        self.say(f"{context.dataset}: confirming trials {numbers} on {episodes} fresh seeds")
        with self.progress.every(_HEARTBEAT, self._news):
            try:
                ray.get(self._alone(_confirm).remote(context.to_json()))
            except RayTaskError as error:
                raise TasksFailedError(f"confirmation: {failure_reason(error.cause)}") from error
        for trial in todo:
            record = confirmation(context, trial)
            assert record is not None
            ending = record["reason"] or (
                f"scored {record['confirmation']['score']:.1f} "
                f"(selected with {record['selection_score']:.1f})"
            )
            self.say(f"trial {trial['number']} {ending}")

    def _alone(self, function: Any) -> Any:
        """A Ray task that plays: in one process, however many trained."""
        student = self.spec.resources.student
        return ray.remote(function).options(num_cpus=student.cpus, num_gpus=min(student.gpus, 1.0))

    def _final_rows(self, context: TaskContext) -> None:
        best = winner(context)
        todo = missing(context)
        if best is None or not todo:
            return
        self.say(
            f"{context.dataset}: trial {best['number']} wins "
            f"with {best['selection']['score']:.1f}; evaluating {', '.join(todo)} "
            f"on {self.spec.evaluation.final_episodes} fresh seeds"
        )
        # By now all others have ended.
        task = self._alone(_final)
        with self.progress.every(_HEARTBEAT, self._news):
            pending = [task.remote(context.to_json())]
            known = set(todo)
            while pending:
                ready, pending = ray.wait(pending, timeout=1.0)
                left = set(missing(context))
                for method in sorted(known - left):
                    record = self.folder.rows.get(wanted(context, best)[method])
                    if record is not None:
                        result = record["evaluation"]
                        self.say(
                            f"{method}: {result['score']:.1f} over {result['episodes']} episodes, "
                            f"{record['latency_ms']['median']:.2f} ms per decision"
                        )
                known = left
            try:
                ray.get(ready)
            except RayTaskError as error:
                if isinstance(error.cause, RowsFailedError):
                    raise TasksFailedError(str(error.cause)) from error
                rows = ", ".join(sorted(known))
                raise TasksFailedError(f"{rows}: {failure_reason(error.cause)}") from error

    def _report(self, contexts: list[TaskContext]) -> None:
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

    def _search_news(self, context: TaskContext) -> list[str]:
        return [*self._news(), task_status(self.folder, str(context.dataset)).line()]

    def _clean_scratch(self) -> None:
        shutil.rmtree(self.folder.scratch, ignore_errors=True)


def _ensure(storage: str, name: str, request: StageRequest) -> dict[str, Any]:
    folder = SweepFolder(Path(storage), name)
    log_to(folder.path / "messages")
    resources = getattr(folder.spec().resources, request.kind)
    return ensure_stage(folder.store, request, resources, folder.scratch)


def _confirm(context: dict[str, Any]) -> None:
    log_to(SweepFolder(Path(context["storage"]), context["name"]).path / "messages")
    confirm(context)


def _final(context: dict[str, Any]) -> None:
    log_to(SweepFolder(Path(context["storage"]), context["name"]).path / "messages")
    try:
        play_rows(context)
    finally:
        time_rows(context)


def _tune_trial(config: dict[str, Any]) -> None:
    context = config["context"]
    log_to(SweepFolder(Path(context["storage"]), context["name"]).path / "messages")
    run_trial(config, tune.report)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
