"""What all figures share: colours, titles, and a layout that suits light and dark pages and print.

Colours are those of Okabe and Ito (2008), which stay apart for colour-blind readers; those too
light for a white page or too dark for a black one are left out, and grey is for what is no method.
"""

from __future__ import annotations

import html

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from analysis.methods import METHODS, method_of

SCORE_TITLE = "normalized score"
# mid tones: legible on white and on near-black alike
GREY = "#8a8f98"
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = (
    *("#3b82c4", "#56b4e9", "#1b9e77", "#e69f00", "#d55e00", "#cc79a7"),
)
SEQUENTIAL = ["#4f7fd6", "#2fa39a", "#d99a2b"]
"""Of lines and points, for a quantity: from blue to amber, grows lighter."""
FILLED = "Cividis"
"""Of filled cells, for a quantity."""
STATUS_COLOURS = {"completed": BLUE, "pruned": GREY, "failed": VERMILLION}
STATUS_SYMBOLS = {"completed": "circle", "pruned": "x-thin-open", "failed": "triangle-down"}
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "hexagon", "pentagon")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_GRID = "rgba(138,143,152,0.25)"


def apply_style(
    figure: go.Figure, height: int, legend: bool = True, titles: bool = False
) -> go.Figure:
    """Give `figure` the common look, in place; the page's script sets the colours of text.

    `height` is in CSS pixels; without a `legend`, or `titles` of subplots, their room is not kept
    free.
    """
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 62, "r": 16, "t": 36 if titles else 12, "b": 110 if legend else 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 13, "color": GREY},
        # below the axis title even where a narrow page breaks the legend into lines
        legend={"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0.02, "x": 0},
        hoverlabel={"font": {"family": _FONT, "size": 12}, "align": "left"},
        hovermode="closest",
    )
    axis = {
        "gridcolor": _GRID,
        "zeroline": False,
        "linecolor": GREY,
        "automargin": True,
        "title_standoff": 8,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def plain(text: str) -> str:
    """`text` from a record for a figure, where Plotly would read tags and links in it."""
    return html.escape(text, quote=False)


def method_colour(row: str) -> str:
    """The colour of a row's method, in every figure the same; grey for what is no method."""
    method = method_of(row)
    return METHODS[method].colour if method in METHODS else GREY


def method_symbol(row: str) -> str:
    """The marker of a row's method, so that colour alone need not tell methods apart.

    It is hollow for what is no method, and for a method by another sampler or number of calls.
    """
    method = method_of(row)
    if method not in METHODS:
        return "circle-open"
    symbol = _SYMBOLS[list(METHODS).index(method) % len(_SYMBOLS)]
    return symbol if row == method else f"{symbol}-open"


def shades(count: int) -> list[str]:
    """`count` colours from blue to amber, for an ordered quantity."""
    places = [place / (count - 1) for place in range(count)] if count > 1 else [0.5] * count
    return list(sample_colorscale(SEQUENTIAL, places))


def faded(colour: str, opacity: float) -> str:
    """`colour`, as #rrggbb or rgb(r, g, b), let through by 1 - `opacity`."""
    if colour.startswith("#"):
        red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    else:
        red, green, blue = (round(float(part)) for part in colour[4:-1].split(","))
    return f"rgba({red},{green},{blue},{opacity:g})"
