"""Figures as static files, by kaleido (the extra `pictures`) and a Chrome or Chromium."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go

from analysis.page import Chapter

Format = Literal["svg", "pdf", "png"]
_WIDTH, _WIDE = 640, 1100
_INK, _PAPER = "#1d2127", "#ffffff"


class PicturesError(RuntimeError):
    """Static pictures cannot be made; says what is missing."""


def write_pictures(folder: Path, chapters: Sequence[Chapter], kind: Format) -> tuple[Path, ...]:
    """Every figure of `chapters` into `folder`, in dark ink on white; their paths.

    PicturesError without kaleido or a browser.
    """
    try:
        import kaleido
    except ImportError as error:
        raise PicturesError(
            "pictures need kaleido: pip install 'ractd[pictures]', and a Chrome or Chromium"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    figures, paths = [], []
    for chapter in chapters:
        for group in chapter.groups:
            for panel in group.panels:
                name = _slug(f"{chapter.title} {group.title} {panel.title}")
                paths.append(folder / f"{name}.{kind}")
                figures.append(_printed(panel.figure, _WIDE if panel.wide else _WIDTH))
    try:
        kaleido.write_fig_from_object_sync(
            [
                {"fig": figure, "path": str(path), "opts": {"format": kind, "scale": 2}}
                for figure, path in zip(figures, paths, strict=True)
            ],
            cancel_on_error=True,
        )
    except Exception as error:
        # kaleido passes on whatever its browser says
        raise PicturesError(
            f"no pictures: {error}. They need a Chrome or Chromium; BROWSER_PATH names one"
        ) from error
    return tuple(paths)


def _printed(figure: go.Figure, width: int) -> go.Figure:
    printed = go.Figure(figure)
    return printed.update_layout(
        width=width, paper_bgcolor=_PAPER, plot_bgcolor=_PAPER, font={"color": _INK}
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
