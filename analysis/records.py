"""Load a sweep's records from the storage as tidy frames."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import flatten
from analysis.document import (
    EPISODE_COLUMNS,
    Document,
    RecordError,
    read_document,
    read_episodes,
    read_lines,
    read_record,
)
from analysis.flatten import Line

__all__ = ["RecordError", "Sweep", "load_sweep"]


@dataclass(frozen=True)
class Sweep:
    """Everything that a sweep has recorded.

    Scores are normalized: 0 is the random policy's return, 100 the reference expert's.
    """

    name: str
    folder: Path
    created: str
    trials: pd.DataFrame
    """One line per finished trial; `params.<name>` columns hold further searched parameters."""
    rows: pd.DataFrame
    """One line per final row: a method evaluated on fresh seeds."""
    confirmations: pd.DataFrame
    """One line per candidate that was played again on seeds that the search had not used."""
    curves: pd.DataFrame
    """One line per evaluation during training, with its trial's key and weights."""
    episodes: pd.DataFrame
    """One line per evaluation episode; `owner` is "trial" or "row", `key` the owner's key."""
    stages: pd.DataFrame
    """One line per stage in use by trials or rows; no manifest leaves its figures NaN."""
    uses: pd.DataFrame
    """One line per trial and stage that it was built from: `trial` key and `stage` name."""
    data: pd.DataFrame
    """One line per dataset."""
    behaviour: pd.DataFrame
    """One line per episode (mazes: stretch) of a dataset, with the score of its behaviour."""
    unfinished_trials: int
    unfinished_rows: int

    @property
    def datasets(self) -> list[str]:
        """The names of all datasets that anything was recorded on, sorted."""
        return self._names("dataset")

    @property
    def tasks(self) -> list[str]:
        """The names of all tasks that anything was recorded on, sorted."""
        return self._names("task")

    def _names(self, column: str) -> list[str]:
        frames = (self.data, self.trials, self.rows)
        return sorted({str(name) for frame in frames for name in frame[column]})


def load_sweep(storage: Path, name: str) -> Sweep:
    """Read the sweep `name` under `storage`; RecordError names the file that cannot be read."""
    folder = _find(storage, name)
    trial_folders, unfinished_trials = _finished(folder / "trials")
    confirmed, _ = _finished(folder / "confirmations")
    row_folders, unfinished_rows = _finished(folder / "rows")
    trials = {path: read_record(path / "record.json", "trial") for path in trial_folders}
    rows = {path: read_record(path / "record.json", "row") for path in row_folders}
    trial_lines = {path: flatten.trial_line(record) for path, record in trials.items()}
    row_lines = {path: flatten.row_line(record) for path, record in rows.items()}
    confirmations = {path: read_record(path / "record.json", "confirmation") for path in confirmed}
    current = _current(folder / "current.json")
    rows = _of_now(rows, current, "rows")
    row_lines = {path: line for path, line in row_lines.items() if path in rows}
    confirmations = _of_now(confirmations, current, "confirmations")
    data = [read_document(path) for path in sorted((folder / "data").glob("*.json"))]
    return Sweep(
        name=name,
        folder=folder,
        created=read_document(folder / "sweep.json").text("created"),
        trials=_frame(trial_lines.values(), flatten.TRIAL_COLUMNS).sort_values(
            ["dataset", "number"], ignore_index=True
        ),
        rows=_frame(row_lines.values(), flatten.ROW_COLUMNS),
        confirmations=_frame(
            map(flatten.confirmation_line, confirmations.values()), flatten.CONFIRMATION_COLUMNS
        ).sort_values(["dataset", "number"], ignore_index=True),
        curves=_frame(_curve_lines(trial_lines), flatten.CURVE_COLUMNS),
        episodes=_episodes(trial_lines, row_lines),
        stages=_frame(
            _stage_lines(storage / "stages", [*trials.values(), *rows.values()]),
            flatten.STAGE_COLUMNS,
        ),
        uses=_frame(_use_lines(trials.values()), {"trial": "str", "stage": "str"}),
        data=_frame(map(flatten.data_line, data), flatten.DATA_COLUMNS),
        behaviour=_frame(_behaviour_lines(data), {"dataset": "str", "score": "float64"}),
        unfinished_trials=unfinished_trials,
        unfinished_rows=unfinished_rows,
    )


def _current(path: Path) -> Mapping[str, Mapping[str, list[str]]]:
    """The keys that the spec of now stands for, by dataset; none before a sweep's first end."""
    if not path.exists():
        return {}
    current: Mapping[str, Mapping[str, list[str]]] = read_document(path).fields
    return current


def _of_now(
    records: Mapping[Path, Document],
    current: Mapping[str, Mapping[str, list[str]]],
    part: str,
) -> dict[Path, Document]:
    """Those of ``records`` that an extension of the sweep has not replaced."""
    return {
        path: record
        for path, record in records.items()
        if path.name in current.get(record.text("dataset"), {}).get(part, [path.name])
    }


def _find(storage: Path, name: str) -> Path:
    names = sorted(path.parent.name for path in (storage / "sweeps").glob("*/sweep.json"))
    if name in names:
        return storage / "sweeps" / name
    near = difflib.get_close_matches(name, names)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    there = ", ".join(names) if names else "none; run one first or name another storage"
    raise RecordError(f"no sweep {name!r} in {storage / 'sweeps'}; sweeps there: {there}{hint}")


def _finished(parent: Path) -> tuple[list[Path], int]:
    """The folders with a record, sorted, and how many others there are."""
    if not parent.is_dir():
        return [], 0
    # a name with a leading dot is a temporary folder of a write in progress
    folders = [p for p in sorted(parent.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    finished = [path for path in folders if (path / "record.json").is_file()]
    return finished, len(folders) - len(finished)


def _frame(lines: Iterable[Line], columns: Mapping[str, str]) -> pd.DataFrame:
    """A frame with `columns` first and typed even when empty, then whatever else lines hold."""
    rows = list(lines)
    further = sorted({name for row in rows for name in row} - set(columns))
    frame = pd.DataFrame(rows, columns=[*columns, *further])
    return frame.astype(dict(columns))


def _curve_lines(trials: Mapping[Path, Line]) -> list[Line]:
    return [
        flatten.curve_line(line, point)
        for folder, line in trials.items()
        if (folder / "curve.jsonl").is_file()
        for point in read_lines(folder / "curve.jsonl")
    ]


def _episodes(trials: Mapping[Path, Line], rows: Mapping[Path, Line]) -> pd.DataFrame:
    frames = []
    for owner, lines in (("trial", trials), ("row", rows)):
        for folder, line in lines.items():
            path = folder / "episodes.csv"
            if not path.is_file():
                continue
            frame = read_episodes(path)
            expected = line.get("episodes")
            counts = set(frame["training_seed"].value_counts())
            if expected is not None and counts != {expected}:
                found = ", ".join(map(str, sorted(counts))) or "no"
                raise RecordError(
                    f"{path}: {found} episodes, expected {expected} as in record.json; "
                    "move the folder away and resume the sweep to evaluate it again"
                )
            frames.append(frame.assign(owner=owner, key=str(line["key"])))
    columns = ["owner", "key", *EPISODE_COLUMNS]
    return (
        pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame([], None, columns)
    )


def _stage_lines(stages: Path, records: Iterable[Document]) -> Iterable[Line]:
    for name in sorted({name for record in records for name in _stage_names(record)}):
        manifest = stages / name / "manifest.json"
        line: Line = {"name": name, "kind": name.partition("-")[0]}
        # a failed trial may name a stage that was never finished
        if manifest.is_file():
            line |= flatten.stage_line(read_document(manifest))
        yield line


def _use_lines(trials: Iterable[Document]) -> Iterable[Line]:
    for record in trials:
        for name in sorted(set(_stage_names(record))):
            yield {"trial": record.text("key"), "stage": name}


def _stage_names(record: Document) -> list[str]:
    stages = record.section("stages")
    names = [stages.text(role) for role in stages.fields]
    for name in names:
        if Path(name).name != name:
            raise RecordError(
                f"{stages.place}: {name!r} is a path, expected the name of a stage as <kind>-<key>"
            )
    return names


def _behaviour_lines(data: Iterable[Document]) -> Iterable[Line]:
    for document in data:
        for score in document.numbers("behaviour_scores"):
            yield {"dataset": document.text("dataset"), "score": score}
