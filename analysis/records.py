"""Load the records of one or more sweeps from the storage as tidy frames."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import flatten, schema
from analysis.document import (
    Document,
    RecordError,
    read_document,
    read_episodes,
    read_lines,
    read_log,
    read_manifest,
    read_record,
)
from analysis.flatten import Line
from analysis.schema import Column

__all__ = ["RecordError", "Records", "load"]


@dataclass(frozen=True)
class Records:
    """Everything that the sweeps asked for have recorded; SCHEMA.md has the frames' columns.

    Scores are normalized: 0 is the random policy's return, 100 the reference expert's. Keys and
    numbers are those within one sweep: join by `sweep` and `key`.
    """

    sweeps: pd.DataFrame
    """One line per sweep, in the order asked for."""
    trials: pd.DataFrame
    """One line per finished trial; `params.<name>` columns hold further searched parameters."""
    rows: pd.DataFrame
    """One line per final row in force: a method on a dataset, of the winner, on fresh seeds."""
    confirmations: pd.DataFrame
    """One line per candidate that was played again on seeds that the search had not used."""
    curves: pd.DataFrame
    """One line per evaluation during training, with its trial's key and weights."""
    episodes: pd.DataFrame
    """One line per evaluation episode of a trial, confirmation or row."""
    seeds: pd.DataFrame
    """One line per training seed of a trial, confirmation or row, with its score."""
    stages: pd.DataFrame
    """One line per stage in use by trials or rows; no manifest leaves its figures NaN."""
    uses: pd.DataFrame
    """One line per trial and stage that it was built from."""
    latency: pd.DataFrame
    """One line per row or trial that was timed."""
    data: pd.DataFrame
    """One line per dataset."""
    behaviour: pd.DataFrame
    """One line per episode (mazes: stretch) of a dataset, with the score of its behaviour."""
    events: pd.DataFrame
    """One line per event of the sweeps' logs."""

    @property
    def datasets(self) -> list[str]:
        """The names of all datasets that anything was recorded on, sorted."""
        return self._names("dataset")

    @property
    def tasks(self) -> list[str]:
        """The names of all tasks that anything was recorded on, sorted."""
        return self._names("task")

    @property
    def name(self) -> str:
        """The sweeps' names in one line."""
        return ", ".join(self.sweeps["sweep"])

    @property
    def created(self) -> str:
        """When the first of them began, ISO 8601."""
        return str(self.sweeps["created"].min())

    @property
    def folder(self) -> Path:
        """The first one's folder."""
        return Path(self.sweeps["folder"].iloc[0])

    @property
    def unfinished_trials(self) -> int:
        """Trials that have begun and have no record."""
        return int(self.sweeps["unfinished_trials"].sum())

    @property
    def unfinished_rows(self) -> int:
        """Final rows that have begun and have no record."""
        return int(self.sweeps["unfinished_rows"].sum())

    def _names(self, column: str) -> list[str]:
        frames = (self.data, self.trials, self.rows)
        return sorted({str(name) for frame in frames for name in frame[column]})


@dataclass(frozen=True)
class _Owned:
    """A record's folder, what it says, and its line."""

    folder: Path
    record: Document
    line: Line


@dataclass(frozen=True)
class _Part:
    """What was read of one sweep."""

    about: Line
    trials: list[_Owned]
    confirmations: list[_Owned]
    rows: list[_Owned]
    data: list[Document]
    events: list[Document] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.about["sweep"])

    @property
    def owners(self) -> list[_Owned]:
        return [*self.trials, *self.confirmations, *self.rows]


def load(storage: Path | str, sweeps: Sequence[str] | None = None) -> Records:
    """Read `sweeps` of `storage`, by default all that are there.

    It reads finished records alone, so it works while a sweep runs: what has no record yet is
    counted in the frame `sweeps`. A frame without lines has its columns and types all the same.
    RecordError names the file that is torn, damaged or of another release, and sweeps that are not
    there.
    """
    root = Path(storage)
    parts = [_read(root, name) for name in _chosen(root, sweeps)]
    trials = [each for part in parts for each in part.trials]
    rows = [each for part in parts for each in part.rows]
    confirmations = [each for part in parts for each in part.confirmations]
    owners = [each for part in parts for each in part.owners]
    return Records(
        sweeps=_frame((part.about for part in parts), schema.SWEEPS),
        trials=_frame((each.line for each in trials), schema.TRIALS),
        rows=_frame((each.line for each in rows), schema.ROWS),
        confirmations=_frame((each.line for each in confirmations), schema.CONFIRMATIONS),
        curves=_curves(trials),
        episodes=_episodes(owners),
        seeds=_frame(_seed_lines(owners), schema.SEEDS),
        stages=_frame(_stage_lines(root / "stages", [*trials, *rows]), schema.STAGES),
        uses=_frame(_use_lines(trials), schema.USES),
        latency=_frame(_latency_lines([*trials, *rows]), schema.LATENCY),
        data=_frame(_data_lines(parts), schema.DATA),
        behaviour=_frame(_behaviour_lines(parts), schema.BEHAVIOUR),
        events=_frame(_event_lines(parts), schema.EVENTS),
    )


def _chosen(storage: Path, sweeps: Sequence[str] | None) -> list[str]:
    names = sorted(path.parent.name for path in (storage / "sweeps").glob("*/sweep.json"))
    asked = names if sweeps is None else list(dict.fromkeys(sweeps))
    for name in asked:
        if name not in names:
            near = difflib.get_close_matches(name, names)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise RecordError(f"no sweep {name!r} in {_there(storage, names)}{hint}")
    if not asked:
        raise RecordError(f"no sweep asked for, expected one or more of {_there(storage, names)}")
    return asked


def _there(storage: Path, names: Sequence[str]) -> str:
    there = ", ".join(names) if names else "none; run one first or name another storage"
    return f"{storage / 'sweeps'}; sweeps there: {there}"


def _read(storage: Path, name: str) -> _Part:
    folder = storage / "sweeps" / name
    created = read_document(folder / "sweep.json").text("created")
    trials, unfinished_trials = _records(folder / "trials", "trial", flatten.trial_line)
    confirmations, _ = _records(folder / "confirmations", "confirmation", flatten.confirmation_line)
    rows, unfinished_rows = _records(folder / "rows", "row", flatten.row_line)
    current = _current(folder / "current.json")
    log = folder / "events.jsonl"
    events, unreadable = read_log(log) if log.is_file() else ([], 0)
    return _Part(
        about={
            "sweep": name,
            "folder": str(folder),
            "created": created,
            "unfinished_trials": unfinished_trials,
            "unfinished_rows": unfinished_rows,
            "unreadable_events": unreadable,
        },
        trials=sorted(trials, key=_place),
        confirmations=sorted(_of_now(confirmations, current, "confirmations"), key=_place),
        rows=_in_force(_of_now(rows, current, "rows"), confirmations),
        data=[read_document(path) for path in sorted((folder / "data").glob("*.json"))],
        events=events,
    )


def _place(owned: _Owned) -> tuple[str, int]:
    return owned.record.text("dataset"), owned.record.integer("number")


def _records(parent: Path, kind: str, line: Callable[[Document], Line]) -> tuple[list[_Owned], int]:
    """The finished records of one kind by the names of their folders, and how many are not."""
    folders = _subfolders(parent)
    finished = [folder for folder in folders if (folder / "record.json").exists()]
    records = [(folder, read_record(folder / "record.json", kind)) for folder in finished]
    owned = [_Owned(folder, record, line(record)) for folder, record in records]
    return owned, len(folders) - len(finished)


def _subfolders(parent: Path) -> list[Path]:
    """Sorted; a name with a leading dot is a temporary folder of a write in progress."""
    if not parent.is_dir():
        return []
    with os.scandir(parent) as entries:
        names = [each.name for each in entries if each.is_dir() and not each.name.startswith(".")]
    return [parent / name for name in sorted(names)]


def _current(path: Path) -> Mapping[str, Mapping[str, list[str]]]:
    """The keys that the spec of now stands for, by dataset; none before there are candidates."""
    if not path.exists():
        return {}
    document = read_document(path)
    datasets = {dataset: document.section(dataset) for dataset in document.fields}
    return {
        dataset: {part: keys.texts(part) for part in keys.fields}
        for dataset, keys in datasets.items()
    }


def _of_now(
    records: Iterable[_Owned], current: Mapping[str, Mapping[str, list[str]]], part: str
) -> list[_Owned]:
    """Those of ``records`` that an extension of the sweep has not replaced."""
    return [
        each
        for each in records
        if each.folder.name
        in current.get(each.record.text("dataset"), {}).get(part, [each.folder.name])
    ]


def _in_force(rows: Sequence[_Owned], confirmations: Iterable[_Owned]) -> list[_Owned]:
    """One row per dataset and method: the latest of the trial that was confirmed best.

    A sweep that is stopped before it has a winner, and extended, may have those of several trials.
    """
    scores = {
        each.line["trial"]: (each.line["score"], each.line["selection_score"])
        for each in confirmations
        if each.line.get("score") is not None
    }
    lowest = (-math.inf, -math.inf)

    def place(row: _Owned) -> tuple[Any, float]:
        finished = row.record.time_or_none("finished")
        return scores.get(row.line["trial"], lowest), finished.timestamp() if finished else 0.0

    ordered = sorted(rows, key=place)
    trials = {row.line["dataset"]: row.line["trial"] for row in ordered}
    found = {
        (row.line["dataset"], row.line["method"]): row
        for row in ordered
        if row.line["trial"] in (None, trials[row.line["dataset"]])
    }
    return [row for row in rows if found.get((row.line["dataset"], row.line["method"])) is row]


