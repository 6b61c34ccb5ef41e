"""A table in Markdown, LaTeX, CSV and HTML: read back, compiled where there is a TeX."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import analysis
from analysis.table import Cell, Table, markdown_table, render, write_table
from analysis.tables_all import all_tables
from tests.analysis.conftest import SweepBuilder

_NASTY = r"a|b \ *c* _d_ `e` <script>alert(1)</script> & 5 % #1 $x$ {y} ~^ [1] σ 10–20 ‡ ✓"
_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20
).map(lambda text: " ".join(text.split()))


def _table(*texts: str, **cell: bool) -> Table:
    rows = tuple((Cell(text, **cell), Cell(str(place))) for place, text in enumerate(texts))
    numbers = pd.DataFrame({"text": list(texts), "place": range(len(texts))})
    return Table("nasty", "A & B", ("name", "σ [%]"), rows, ("50 % of _all_",), numbers)


def _read_markdown(text: str) -> list[list[str]]:
    """The cells of the one pipe table in `text`, as GitHub reads them, without markup."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [re.split(r"(?<!\\)\|", line.replace("\\\\", "\0"))[1:-1] for line in lines]
    plain = [[_plain(cell.strip()) for cell in row] for row in rows]
    assert all(re.fullmatch(":?-+:?", cell) for cell in plain[1])
    return [plain[0], *plain[2:]]


def _plain(cell: str) -> str:
    bare = re.sub(r"(?<!\\)\*", "", cell)
    return re.sub(r"\\(.)", r"\1", bare).replace("\0", "\\")


class _HtmlTable(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


@given(st.lists(_TEXT | st.sampled_from(["[a](b)", "[a][b]", "_a_b_", "&lt;", "~~a~~", "a_b"])))
def test_a_reader_of_markdown_sees_the_text_and_no_markup(texts: list[str]) -> None:
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found = []
    for token in reader.parse(markdown_table(["one"], [[Cell(text)] for text in ["0", *texts]])):
        if token.type == "inline":
            assert {child.type for child in token.children or ()} <= {"text", "text_special"}
            found.append("".join(child.content for child in token.children or ()))
    assert found == ["one", "0", *texts]


@given(st.lists(_TEXT, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_markdown_and_html_are_read_back(texts: list[str], bold: bool, grey: bool) -> None:
    table = _table(*texts, bold=bold, grey=grey)
    expected = [["name", "σ [%]"], *([text, str(place)] for place, text in enumerate(texts))]
    assert _read_markdown(render(table).markdown) == expected
    assert _HtmlTable(render(table).html).rows == expected


def test_nothing_in_a_cell_becomes_markup() -> None:
    each = render(_table(_NASTY))
    assert "<script>" not in each.html
    assert "\\<script\\>" in each.markdown
    assert _read_markdown(each.markdown)[1][0] == _NASTY
    assert pd.read_csv(StringIO(each.csv))["text"].tolist() == [_NASTY]
    [line] = [line for line in each.latex.splitlines() if line.startswith("a\\textbar")]
    assert line == (
        r"a\textbar{}b \textbackslash{} *c* \_d\_ `e` "
        r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{} \& 5 \% \#1 "
        r"\$x\$ \{y\} \textasciitilde{}\textasciicircum{} {[}1{]} $\sigma$ 10--20 $\ddagger$ ?"
        r" & 0 \\"
    )


def test_bold_and_grey_in_every_format() -> None:
    each = render(_table("best", bold=True))
    assert "| **best** |" in each.markdown
    assert r"\textbf{best}" in each.latex
    assert "<b>best</b>" in each.html
    cited = render(_table("theirs", grey=True))
    assert "| *theirs* |" in cited.markdown
    assert r"\textcolor{gray}{theirs}" in cited.latex
    assert '<td style="opacity:.65">theirs</td>' in cited.html


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="not as long as its header"):
        Table("t", "t", ("a", "b"), ((Cell("1"),),), (), pd.DataFrame())


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    paths = write_table(_table("a"), tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "nasty.csv",
        "nasty.html",
        "nasty.md",
        "nasty.tex",
    ]
    assert paths["tex"].read_text(encoding="utf-8") == render(_table("a")).latex


def test_latex_has_booktabs_structure(full: SweepBuilder) -> None:
    for table in all_tables(analysis.load(full.storage)):
        text = render(table).latex
        assert text.isascii()
        for name in ("table", "tabular"):
            assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
        assert [text.count(rule) for rule in (r"\toprule", r"\bottomrule")] == [1, 1]
        assert text.count(r"\midrule") == 1 + len(table.rules)
        body = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len(body) == 1 + len(table.rows)
        for line in body:
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.header) - 1
        unescaped = re.sub(r"\\[{}]", "", text)
        assert unescaped.count("{") == unescaped.count("}")
        assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
        assert not re.search(r"(?<!\\)[%#_]", text.partition("\n")[2])


def test_latex_compiles(full: SweepBuilder, tmp_path: Path) -> None:
    command = next((name for name in ("pdflatex", "tectonic") if shutil.which(name)), None)
    if command is None:
        pytest.skip("neither pdflatex nor tectonic is installed: structure is tested alone")
    tables = [*all_tables(analysis.load(full.storage)), _table(_NASTY, bold=True, grey=True)]
    body = "\n".join(render(table).latex for table in tables)
    (tmp_path / "all.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,xcolor}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    options = ["-interaction=nonstopmode", "-halt-on-error"] if command == "pdflatex" else []
    run = subprocess.run(
        [command, *options, "all.tex"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 0
