"""What all figures share: the score's axis title and a layout that suits light and dark pages."""

from __future__ import annotations

import plotly.graph_objects as go

SCORE_TITLE = "normalized score (0 random, 100 expert)"
# mid tones: legible on white and on near-black alike
GREY = "#8a8f98"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def apply_style(figure: go.Figure, height: int) -> go.Figure:
    """Give `figure` the common look, in place; the page's script sets the colours of text."""
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 120},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 13, "color": GREY},
        # below the axis title even where a narrow page breaks the legend into lines
        legend={"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0.02, "x": 0},
    )
    axis = {"gridcolor": "rgba(138,143,152,0.25)", "zeroline": False, "linecolor": GREY}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure
