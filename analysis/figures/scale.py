"""A searched parameter as an axis: numbers by value or logarithm, everything else by its name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

from analysis.tables import SYMBOLS

_LOG_FROM = 5.0
"""The ratio of largest to smallest from which positive values are spread by their logarithm."""
_FEW = 6
_APART = 0.12
"""Up to so many values, so far apart on an axis of length 1, each is a tick of its own."""


@dataclass(frozen=True)
class Scale:
    """Where values of the parameter `name` lie on a linear axis, and its ticks.

    On a logarithmic scale a place is a power of ten, and 0 lies `zero`, below all other values.
    """

    name: str
    label: str
    kind: Literal["linear", "log", "category"]
    low: float
    high: float
    ticks: tuple[float, ...]
    texts: tuple[str, ...]
    zero: float | None = None

    def place(self, value: object) -> float:
        """The place of `value` on the axis; NaN where it has none (not set, not a number)."""
        if self.kind == "category":
            text = _text(value)
            return float(self.texts.index(text)) if text in self.texts else math.nan
        if not _is_number(value):
            return math.nan
        number = float(value)
        if self.kind == "linear":
            return number
        if number > 0:
            return math.log10(number)
        return math.nan if self.zero is None else self.zero

    def unit(self, value: object) -> float:
        """The place of `value` between 0 and 1."""
        return (self.place(value) - self.low) / (self.high - self.low)


def scale_of(name: str, values: Sequence[object]) -> Scale:
    """The scale for the `values` that occur of the parameter `name`; at least one is needed."""
    label = SYMBOLS.get(name, name)
    numbers = sorted({float(value) for value in values if _is_number(value)})
    if not all(map(_is_number, values)):
        texts = tuple(sorted({_text(value) for value in values}))
        return _made(name, label, "category", range(len(texts)), texts)
    positive = [number for number in numbers if number > 0]
    if numbers[0] >= 0 and positive and positive[-1] / positive[0] >= _LOG_FROM:
        return _log_scale(name, label, positive, numbers[0] == 0)
    ticks = numbers if _apart(numbers) else _round_ticks(numbers[0], numbers[-1])
    return _made(name, label, "linear", ticks, map(short, ticks), numbers[0], numbers[-1])


def short(number: float) -> str:
    """`number` with three digits that count, in as few characters as they need."""
    text = f"{number:.3g}"
    if 0 < abs(number) < 1e-3:
        digits, _, power = f"{number:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return text


def _apart(places: Sequence[float]) -> bool:
    """Whether each of the sorted `places` can have a tick."""
    gaps = [after - before for before, after in itertools.pairwise(places)]
    return len(places) <= _FEW and min(gaps, default=1) >= _APART * (places[-1] - places[0])


def _log_scale(name: str, label: str, positive: list[float], with_zero: bool) -> Scale:
    low, high = math.log10(positive[0]), math.log10(positive[-1])
    ticks = [math.log10(value) for value in positive]
    if not _apart(ticks):
        steps = (0.0,) if high - low >= 2 else (0.0, math.log10(2), math.log10(5))
        decades = range(math.floor(low), math.floor(high) + 1)
        ticks = [decade + step for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low - 0.01 <= tick <= high + 0.01]
    texts = [short(10**tick) for tick in ticks]
    zero = low - max(0.5, 0.12 * (high - low)) if with_zero else None
    if zero is not None:
        ticks, texts, low = [zero, *ticks], ["0", *texts], zero
    return _made(name, label, "log", ticks, texts, low, high, zero)


def _made(
    name: str,
    label: str,
    kind: Literal["linear", "log", "category"],
    ticks: Sequence[float],
    texts: Iterable[str],
    low: float | None = None,
    high: float | None = None,
    zero: float | None = None,
) -> Scale:
    first = float(ticks[0]) if low is None else low
    last = float(ticks[-1]) if high is None else high
    if first == last:
        first, last = first - 0.5, last + 0.5
    return Scale(name, label, kind, first, last, tuple(map(float, ticks)), tuple(texts), zero)


def _round_ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
