"""Rows of the table: what can be written, what it means, and that nothing else passes."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import methods
from ractd_core.config import Sampling
from sweeps.rows import parse_row
from sweeps.spec import SpecError, SweepSpec, dump_spec, parse_spec

PLAIN = ("regression", "bc")
TEACHERS = ("teacher", "teacher-guided")
STUDENTS = ("ctm", "ctd", "reward-in-teacher", "reward-in-both", "joint", "ractd")
METHODS = (*PLAIN, *TEACHERS, *STUDENTS)
SAMPLERS = get_args(Sampling.model_fields["method"].annotation)


def spec(*rows: Any) -> SweepSpec:
    raw = {
        "name": "rows",
        "tasks": ["local/maze2d-umaze-v1"],
        "trials": 1,
        "search": {"sigma": {"choices": [0.1]}},
        "first_trials": [],
        "rows": list(rows),
    }
    return parse_spec(yaml.safe_dump(raw), "spec.yaml")


def written(method: str, sampling: Sampling) -> str:
    """The row of a method and how it samples."""
    if sampling.calls is None:
        return method
    sampler = f"{sampling.method}-" if method in TEACHERS else ""
    return f"{method}:{sampler}{sampling.calls}"


@st.composite
def valid(draw: st.DrawFn) -> tuple[str, Sampling]:
    method = draw(st.sampled_from(METHODS))
    if method in PLAIN or draw(st.booleans()):
        return method, Sampling()
    calls = draw(st.integers(1, 10_000))
    if method not in TEACHERS:
        return method, Sampling(calls=calls)
    sampler = draw(st.sampled_from(SAMPLERS))
    return method, Sampling(method=sampler, calls=2 * calls if sampler == "heun" else calls)


def test_the_report_knows_every_method() -> None:
    assert set(METHODS) == set(methods.METHODS)


@given(valid())
def test_a_row_is_read_as_what_it_was_written_from(row: tuple[str, Sampling]) -> None:
    method, sampling = row
    assert parse_row(written(method, sampling)) == (method, sampling)


@pytest.mark.parametrize(
    ("row", "method", "sampling"),
    [
        ("teacher", "teacher", Sampling()),
        ("teacher:ddim-20", "teacher", Sampling(method="ddim", calls=20)),
        ("teacher:heun-2", "teacher", Sampling(method="heun", calls=2)),
        ("teacher:euler-7", "teacher", Sampling(method="euler", calls=7)),
        ("teacher:ddpm-1000", "teacher", Sampling(method="ddpm", calls=1000)),
        ("ractd:2", "ractd", Sampling(calls=2)),
        ("ctm", "ctm", Sampling()),
        ("ctd:4", "ctd", Sampling(calls=4)),
        ("regression", "regression", Sampling()),
        ("bc", "bc", Sampling()),
        ("teacher-guided", "teacher-guided", Sampling()),
        ("teacher-guided:ddim-20", "teacher-guided", Sampling(method="ddim", calls=20)),
        ("reward-in-both:2", "reward-in-both", Sampling(calls=2)),
        ("joint", "joint", Sampling()),
    ],
)
def test_rows_that_can_be_written(row: str, method: str, sampling: Sampling) -> None:
    assert parse_row(row) == (method, sampling)


NO_ROW = f"is no row: write {', '.join(METHODS)}"
NOT_SO = "a teacher's calls need a sampler"
BAD = {
    "": NO_ROW,
    "diffuser": NO_ROW,
    "Teacher": NO_ROW,
    "teacher ": NO_ROW,
    "ractd\n": NO_ROW,
    "teacher:": NO_ROW,
    "teacher:ddim": NO_ROW,
    "teacher:ddim-": NO_ROW,
    "teacher:ddim-0": NO_ROW,
    "teacher:ddim--2": NO_ROW,
    "teacher:ddim-2.5": NO_ROW,
    "teacher:-20": NO_ROW,
    "teacher:ddim-20-30": NO_ROW,
    "teacher-ddim:20": NO_ROW,
    "ractd:0": NO_ROW,
    "ractd:02": NO_ROW,
    "ractd:-2": NO_ROW,
    "ractd:1e3": NO_ROW,
    # Digits to a regular expression and to int(), but not to who reads the table.
    "ractd:1٣": NO_ROW,
    "ractd:2:3": NO_ROW,
    "teacher:20": NOT_SO,
    "ractd:ddim-2": NOT_SO,
    "ctm:heun-2": NOT_SO,
    "regression:1": NOT_SO,
    "bc:1": NOT_SO,
    "joint:ddim-2": NOT_SO,
    "teacher-guided:20": NOT_SO,
    "teacher-guided:": NO_ROW,
    "teacher-guided-ddim:20": NO_ROW,
    "reward-in-student": NO_ROW,
    "regression:heun-2": NOT_SO,
    "teacher:dpm-20": "unknown sampler 'dpm'; there are heun, euler, ddim, ddpm",
    "teacher:heun-7": "heun takes two calls per step, so their number is even",
}


@pytest.mark.parametrize("row", list(BAD))
def test_anything_else_is_refused_with_what_can_be_written(row: str) -> None:
    with pytest.raises(ValueError, match=BAD[row]) as caught:
        parse_row(row)
    assert repr(row) in str(caught.value)


@given(st.text(max_size=20))
def test_whatever_is_read_can_be_written_again(text: str) -> None:
    """A row is a name in tables: there is one way to write it."""
    try:
        row = parse_row(text)
    except ValueError:
        return
    assert written(*row) == text


# In a spec


def test_a_spec_takes_rows_of_other_calls_and_gives_them_back() -> None:
    rows = ("teacher:ddim-20", "teacher", "ctm", "ctm:2", "ractd:4", "regression")
    made = spec(*rows)
    assert made.rows == rows
    assert made.rows_of(made.datasets()[0]) == rows
    assert parse_spec(dump_spec(made), "spec.yaml") == made


@settings(max_examples=40)
@given(st.lists(valid().filter(lambda row: row[0] != "bc"), max_size=6))
def test_any_rows_survive_a_dumped_spec(rows: list[tuple[str, Sampling]]) -> None:
    made = spec(*(written(*row) for row in rows))
    assert parse_spec(dump_spec(made), "spec.yaml").rows == made.rows


def test_a_spec_names_every_bad_row_with_its_path() -> None:
    with pytest.raises(SpecError) as caught:
        spec("teacher", "teacher:heun-7", "ractd:2", "teecher", "regression:2", 3)
    heading, *problems = str(caught.value).split("\n  ")
    assert heading.startswith(f"spec.yaml: {len(problems)} ")
    odd, unknown, several, number = problems
    assert odd.startswith("rows.1: 'teacher:heun-7': heun takes two calls per step")
    assert unknown.startswith(f"rows.3: 'teecher' {NO_ROW}")
    assert several.startswith("rows.4: 'regression:2': ")
    assert number.startswith("rows.5: ")