def _frame(
    lines: Iterable[Line], columns: Mapping[str, Column], extra: bool = True
) -> pd.DataFrame:
    """A frame with `columns`, typed even when empty, and with `extra` what else lines hold."""
    rows = list(lines)
    further = sorted(set().union(*rows) - set(columns)) if extra else []
    typed = {
        name: pd.Series([row.get(name) for row in rows], dtype=column.dtype)
        for name, column in columns.items()
    }
    return pd.DataFrame(
        typed | {name: pd.Series([row.get(name) for row in rows]) for name in further}
    )


def _curves(trials: Sequence[_Owned]) -> pd.DataFrame:
    paths = [each.folder / "curve.jsonl" for each in trials]
    points = [read_lines(path) if path.is_file() else [] for path in paths]
    whose = _frame((each.line for each in trials), schema.CURVE_OWNER, extra=False)
    cells = flatten.curve_cells([point for curve in points for point in curve])
    return _repeated(whose, [len(curve) for curve in points], cells, schema.CURVES)


def _episodes(owners: Sequence[_Owned]) -> pd.DataFrame:
    tables = [np.empty((0, len(schema.EPISODE_CELLS)))]
    played = [each for each in owners if _has_played(each)]
    for each in played:
        path = each.folder / "episodes.csv"
        table = read_episodes(path)
        _check_count(path, table[:, 0], each.line.get("episodes"))
        tables.append(table)
    lines = ({**each.line, "owner": each.record.text("kind")} for each in played)
    whose = _frame(lines, schema.OWNER, extra=False)
    cells = dict(zip(schema.EPISODE_CELLS, np.concatenate(tables).T, strict=True))
    return _repeated(whose, [len(table) for table in tables[1:]], cells, schema.EPISODES)


def _has_played(owner: _Owned) -> bool:
    """Whether there are episodes; RecordError where a completed row has lost its own."""
    path = owner.folder / "episodes.csv"
    there = path.is_file()
    if not there and owner.record.text("kind") == "row" and owner.line["status"] == "completed":
        raise RecordError(
            f"{path}: file not found, expected the episodes of the completed row in record.json; "
            "move the folder away and resume the sweep to evaluate it again"
        )
    return there


def _repeated(
    whose: pd.DataFrame,
    counts: Sequence[int],
    cells: Mapping[str, Any],
    columns: Mapping[str, Column],
) -> pd.DataFrame:
    """Each line of `whose` as often as `counts` says, beside the `cells` of all of them."""
    frame = whose.loc[whose.index.repeat(counts)].reset_index(drop=True)
    return frame.assign(
        **{name: pd.Series(cells[name], dtype=columns[name].dtype) for name in cells}
    )


def _check_count(path: Path, training_seeds: np.ndarray, expected: object) -> None:
    """Whether each student has played the episodes that the record says."""
    counts = set(np.unique(training_seeds, return_counts=True)[1].tolist())
    if expected is not None and counts != {expected}:
        found = ", ".join(map(str, sorted(counts))) or "no"
        raise RecordError(
            f"{path}: {found} episodes, expected {expected} as in record.json; "
            "move the folder away and resume the sweep to evaluate it again"
        )


def _seed_lines(owners: Iterable[_Owned]) -> Iterator[Line]:
    for each in owners:
        yield from flatten.seed_lines(each.record, each.line)


def _latency_lines(owners: Iterable[_Owned]) -> Iterator[Line]:
    lines = (flatten.latency_line(each.record.text("kind"), each.line) for each in owners)
    return (line for line in lines if line is not None)


def _stage_lines(stages: Path, owners: Iterable[_Owned]) -> Iterator[Line]:
    for name in sorted({name for each in owners for name in _stage_names(each.record)}):
        manifest = stages / name / "manifest.json"
        line: Line = {"name": name, "kind": name.partition("-")[0]}
        # a failed trial may name a stage that was never finished
        if manifest.is_file():
            line |= flatten.stage_line(read_manifest(manifest))
        yield line


def _use_lines(trials: Iterable[_Owned]) -> Iterator[Line]:
    for each in trials:
        for name in sorted(set(_stage_names(each.record))):
            yield {"sweep": each.line["sweep"], "trial": each.line["key"], "stage": name}


def _stage_names(record: Document) -> list[str]:
    stages = record.section("stages")
    names = [stages.text(role) for role in stages.fields]
    for name in names:
        if "/" in name or name in ("", ".", ".."):
            raise RecordError(
                f"{stages.place}: {name!r} is a path, expected the name of a stage as <kind>-<key>"
            )
    return names


def _data_lines(parts: Iterable[_Part]) -> Iterator[Line]:
    for part in parts:
        yield from (flatten.data_line(part.name, document) for document in part.data)


def _behaviour_lines(parts: Iterable[_Part]) -> Iterator[Line]:
    for part in parts:
        for document in part.data:
            dataset = document.text("dataset")
            for score in document.numbers("behaviour_scores"):
                yield {"sweep": part.name, "dataset": dataset, "score": score}


def _event_lines(parts: Iterable[_Part]) -> Iterator[Line]:
    for part in parts:
        yield from (flatten.event_line(part.name, event) for event in part.events)
