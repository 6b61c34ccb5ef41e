"""The rows of a benchmark table: a method and how it samples, in one word.

``teacher`` is the winner's teacher by Heun over its whole grid, ``teacher:ddim-20`` the same by 20
network calls of DDIM; ``ctm``, ``ctd`` and ``ractd`` are students in one call, ``ractd:2`` in two.
"""

from __future__ import annotations

import re
from typing import Annotated, get_args

from pydantic import AfterValidator

from ractd_core.config import Sampling

_METHODS = ("regression", "teacher", "ctm", "ctd", "ractd")
_SAMPLERS: tuple[str, ...] = get_args(Sampling.model_fields["method"].annotation)
_ROW = re.compile(rf"({'|'.join(_METHODS)})(?::(?:([a-z]+)-)?([1-9][0-9]*))?")


def parse_row(row: str) -> tuple[str, Sampling]:
    """A row's method and how it samples; ValueError, which says what can be written, if neither."""
    match = _ROW.fullmatch(row)
    if match is None:
        raise ValueError(
            f"{row!r} is no row: write {', '.join(_METHODS)}, and if you like how it samples, as "
            "in teacher:ddim-20 or ractd:2"
        )
    method, sampler, calls = match.groups()
    if calls is None:
        return method, Sampling()
    if method == "regression" or (method == "teacher") != (sampler is not None):
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


Row = Annotated[str, AfterValidator(_checked)]
"""A row that :func:`parse_row` reads."""
