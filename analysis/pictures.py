"""Figures as static files, by kaleido (the extra `pictures`) and a Chrome or Chromium."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

import plotly.graph_objects as go

from analysis.page import Chapter, Panel

Format = Literal["svg", "pdf", "png"]
_WIDTH, _WIDE = 640, 1100
_INK, _PAPER = "#1d2127", "#ffffff"


class PicturesError(RuntimeError):
    """Static pictures cannot be made; says what is missing."""


def check_pictures() -> None:
    """PicturesError without kaleido; whether there is a browser, only drawing can tell."""
    _kaleido()


def picture_names(chapters: Sequence[Chapter], kind: Format) -> list[str]:
    """The file of every figure of `chapters`, in their order."""
    return [f"{_slug(title)}.{kind}" for title, _ in _panels(chapters)]


def write_pictures(folder: Path, chapters: Sequence[Chapter], kind: Format) -> tuple[Path, ...]:
    """Every figure of `chapters` into `folder`, in dark ink on white; their paths.

    PicturesError without kaleido or a browser.
    """
    kaleido = _kaleido()
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _panels(chapters)
    paths = [folder / name for name in picture_names(chapters, kind)]
    figures = [_printed(panel.figure, _WIDE if panel.wide else _WIDTH) for _, panel in drawn]
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


def _panels(chapters: Sequence[Chapter]) -> list[tuple[str, Panel]]:
    return [
        (f"{chapter.title} {group.title} {panel.title}", panel)
        for chapter in chapters
        for group in chapter.groups
        for panel in group.panels
    ]


def _kaleido() -> ModuleType:
    try:
        return importlib.import_module("kaleido")
    except ImportError as error:
        raise PicturesError(
            "pictures need kaleido: pip install 'ractd[pictures]', and a Chrome or Chromium"
        ) from error


def _printed(figure: go.Figure, width: int) -> go.Figure:
    printed = go.Figure(figure)
    return printed.update_layout(
        width=width, paper_bgcolor=_PAPER, plot_bgcolor=_PAPER, font={"color": _INK}
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
