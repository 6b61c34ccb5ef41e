"""A table for a reader, and the same in Markdown, LaTeX, CSV and HTML.

In LaTeX it needs the packages booktabs and xcolor.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from ractd_core.files import write_text


@dataclass(frozen=True)
class Cell:
    """Text as it is read, in no markup; `grey` sets apart what was not measured here."""

    text: str
    bold: bool = False
    grey: bool = False


@dataclass(frozen=True)
class Table:
    """A table's cells for a reader, and its numbers for a program."""

    name: str
    """The stem of its files."""
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]
    """Footnotes: how its numbers came about."""
    numbers: pd.DataFrame
    """Not rounded, one line per thing measured; what CSV holds."""
    rules: frozenset[int] = frozenset()
    """Rows that have a line above them."""
    summaries: frozenset[int] = frozenset()
    """Rows that sum up others, as an average does: sorting leaves them below."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"a row of table {self.name!r} is not as long as its header")


@dataclass(frozen=True)
class Rendered:
    """The same table in four formats, each a whole file's text."""

    markdown: str
    latex: str
    csv: str
    html: str


def render(table: Table) -> Rendered:
    """`table` in all formats; no text of a cell can become markup."""
    return Rendered(
        markdown=_markdown(table),
        latex=_latex(table),
        csv=table.numbers.to_csv(index=False),
        html=_html(table),
    )


def write_table(table: Table, folder: Path) -> dict[str, Path]:
    """Write `table` to NAME.md, .tex, .csv and .html in `folder`; their paths by suffix.

    Each file is replaced whole or not at all. OSError where `folder` cannot be written.
    """
    paths = {}
    for name, text in files_of(table).items():
        paths[name.rpartition(".")[2]] = folder / name
        write_text(folder / name, text)
    return paths


def files_of(table: Table) -> dict[str, str]:
    """The files of `table`: their text by NAME.md, .tex, .csv and .html."""
    each = render(table)
    texts = {"md": each.markdown, "tex": each.latex, "csv": each.csv, "html": each.html}
    return {f"{table.name}.{suffix}": text for suffix, text in texts.items()}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A Markdown table of one row or more; columns of numbers stand right."""
    columns = zip(*rows, strict=True)
    return tabulate(
        [[_markdown_cell(cell) for cell in row] for row in rows],
        [markdown_text(name) for name in header],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=[
            "right" if all(_NUMBER.match(cell.text) for cell in column) else "left"
            for column in columns
        ],
    )


def markdown_text(text: str) -> str:
    """`text` on one line, in which nothing can become markup."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


_NUMBER = re.compile(r"[-+]?\d|–|$")
_MARKUP = re.compile(
    r"[\\`*|<>~]"
    # a link's end, an underline at a word's border, an entity
    r"|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)"
)


def _markdown(table: Table) -> str:
    notes = [f"- {markdown_text(note)}" for note in table.notes]
    parts = [
        f"**{markdown_text(table.title)}**",
        markdown_table(table.header, table.rows),
        "\n".join(notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text)
    if cell.bold:
        text = f"**{text}**"
    return f"*{text}*" if cell.grey else text


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # At the beginning of a row it would be the argument of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "–": "--",
    "…": r"\ldots{}",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "σ": r"$\sigma$",
    "∇": r"$\nabla$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "²": r"$^2$",
    "‡": r"$\ddagger$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
}


def _latex(table: Table) -> str:
    lines = []
    for place, row in enumerate(table.rows):
        if place in table.rules:
            lines.append(r"\midrule")
        lines.append(_ampersands([_latex_cell(cell) for cell in row]))
    head = _ampersands([_latex_text(name) for name in table.header])
    notes = [rf"\par {_latex_text(note)}" for note in table.notes]
    return "\n".join(
        [
            "% \\usepackage{booktabs, xcolor}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_text(table.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\medskip\raggedright\footnotesize", *notes] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def _ampersands(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _latex_cell(cell: Cell) -> str:
    text = _latex_text(cell.text)
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    return rf"\textcolor{{gray}}{{{text}}}" if cell.grey else text


def _latex_text(text: str) -> str:
    return "".join(_TEX.get(sign) or _plain(sign) for sign in " ".join(text.split()))


def _plain(sign: str) -> str:
    """Signs that no LaTeX without further packages knows become the nearest ones it does."""
    if sign.isascii():
        return sign
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"


def _html(table: Table) -> str:
    head = _html_row([f"<th>{html.escape(name)}</th>" for name in table.header])
    body = [
        _html_row([_html_cell(cell) for cell in row], ' class="rule"' * (place in table.rules))
        for place, row in enumerate(table.rows)
    ]
    return "\n".join(
        [
            "<table>",
            f"<caption>{html.escape(table.title)}</caption>",
            f"<thead>{head}</thead>",
            "<tbody>",
            *body,
            "</tbody>",
            "</table>",
            *(f"<p>{html.escape(note)}</p>" for note in table.notes),
            "",
        ]
    )


def _html_row(cells: Sequence[str], attributes: str = "") -> str:
    return f"<tr{attributes}>{''.join(cells)}</tr>"


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    if cell.bold:
        text = f"<b>{text}</b>"
    style = ' style="opacity:.65"' if cell.grey else ""
    return f"<td{style}>{text}</td>"
