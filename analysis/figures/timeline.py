"""When stages and trials ran, and what each stage cost and saved by being shared."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    apply_style,
    plain,
)
from analysis.records import Records
from analysis.schema import STATUSES
from analysis.summary import sharing_table
from analysis.winners_again import read_spec

_COLOURS = {
    "reward": PURPLE,
    "teacher": GREEN,
    "other stage": "#9a7b4f",
    "trial completed": BLUE,
    "trial pruned": GREY,
    "trial failed": VERMILLION,
}


@dataclass(frozen=True)
class Span:
    """Something that ran from `start` to `end`, in minutes after the sweep's first event.

    Spans on one `lane` do not overlap: there are as many lanes as things ran at once.
    """

    what: str
    name: str
    start: float
    end: float
    lane: int


@dataclass(frozen=True)
class SharedStages:
    """Device minutes of the stages of one kind: spent, and saved by not building them again."""

    kind: str
    stages: int
    uses: int
    spent: float
    saved: float


@dataclass(frozen=True)
class TimelineInfo:
    """A sweep's spans and pauses (minutes), what sharing saved, and the budget.

    `trained` are the device minutes of trials, `allowed` those that the spec's budget has for them
    and the stages; `out_of_time` is when drivers have run for its hours. NaN without a budget.
    """

    spans: tuple[Span, ...]
    starts: tuple[float, ...]
    shared: tuple[SharedStages, ...]
    trials: int
    trained: float
    allowed: float
    out_of_time: float


def timeline_info(sweep: Records) -> TimelineInfo:
    """The timeline's numbers; a span begins as long before its event as it is said to have run."""
    table = sharing_table(sweep)
    shared = tuple(
        SharedStages(
            str(kind),
            len(stages),
            int(stages["uses"].sum()),
            float(stages["spent_seconds"].sum()) / 60,
            float(stages["saved_seconds"].sum()) / 60,
        )
        for kind, stages in table.groupby("kind")
    )
    events = sweep.events
    minutes = (events["time"] - events["time"].min()).dt.total_seconds() / 60
    started = (events["kind"] == "sweep") & (events["state"] == "started")
    numbers = dict(zip(sweep.trials["key"], sweep.trials["number"], strict=True))
    spans = [
        (*_named(event, numbers), end - event["seconds"] / 60, end)
        for event, end in zip(events.to_dict("records"), minutes, strict=True)
        if event["kind"] in ("stage", "trial") and event["seconds"] > 0
    ]
    limits = _budget(sweep)
    return TimelineInfo(
        spans=_in_lanes(spans),
        starts=tuple(minutes[started].tolist()),
        shared=shared,
        trials=len(sweep.trials),
        trained=float((sweep.trials["seconds"] * sweep.trials["workers"]).sum()) / 60,
        allowed=60 * limits["device_hours"],
        out_of_time=_out_of_time(minutes[started].tolist(), minutes.tolist(), 60 * limits["hours"]),
    )


def _budget(sweep: Records) -> dict[str, float]:
    """The budget's hours and device hours, NaN where there is none or several sweeps are shown."""
    budget = read_spec(sweep).get("budget") if len(sweep.sweeps) == 1 else None
    given = budget if isinstance(budget, dict) else {}
    return {
        name: float(value) if isinstance(value := given.get(name), int | float) else math.nan
        for name in ("hours", "device_hours")
    }


def _out_of_time(starts: Sequence[float], events: Sequence[float], limit: float) -> float:
    """When drivers that log until they end, and began at `starts`, have run for `limit` minutes.

    NaN without a limit, or if they never have.
    """
    left = limit
    for start, following in pairwise([*starts, math.inf]):
        end = max((event for event in events if start <= event < following), default=start)
        if end - start >= left:
            return start + left
        left -= end - start
    return math.nan


