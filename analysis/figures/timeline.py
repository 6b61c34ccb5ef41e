"""When stages and trials ran, and what each stage cost and saved by being shared."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    """A sweep's spans and pauses (minutes), and what sharing saved."""

    spans: tuple[Span, ...]
    starts: tuple[float, ...]
    shared: tuple[SharedStages, ...]


def timeline_info(sweep: Records) -> TimelineInfo:
    """The timeline's numbers; a span begins as long before its event as it is said to have run."""
    table = sharing_table(sweep)
    shared = tuple(
        SharedStages(
            str(kind),
            len(stages),
            int(stages["uses"].sum()),
            float(stages["device_seconds"].sum()) / 60,
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
    return TimelineInfo(_in_lanes(spans), tuple(minutes[started].tolist()), shared)


def plot_timeline(info: TimelineInfo) -> go.Figure:
    """Bars over time, dotted lines where the sweep was started; below, the cost of stages."""
    lanes = 1 + max((span.lane for span in info.spans), default=0)
    upper = 24 * lanes + 60
    lower = 40 * max(1, len(info.shared)) + 60
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
    spent = [each.spent for each in info.shared]
    saved = [each.saved for each in info.shared]
    for label, colour, values, base in (
        ("device time spent", ORANGE, spent, [0.0] * len(spent)),
        ("saved by sharing", SKY, saved, spent),
    ):
        if info.shared:
            figure.add_trace(
                go.Bar(
                    y=kinds,
                    x=values,
                    base=base,
                    orientation="h",
                    name=label,
                    marker={"color": colour},
                    customdata=[each.uses for each in info.shared],
                    hovertemplate=f"{label}: %{{x:.1f}} min, for %{{customdata}} uses"
                    "<extra></extra>",
                ),
                row=2,
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
    kind = event["name"].partition("-")[0]
    return (kind if kind in _COLOURS else "other stage"), event["name"]


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
