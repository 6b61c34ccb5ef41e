"""Runs of MLflow: an experiment per sweep, a run per trial and row below one that has the spec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.trackers.protocol import Entry, Known, Point, TrackerError

_KEY, _STEP, _PARENT = "ractd.key", "ractd.step", "mlflow.parentRunId"
_SPEC = "spec"
"""The key of the run that has it; those of trials and rows begin with their kind."""
_STATES = {"completed": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_PAGE = 1000
_BATCH = 1000
"""Metrics that a server takes at once."""


class MlflowTracker:
    """Writes to the tracking server or database ``uri``, by default a database in ``out``.

    Names and passwords are MLflow's own matter (``MLFLOW_TRACKING_USERNAME`` and its like).
    """

    live = True

    def __init__(self, out: Path, sweep: str, uri: str | None) -> None:
        self._artifacts = None if uri else (out / "artifacts").as_uri()
        with _errors():
            self._client = MlflowClient(uri or f"sqlite:///{out / 'mlflow.db'}")
        self._sweep = sweep
        self._runs: dict[str, Any] = {}

    def begin(self, spec: str) -> None:
        """See :class:`~sweeps.trackers.protocol.Tracker`."""
        with _errors():
            self._begin_sweep(spec)

    def _begin_sweep(self, spec: str) -> None:
        client = self._client
        found = client.get_experiment_by_name(self._sweep)
        self._experiment = (
            client.create_experiment(self._sweep, self._artifacts)
            if found is None
            else found.experiment_id
        )
        token = None
        while token != "":
            page = client.search_runs([self._experiment], max_results=_PAGE, page_token=token)
            self._runs |= {r.data.tags[_KEY]: r for r in page if _KEY in r.data.tags}
            token = page.token or ""
        parent = self._runs.get(_SPEC)
        self._parent = parent.info.run_id if parent else self._begin(_SPEC, self._sweep, {})
        if not client.list_artifacts(self._parent):
            client.log_text(self._parent, spec, "spec.yaml")
            client.set_terminated(self._parent)

    def known(self, entry: Entry) -> Known:
        """See :class:`~sweeps.trackers.protocol.Tracker`."""
        run = self._runs.get(_key(entry))
        if run is None:
            return Known()
        return Known(int(run.data.tags.get(_STEP, 0)), run.info.status != "RUNNING")

    def add(self, entry: Entry, points: Sequence[Point]) -> None:
        """See :class:`~sweeps.trackers.protocol.Tracker`."""
        with _errors():
            self._add(entry, points)

    def _add(self, entry: Entry, points: Sequence[Point]) -> None:
        key, client = _key(entry), self._client
        if key in self._runs:
            run_id = self._runs[key].info.run_id
        else:
            tags = {_PARENT: self._parent, "kind": entry.kind, "dataset": entry.dataset}
            run_id = self._begin(key, entry.name, tags)
        params = [Param(name, str(value)) for name, value in entry.params.items()]
        client.log_batch(run_id, params=params)
        # Before the tag that says so: the same number at the same time and step is kept once.
        metrics = [
            Metric(name, value, _milliseconds(point), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        last = entry.points[-1] if entry.points else None
        step = last.step if last else 0
        if entry.end is not None:
            time = _milliseconds(last) if last else 0
            metrics += [Metric(name, v, time, step) for name, v in entry.end.values.items()]
        for start in range(0, len(metrics), _BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        client.log_batch(run_id, tags=[RunTag(_STEP, str(step))])
        if entry.end is not None:
            if entry.end.reason:
                client.set_tag(run_id, "reason", entry.end.reason)
            client.set_terminated(run_id, _STATES[entry.end.status])
        self._runs[key] = client.get_run(run_id)

    def _begin(self, key: str, name: str, tags: dict[str, str]) -> str:
        run = self._client.create_run(self._experiment, tags={_KEY: key, **tags}, run_name=name)
        run_id: str = run.info.run_id
        return run_id


@contextmanager
def _errors() -> Iterator[None]:
    """A server that is away or refuses is something the user can do something about."""
    try:
        yield
    except MlflowException as error:
        raise TrackerError(f"MLflow: {error}") from error


def _key(entry: Entry) -> str:
    return f"{entry.kind}-{entry.key}"


def _milliseconds(point: Point) -> int:
    return round(point.time.timestamp() * 1000)