def plot_timeline(info: TimelineInfo) -> go.Figure:
    """Bars over time, dotted lines where the sweep was started; below, the cost of stages."""
    lanes = 1 + max((span.lane for span in info.spans), default=0)
    upper = 24 * lanes + 60
    lower = 40 * (len(info.shared) + 1) + 60
    figure = make_subplots(
        rows=2,
        cols=1,
        row_heights=[upper / (upper + lower), lower / (upper + lower)],
        vertical_spacing=min(0.4, 64 / (upper + lower)),
    )
    for what, colour in _COLOURS.items():
        spans = [span for span in info.spans if span.what == what]
        if spans:
            figure.add_trace(_bars(what, colour, spans), row=1, col=1)
    for start in info.starts:
        figure.add_vline(x=start, line={"color": GREY, "width": 1, "dash": "dot"}, row=1, col=1)
    kinds = [plain(f"{each.stages} × {each.kind}") for each in info.shared]
    kinds.append(f"{info.trials} × trial")
    uses = [*(each.uses for each in info.shared), info.trials]
    spent = [*(each.spent for each in info.shared), info.trained]
    saved = [*(each.saved for each in info.shared), 0.0]
    for label, colour, values, base in (
        ("device time spent", ORANGE, spent, [0.0] * len(spent)),
        ("saved by sharing", SKY, saved, spent),
    ):
        figure.add_trace(
            go.Bar(
                y=kinds,
                x=values,
                base=base,
                orientation="h",
                name=label,
                marker={"color": colour},
                customdata=uses,
                hovertemplate=f"{label}: %{{x:.1f}} min, for %{{customdata}} uses<extra></extra>",
            ),
            row=2,
            col=1,
        )
    # After the bars: an empty plot takes no line.
    for limit, name, row in (
        (info.out_of_time, "budget.hours", 1),
        (info.allowed, "budget.device_hours, trials and stages together", 2),
    ):
        if math.isfinite(limit):
            figure.add_vline(
                x=limit,
                line={"color": VERMILLION, "width": 2, "dash": "dash"},
                annotation={"text": name, "xanchor": "right"},
                row=row,
                col=1,
            )
    figure.update_layout(barmode="overlay")
    figure.update_yaxes(showticklabels=False, title_text="at once", row=1)
    figure.update_xaxes(title_text="minutes since the sweep's start", row=1)
    figure.update_xaxes(title_text="device minutes", row=2)
    return apply_style(figure, height=upper + lower + 130)


def _bars(what: str, colour: str, spans: Sequence[Span]) -> go.Bar:
    return go.Bar(
        base=[span.start for span in spans],
        x=[span.end - span.start for span in spans],
        y=[span.lane for span in spans],
        customdata=[[plain(span.name), span.end - span.start] for span in spans],
        orientation="h",
        width=0.8,
        name=f"{what} ({len(spans)})",
        marker={"color": colour, "line": {"width": 0.5, "color": "rgba(255,255,255,0.6)"}},
        hovertemplate="%{customdata[0]}: %{customdata[1]:.2f} min<extra></extra>",
    )


def _named(event: Mapping[Hashable, Any], numbers: Mapping[str, int]) -> tuple[str, str]:
    if event["kind"] == "trial":
        state = event["state"] if event["state"] in STATUSES else "failed"
        return f"trial {state}", f"trial {numbers.get(event['key'], '')} ({state})"
    name = "unnamed stage" if pd.isna(event["name"]) else event["name"]
    kind = name.partition("-")[0]
    return (kind if kind in _COLOURS else "other stage"), name


def _in_lanes(spans: Sequence[tuple[str, str, float, float]]) -> tuple[Span, ...]:
    """Each span on the first lane that is free when it begins."""
    free: list[float] = []
    placed = []
    for what, name, start, end in sorted(spans, key=lambda span: (span[2], span[3])):
        # Events are logged to the second.
        lane = next((i for i, until in enumerate(free) if until <= start + 1 / 60), len(free))
        free[lane : lane + 1] = [max(end, start)]
        placed.append(Span(what, name, start, end, lane))
    return tuple(placed)
