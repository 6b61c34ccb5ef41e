"""The rows of a benchmark table: a method and how it samples, in one word.

``teacher`` is the winner's teacher by Heun over its whole grid, ``teacher:ddim-20`` the same by 20
network calls of DDIM, ``teacher-guided`` the same under the gradient of the reward model; students
such as ``ctm``, ``ctd`` and ``ractd`` take one call, ``ractd:2`` two. Without diffusion there is
``regression`` of a maze's plan, and ``bc``, behaviour cloning, where actions are generated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, get_args

from pydantic import AfterValidator, WithJsonSchema

from ractd_core.config import Sampling
from ractd_core.tasks import DatasetName

_PLAIN = ("regression", "bc")
_TEACHERS = ("teacher", "teacher-guided")
_STUDENTS = ("ctm", "ctd", "reward-in-teacher", "reward-in-both", "joint", "ractd")
_METHODS = (*_PLAIN, *_TEACHERS, *_STUDENTS)
_SAMPLERS: tuple[str, ...] = get_args(Sampling.model_fields["method"].annotation)
_ROW = re.compile(rf"({'|'.join(_METHODS)})(?::(?:([a-z]+)-)?([1-9][0-9]*))?")


def parse_row(row: str) -> tuple[str, Sampling]:
    """A row's method and how it samples; ValueError, which says what can be written, if neither.

    How strongly ``teacher-guided`` is guided is the recipe's ``policy.guidance``.
    """
    match = _ROW.fullmatch(row)
    if match is None:
        raise ValueError(
            f"{row!r} is no row: write {', '.join(_METHODS)}, and if you like how it samples, as "
            "in teacher:ddim-20 or ractd:2"
        )
    method, sampler, calls = match.groups()
    if calls is None:
        return method, Sampling()
    if method in _PLAIN or (method in _TEACHERS) != (sampler is not None):
        raise ValueError(
            f"{row!r}: a teacher's calls need a sampler, as in teacher:heun-20, a student's have "
            "none, as in ractd:2, and a regression takes one call"
        )
    if sampler is None:
        return method, Sampling(calls=int(calls))
    if sampler not in _SAMPLERS:
        raise ValueError(f"{row!r}: unknown sampler {sampler!r}; there are {', '.join(_SAMPLERS)}")
    if sampler == "heun" and int(calls) % 2:
        raise ValueError(f"{row!r}: heun takes two calls per step, so their number is even")
    return method, Sampling.model_validate({"method": sampler, "calls": int(calls)})


def _checked(row: str) -> str:
    parse_row(row)
    return row


Row = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "pattern": f"^{_ROW.pattern}$"}),
]
"""A row that :func:`parse_row` reads."""


def stage_of(method: str) -> str:
    """The kind of stage that a row's method plays."""
    if method in _PLAIN:
        return "regression"
    if method in _TEACHERS:
        return "teacher"
    return "joint" if method == "joint" else "student"


def rows_for(dataset: DatasetName, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Those of ``rows`` that mean something for the dataset's task."""
    return tuple(row for row in rows if row != _other_plain(dataset))


def check_rows(rows: Sequence[Row], datasets: Sequence[DatasetName]) -> list[str]:
    """Why a row means nothing for one of the tasks; empty if all do.

    Where mazes stand beside other tasks, ``regression`` and ``bc`` together mean what fits each.
    """
    if set(_PLAIN) <= set(rows) and len({_other_plain(dataset) for dataset in datasets}) > 1:
        return []
    problems = []
    for index, row in enumerate(rows):
        strange = next((each for each in datasets if row == _other_plain(each)), None)
        if strange is not None:
            what, instead = (
                ("plans states from its ends", "regression")
                if row == "bc"
                else ("generates actions, where regression is behaviour cloning", "bc")
            )
            several = len({_other_plain(dataset) for dataset in datasets}) > 1
            problems.append(
                f"rows.{index}: {row!r} means nothing for {strange}, which {what}; write "
                f"{instead}{' beside it' if several else ''}"
            )
    return problems


def _other_plain(dataset: DatasetName) -> str:
    """What the row without diffusion is called for the other kind of tasks."""
    return "bc" if dataset.task.domain == "maze2d" else "regression"
