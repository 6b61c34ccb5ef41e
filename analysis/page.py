"""Render the report's page: one HTML file that opens without a network.

The page's policy allows no fetch and no script but the two that are hashed in it, so nothing that
a record says can run even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from analysis.table import Cell, Table

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Panel:
    """A figure on the page; a `wide` one takes the whole width.

    Below `min_width` CSS pixels it scrolls inside its frame.
    """

    title: str
    caption: str
    figure: go.Figure
    wide: bool = False
    min_width: int = 300

    @property
    def height(self) -> int:
        """The figure's own height in CSS pixels."""
        return int(self.figure.layout.height)

    @property
    def json(self) -> str:
        """The figure as JSON that cannot end the element it stands in."""
        text: str = self.figure.to_json()
        return text.replace("<", "\\u003c").replace("&", "\\u0026")


@dataclass(frozen=True)
class Group:
    """Figures under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Section:
    """A table on the page and what is to be known of it; `rules` and `summaries` as a Table's."""

    title: str
    notes: Sequence[str]
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    rules: frozenset[int] = frozenset()
    summaries: frozenset[int] = frozenset()


def text_section(title: str, note: str, table: pd.DataFrame, grey: Container[int] = ()) -> Section:
    """A frame of text as a section; the rows `grey` are set apart from the others."""
    rows = [
        [Cell(str(text), grey=place in grey) for text in row]
        for place, row in enumerate(table.to_numpy())
    ]
    return Section(title, [note] if note else [], list(table.columns), rows)


def table_section(table: Table, without: Container[str] = ()) -> Section:
    """A table as a section, less the notes that stand elsewhere on the page."""
    notes = [note for note in table.notes if note not in without]
    return Section(table.title, notes, table.header, table.rows, table.rules, table.summaries)


@dataclass(frozen=True)
class Commands:
    """Commands to copy, and what they are for."""

    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Chapter:
    """One sweep, or a comparison of several: what it comes down to, then the details."""

    title: str
    subtitle: str
    headlines: Sequence[str] = ()
    commands: Sequence[Commands] = ()
    tables: Sequence[Section] = ()
    groups: Sequence[Group] = ()
    protocol: Sequence[str] = ()
    further: Sequence[Section] = ()
    spec: str = ""


@dataclass(frozen=True)
class Page:
    """A title and chapters; `refresh` seconds until a browser reads the file again, 0 for never."""

    title: str
    written: str
    chapters: Sequence[Chapter] = field(default_factory=tuple)
    refresh: int = 0


def render_page(page: Page) -> str:
    """The whole page as text; everything but the two scripts and the figures' JSON is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = any(group.panels for chapter in page.chapters for group in chapter.groups)
    scripts = [(_TEMPLATES / "report.js").read_text(encoding="utf-8")]
    if drawn:
        scripts.insert(0, get_plotlyjs())
    return environment.get_template("report.html.j2").render(
        page=page, scripts=scripts, hashes=[_hash(script) for script in scripts]
    )


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
