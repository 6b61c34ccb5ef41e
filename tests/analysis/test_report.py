"""The report as a whole: its files, its page, and sweeps that have little to show."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from analysis import RecordError, write_report

if TYPE_CHECKING:
    from tests.analysis.conftest import SweepBuilder


class _Page(HTMLParser):
    """Collects what a browser would fetch, its tags and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._script = tag in ("script", "style")
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.text += data


def test_full_report(full: SweepBuilder) -> None:
    report = write_report(full.storage, "quickstart")
    assert report.folder == full.folder / "report"
    assert sorted(path.name for path in report.folder.iterdir()) == [
        "benchmark.csv",
        "index.html",
        "report.md",
        "trials.csv",
    ]
    markdown = report.markdown.read_text()
    assert "| ractd " in markdown
    for line in report.headlines:
        assert f"- {line}" in markdown
    assert len(pd.read_csv(report.benchmark_csv)) == 6
    assert len(pd.read_csv(report.trials_csv)) == 8


def test_page_fetches_nothing_and_carries_plotly_once(full: SweepBuilder) -> None:
    html = write_report(full.storage, "quickstart").page.read_text()
    page = _Page(html)
    assert page.fetched == []
    assert "link" not in page.tags
    assert 'src="http' not in html
    assert "default-src 'none'" in html
    assert html.count("plotly.js v") == 1
    assert html.count("Plotly.newPlot(") == 2
    for text in ("Benchmark", "sharing: 1 reward model", "150x faster", "plain regression"):
        assert text in page.text


def test_confirmations_are_shown_where_there_are_any(builder: SweepBuilder) -> None:
    builder.trial(0)
    assert "Confirmation" not in write_report(builder.storage, "quickstart").markdown.read_text()
    builder.confirmation(0, 131.5, selected=140.25)
    report = write_report(builder.storage, "quickstart")
    markdown = report.markdown.read_text()
    assert "## Confirmation" in markdown
    assert "| 140.2 | 131.5 | +8.8 | 50 |" in " ".join(markdown.split())
    assert "seeds 500000 to 500049, by their students" in markdown
    assert "131.5" in report.page.read_text()


def test_reason_is_escaped_everywhere(builder: SweepBuilder) -> None:
    builder.trial(0, "failed", reason="<script>alert(1)</script>", curve=[1.0])
    report = write_report(builder.storage, "quickstart")
    assert "<script>alert" not in report.page.read_text()
    assert "<script>alert" not in report.markdown.read_text()
    assert "<script>alert(1)</script>" in _Page(report.page.read_text()).text


def test_dataset_name_cannot_end_a_script(builder: SweepBuilder) -> None:
    builder.trial(0, curve=[1.0], dataset="</script><img src=x>", status="completed")
    page = _Page(write_report(builder.storage, "quickstart").page.read_text())
    assert "img" not in page.tags


def test_empty_sweep_says_so(builder: SweepBuilder) -> None:
    report = write_report(builder.storage, "quickstart")
    markdown = report.markdown.read_text()
    assert "no final RACTD row yet" in markdown
    assert "No trial has finished yet." in markdown
    page = report.page.read_text()
    assert "No trial has finished yet." in page
    assert len(page) < 20_000


def test_only_failed_trials(builder: SweepBuilder) -> None:
    builder.trial(0, "failed", reason="out of memory")
    (builder.folder / "trials" / "running").mkdir()
    report = write_report(builder.storage, "quickstart")
    assert "trials: 0 completed, 0 pruned, 1 failed, 1 unfinished" in report.headlines
    assert "1 × trial: out of memory" in report.page.read_text()
    assert "no trial has been scored" in report.markdown.read_text()


def test_other_folder_and_rewriting(builder: SweepBuilder, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    write_report(builder.storage, "quickstart", out)
    builder.trial(0)
    report = write_report(builder.storage, "quickstart", out)
    assert report.page == out / "index.html"
    assert len(pd.read_csv(report.trials_csv)) == 1
    assert not (builder.folder / "report").exists()


def test_damaged_record_leaves_the_last_report_alone(builder: SweepBuilder) -> None:
    report = write_report(builder.storage, "quickstart")
    before = report.markdown.read_text()
    (builder.trial(0) / "record.json").write_text('{"schema": 1')
    with pytest.raises(RecordError, match=r"record\.json"):
        write_report(builder.storage, "quickstart")
    assert report.markdown.read_text() == before
