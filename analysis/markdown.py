"""A report's chapters as Markdown: what the page says, without its figures."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.page import Chapter, Section
from analysis.table import markdown_table, markdown_text


def chapters_markdown(title: str, chapters: Sequence[Chapter]) -> str:
    """The whole report without its figures."""
    parts = [f"# {markdown_text(title)}"]
    for chapter in chapters:
        if len(chapters) > 1:
            parts.append(f"# {markdown_text(chapter.title)}")
        parts.append(_bullets(chapter.headlines))
        for section in chapter.tables:
            parts += [f"## {markdown_text(section.title)}", *section_markdown(section)]
        for each in chapter.commands:
            parts += [markdown_text(each.title), "```\n" + "\n".join(each.lines) + "\n```"]
        if chapter.protocol:
            parts += ["## How to read the numbers", _bullets(chapter.protocol)]
        for section in chapter.further:
            parts += [f"## {markdown_text(section.title)}", *section_markdown(section)]
    return "\n\n".join(part for part in parts if part) + "\n"


def section_markdown(section: Section) -> list[str]:
    """A section's table, if it has rows, and its notes."""
    table = [markdown_table(section.header, section.rows)] if section.rows else []
    return table + [markdown_text(note) for note in section.notes]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)
