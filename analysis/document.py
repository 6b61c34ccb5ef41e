"""Read one JSON, JSON-lines or CSV file of the storage, with errors that name file and key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.schema import EPISODE_CELLS

SCHEMA = 2
_COMPUTED = "move its folder away and resume the sweep to compute it again"
_WRITTEN_ONCE = "restore it from a copy"
"""What to do about a damaged file: of one piece of work, and of a sweep as a whole."""


class RecordError(ValueError):
    """A file of the storage is missing, damaged, or not what it should be."""


@dataclass(frozen=True)
class Document:
    """A JSON object and the place it was read from; every getter raises RecordError.

    Getters look first whether the value is what nearly all are: a sweep of ten thousand trials has
    millions of them.
    """

    place: str
    fields: Mapping[str, Any]

    def text(self, key: str) -> str:
        """The string under `key`."""
        value = self.fields.get(key)
        return value if type(value) is str else str(self._get(key, (str,), "a string"))

    def text_or_none(self, key: str) -> str | None:
        """The string under `key`, or None where it is null or absent."""
        return None if self.fields.get(key) is None else self.text(key)

    def integer(self, key: str) -> int:
        """The whole number under `key`."""
        value = self.fields.get(key)
        return value if type(value) is int else int(self._get(key, (int,), "a whole number"))

    def number(self, key: str) -> float:
        """The number under `key`."""
        value = self.fields.get(key)
        return value if type(value) is float else float(self._get(key, (int, float), "a number"))

    def number_or_none(self, key: str) -> float | None:
        """The number under `key`, or None where it is null or absent."""
        value = self.fields.get(key)
        return value if value is None or type(value) is float else self.number(key)

    def time_or_none(self, key: str) -> datetime | None:
        """The time (ISO 8601, UTC if it names no zone) under `key`, or None as above."""
        text = self.text_or_none(key)
        if text is None:
            return None
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise self._wrong(key, text, "a time as 2026-01-31T12:00:00+00:00") from None
        return time if time.tzinfo else time.replace(tzinfo=UTC)

    def numbers(self, key: str) -> list[float]:
        """The list of finite numbers under `key`."""
        values = self._get(key, (list,), "a list of numbers")
        for value in values:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and math.isfinite(value)):
                raise self._wrong(key, value, "finite numbers only")
        return [float(value) for value in values]

    def texts(self, key: str) -> list[str]:
        """The list of strings under `key`."""
        values = self._get(key, (list,), "a list of strings")
        if not all(isinstance(value, str) for value in values):
            raise self._wrong(key, values, "strings only")
        return list(values)

    def sections(self, key: str) -> list[Document]:
        """The list of objects under `key`."""
        values = self._get(key, (list,), "a list of objects")
        if not all(isinstance(value, dict) for value in values):
            raise self._wrong(key, values, "objects only")
        return [Document(f"{self.place}: {key}", value) for value in values]

    def section(self, key: str) -> Document:
        """The object under `key`."""
        return Document(f"{self.place}: {key}", self._get(key, (dict,), "an object"))

    def section_or_none(self, key: str) -> Document | None:
        """The object under `key`, or None where it is null or absent."""
        return None if self.fields.get(key) is None else self.section(key)

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        """The string under `key`, which must be one of `allowed`."""
        value = self.text(key)
        if value not in allowed:
            raise self._wrong(key, value, "one of " + ", ".join(allowed))
        return value

    def _get(self, key: str, types: tuple[type, ...], expected: str) -> Any:
        if key not in self.fields:
            raise RecordError(
                f"{self.place}: key {key!r} is missing, expected {expected}; "
                "the file was written by another version or edited by hand"
            )
        value = self.fields[key]
        # bool is a subclass of int, and no field of a record that is read here is a truth value
        if isinstance(value, bool) or not isinstance(value, types):
            raise self._wrong(key, value, expected)
        return value

    def _wrong(self, key: str, value: object, expected: str) -> RecordError:
        return RecordError(
            f"{self.place}: key {key!r} is {value!r}, expected {expected}; "
            "the file was written by another version or edited by hand"
        )


def read_document(path: Path) -> Document:
    """Read a file that holds one JSON object, and that nothing computes again."""
    return _document(_text(path), str(path), _WRITTEN_ONCE)


def read_manifest(path: Path) -> Document:
    """Read a stage's manifest."""
    return _document(_text(path), str(path), _COMPUTED)


