"""Render the report's page: one HTML file that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs


@dataclass(frozen=True)
class Panel:
    """A figure on the page; `min_width` in CSS pixels, below which it scrolls."""

    title: str
    caption: str
    figure: go.Figure
    min_width: int

    @property
    def html(self) -> str:
        """The figure as a div and a script, without plotly.js."""
        html: str = self.figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            config={"displaylogo": False, "displayModeBar": False, "responsive": True},
        )
        return html


@dataclass(frozen=True)
class Section:
    """A table on the page, its cells as text; `marked` are the lines set apart from the others."""

    title: str
    note: str
    table: pd.DataFrame
    marked: frozenset[int] = frozenset()


def render_page(
    name: str,
    created: str,
    headlines: Sequence[str],
    failures: Sequence[str],
    protocol: Sequence[str],
    sections: Sequence[Section],
    panels: Sequence[Panel],
) -> str:
    """The whole page as text; everything but figures and plotly.js is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        name=name,
        created=created,
        headlines=headlines,
        failures=failures,
        protocol=protocol,
        sections=sections,
        panels=panels,
        plotly_js=get_plotlyjs() if panels else "",
    )
