"""Records that are written once, and rows that a resumed run goes on writing."""

from __future__ import annotations

import json
import math
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractd_core.files import FileError
from sweeps.jsonl import append_row, read_rows
from sweeps.ledger import RECORD, SCHEMA, Ledger

# The ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "trials")


def test_a_record_is_read_back_with_its_key(ledger: Ledger) -> None:
    assert ledger.get("a") is None
    assert ledger.put("a", {"status": "completed", "score": 1.5})
    record = ledger.get("a")
    assert record == {"schema": SCHEMA, "key": "a", "status": "completed", "score": 1.5}
    assert Ledger(ledger.root).get("a") == record


def test_a_record_is_never_overwritten(ledger: Ledger) -> None:
    assert ledger.put("a", {"status": "completed"})
    before = (ledger.folder("a") / RECORD).read_bytes()
    assert not ledger.put("a", {"status": "failed"})
    assert (ledger.folder("a") / RECORD).read_bytes() == before


def test_of_writers_at_the_same_moment_one_wins(ledger: Ledger) -> None:
    """A trial that completes while its search gives it up: one of both records stays."""
    count = 8
    gate = threading.Barrier(count)
    written: list[int] = []

    def write(number: int) -> None:
        gate.wait(30)
        if ledger.put("a", {"number": number}):
            written.append(number)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(count)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    record = ledger.get("a")
    assert record is not None
    assert written == [record["number"]]
    assert [path.name for path in ledger.folder("a").iterdir()] == [RECORD]


def test_iteration_gives_every_record_and_no_unfinished_folder(ledger: Ledger) -> None:
    assert list(ledger) == []
    for key in ("b", "a", "c"):
        ledger.put(key, {"letter": key})
    (ledger.folder("begun")).mkdir()
    (ledger.folder("begun") / "curve.jsonl").write_text("")
    (ledger.folder("torn")).mkdir()
    (ledger.folder("torn") / f".{RECORD}.0123").write_text('{"half')
    assert [record["letter"] for record in ledger] == ["a", "b", "c"]
    assert ledger.get("begun") is None


def test_what_is_no_json_is_not_recorded(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="JSON"):
        ledger.put("a", {"score": math.nan})
    assert ledger.get("a") is None
    assert ledger.put("a", {"score": None})


@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "ke', b"\xff\xfe\x00", b"not json"])
def test_a_damaged_record_is_an_error_that_names_the_file(ledger: Ledger, content: bytes) -> None:
    ledger.put("good", {"a": 1})
    path = ledger.folder("bad") / RECORD
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(FileError, match=re.escape(str(path))):
        ledger.get("bad")
    with pytest.raises(FileError, match=re.escape(str(path))):
        list(ledger)
    assert not ledger.put("bad", {"a": 2})


def test_a_record_of_another_release_is_not_mistaken_for_one_of_this(ledger: Ledger) -> None:
    ledger.put("old", {"a": 1})
    path = ledger.folder("old") / RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": SCHEMA - 1}))
    with pytest.raises(FileError, match=rf"{re.escape(str(path))}: schema {SCHEMA - 1}, expected"):
        ledger.get("old")


# Rows


def test_rows_of_later_training_seeds_follow_and_an_earlier_one_takes_them_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "curve.jsonl"
    places = [(3, 10), (3, 20), (4, 10), (4, 20)]
    for seed, step in places:
        append_row(path, {"training_seed": seed, "step": step})
    assert [(row["training_seed"], row["step"]) for row in read_rows(path)] == places
    append_row(path, {"training_seed": 4, "step": 10, "again": True})
    assert [(row["training_seed"], row["step"]) for row in read_rows(path)] == places[:3]
    append_row(path, {"training_seed": 3, "step": 20})
    assert [(row["training_seed"], row["step"]) for row in read_rows(path)] == places[:2]


steps = st.lists(st.integers(1, 12), max_size=10)


@settings(max_examples=40)
@given(steps)
def test_a_row_replaces_those_from_its_step_on(written: list[int]) -> None:
    """A row survives if and only if no later one begins at its step or before."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curve.jsonl"
        for index, step in enumerate(written):
            append_row(path, {"step": step, "index": index})
        survivors = [
            {"step": step, "index": index}
            for index, step in enumerate(written)
            if all(later > step for later in written[index + 1 :])
        ]
        assert read_rows(path) == survivors
        assert not list(Path(folder).glob(".*")), "temporary files left behind"


@settings(max_examples=40)
@given(st.integers(1, 5), st.data())
def test_a_file_cut_anywhere_is_read_up_to_its_last_whole_row(count: int, data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curve.jsonl"
        rows = [{"step": 10 * (i + 1), "score": i / 3, "text": "ä\u2028"} for i in range(count)]
        for row in rows:
            append_row(path, row)
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        whole = sum(len(line) <= cut - start for start, line in line_starts(content))
        assert read_rows(path) == rows[:whole]
        append_row(path, {"step": 10 * whole + 5})
        assert read_rows(path) == [*rows[:whole], {"step": 10 * whole + 5}]


def line_starts(content: bytes) -> list[tuple[int, bytes]]:
    """Where each line begins, and the line without its end."""
    starts, position = [], 0
    for line in content.splitlines(keepends=True):
        starts.append((position, line.rstrip(b"\n")))
        position += len(line)
    return starts


def test_rows_after_a_line_that_is_no_json_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "sc\n{"step": 3}\n')
    assert read_rows(path) == [{"step": 1}]


def test_an_absent_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path, value: float) -> None:
    path = tmp_path / "deep" / "curve.jsonl"
    append_row(path, {"step": 1, "loss": value, "score": 2.5, "device": "cpu"})
    [line] = path.read_text().splitlines()

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    row = json.loads(line, parse_constant=no_constant)
    assert row == {"step": 1, "loss": None, "score": 2.5, "device": "cpu"}
    assert read_rows(path) == [row]


def test_a_reader_never_sees_a_row_half_written(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    append_row(path, {"step": 1, "text": "x" * 5000})
    over = threading.Event()
    bad: list[str] = []

    def read() -> None:
        while not over.is_set():
            text = path.read_text()
            if not text.endswith("\n") or any(
                len(json.loads(line)["text"]) != 5000 for line in text.splitlines()
            ):
                bad.append(text[-80:])

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(2, 40):
        append_row(path, {"step": step, "text": "x" * 5000})
    over.set()
    reader.join()
    assert not bad
    assert len(read_rows(path)) == 39