def read_record(path: Path, kind: str) -> Document:
    """Read a record and check its schema version and its kind (trial, confirmation or row)."""
    document = _document(_text(path), str(path), _COMPUTED)
    schema = document.integer("schema")
    if schema != SCHEMA:
        other = "a newer" if schema > SCHEMA else "an older"
        raise RecordError(
            f"{path}: schema {schema}, expected {SCHEMA}: {other} release of ractd wrote it; "
            "read it with that one"
        )
    document.one_of("kind", (kind,))
    return document


def read_lines(path: Path) -> list[Document]:
    """Read a JSON-lines file: one object per line, blank lines skipped."""
    lines = _text(path).splitlines()
    quick = _quickly(lines, path)
    if quick is not None:
        return quick
    return [
        _document(line, f"{path}, line {number}", _COMPUTED)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def read_log(path: Path) -> tuple[list[Document], int]:
    """Read a log of JSON lines that is being written; and how many lines could not be read.

    No score comes from a log, so a line that a crash or a full disk tore is skipped. A last line
    without its end is one that is being written, and is not counted.
    """
    text = _bytes(path).decode("utf-8", errors="replace")
    lines = [line for line in text.rpartition("\n")[0].splitlines() if line.strip()]
    found = _quickly(lines, path)
    if found is None:
        found = [document for line in lines for document in _if_whole(line, path)]
    return found, len(lines) - len(found)


def read_episodes(path: Path) -> NDArray[np.float64]:
    """Read episodes.csv: one line per episode, with the columns of EPISODE_CELLS in order."""
    header, *lines = _text(path).splitlines() or [""]
    found = header.split(",")
    missing = [column for column in EPISODE_CELLS if column not in found]
    if missing:
        raise RecordError(
            f"{path}: no column {', '.join(missing)}, found {header or 'nothing'}; "
            f"expected {', '.join(EPISODE_CELLS)}"
        )
    try:
        if any(line.count(",") != len(found) - 1 for line in lines):
            raise ValueError("lines differ in their number of cells")
        values = [float(cell) for line in lines for cell in line.split(",")]
    except ValueError as error:
        raise RecordError(f"{path}: not a table of numbers ({error}); evaluate it again") from error
    cells = np.array(values, dtype=np.float64).reshape(-1, len(found))
    cells = cells[:, [found.index(name) for name in EPISODE_CELLS]]
    if not np.isfinite(cells).all():
        raise RecordError(f"{path}: a cell is not a finite number; evaluate it again")
    return cells


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RecordError(f"{path}: file not found") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 text") from error


def _quickly(lines: Sequence[str], path: Path) -> list[Document] | None:
    """All lines in one call, a third of the time of one for each; None unless each is an object."""
    try:
        values = json.loads(f"[{','.join(lines)}]")
    except json.JSONDecodeError:
        return None
    if len(values) == len(lines) and all(type(value) is dict for value in values):
        return [Document(str(path), value) for value in values]
    return None


def _if_whole(line: str, path: Path) -> list[Document]:
    try:
        return [_document(line, str(path), _WRITTEN_ONCE)]
    except RecordError:
        return []


def _document(text: str, place: str, remedy: str) -> Document:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(
            f"{place}: not valid JSON ({error}); it is truncated or damaged: {remedy}"
        ) from error
    if not isinstance(value, dict):
        raise RecordError(f"{place}: found {type(value).__name__}, expected a JSON object")
    return Document(place, value)
