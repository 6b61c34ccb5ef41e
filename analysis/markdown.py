"""A report's chapters as Markdown: what the page says, without its figures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.page import Chapter, Section
from analysis.tables import to_markdown


def chapters_markdown(title: str, chapters: Sequence[Chapter]) -> str:
    """The whole report without its figures."""
    parts = [f"# {title}"]
    for chapter in chapters:
        if len(chapters) > 1:
            parts.append(f"# {chapter.title}")
        parts.append(_bullets(chapter.headlines))
        for section in chapter.tables:
            parts += [f"## {section.title}", *section_markdown(section)]
        for each in chapter.commands:
            parts += [f"{_escaped(each.title)}", "```\n" + "\n".join(each.lines) + "\n```"]
        if chapter.protocol:
            parts += ["## How to read the numbers", _bullets(chapter.protocol)]
        for section in chapter.further:
            parts += [f"## {section.title}", *section_markdown(section)]
    return "\n\n".join(part for part in parts if part) + "\n"


def section_markdown(section: Section) -> list[str]:
    """A section's table, if it has rows, and its notes."""
    parts = [_escaped(note) for note in section.notes]
    if section.rows:
        cells = [[cell.text for cell in row] for row in section.rows]
        parts.insert(0, to_markdown(pd.DataFrame(cells, columns=list(section.header))))
    return parts


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")
