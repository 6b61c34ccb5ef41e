"""Read one JSON, JSON-lines or CSV file of the storage, with errors that name file and key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SCHEMA = 2
EPISODE_COLUMNS = ("training_seed", "seed", "return", "score", "length")


class RecordError(ValueError):
    """A file of the storage is missing, damaged, or not what it should be."""


@dataclass(frozen=True)
class Document:
    """A JSON object and the place it was read from; every getter raises RecordError."""

    place: str
    fields: Mapping[str, Any]

    def text(self, key: str) -> str:
        """The string under `key`."""
        return str(self._get(key, (str,), "a string"))

    def text_or_none(self, key: str) -> str | None:
        """The string under `key`, or None where it is null or absent."""
        return None if self.fields.get(key) is None else self.text(key)

    def integer(self, key: str) -> int:
        """The whole number under `key`."""
        return int(self._get(key, (int,), "a whole number"))

    def number(self, key: str) -> float:
        """The number under `key`."""
        return float(self._get(key, (int, float), "a number"))

    def number_or_none(self, key: str) -> float | None:
        """The number under `key`, or None where it is null or absent."""
        return None if self.fields.get(key) is None else self.number(key)

    def numbers(self, key: str) -> list[float]:
        """The list of finite numbers under `key`."""
        values = self._get(key, (list,), "a list of numbers")
        for value in values:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and math.isfinite(value)):
                raise self._wrong(key, value, "finite numbers only")
        return [float(value) for value in values]

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
    """Read a file that holds one JSON object."""
    try:
        return _document(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise RecordError(f"{path}: file not found, expected a JSON object") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 text, expected a JSON object") from error


def read_record(path: Path, kind: str) -> Document:
    """Read a record and check its schema version and its kind (trial, confirmation or row)."""
    document = read_document(path)
    schema = document.integer("schema")
    if schema != SCHEMA:
        raise RecordError(
            f"{path}: schema {schema}, expected {SCHEMA}; "
            "read it with the version of ractd that wrote it"
        )
    document.one_of("kind", (kind,))
    return document


def read_lines(path: Path) -> list[Document]:
    """Read a JSON-lines file: one object per line, blank lines skipped."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read as text ({error})") from error
    lines = enumerate(text.splitlines(), start=1)
    return [_document(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def read_episodes(path: Path) -> pd.DataFrame:
    """Read episodes.csv into a frame with the columns of EPISODE_COLUMNS."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read as CSV ({error}); evaluate it again") from error
    missing = [column for column in EPISODE_COLUMNS if column not in frame.columns]
    if missing:
        raise RecordError(
            f"{path}: no column {', '.join(missing)}, found {', '.join(frame.columns)}; "
            f"expected {', '.join(EPISODE_COLUMNS)}"
        )
    columns = {name: pd.to_numeric(frame[name], errors="coerce") for name in EPISODE_COLUMNS}
    if not all(np.isfinite(column).all() for column in columns.values()):
        raise RecordError(f"{path}: a cell is empty or not a finite number; evaluate it again")
    return pd.DataFrame(columns)


def _document(text: str, place: str) -> Document:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(
            f"{place}: not valid JSON ({error}); it is truncated or damaged: "
            "move its folder away and resume the sweep to compute it again"
        ) from error
    if not isinstance(value, dict):
        raise RecordError(f"{place}: found {type(value).__name__}, expected a JSON object")
    return Document(place, value)
