"""The report as a whole: its files, its page, and sweeps that have little to show."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml

from analysis import RecordError, load, write_report
from analysis.pictures import PicturesError
from analysis.schema import FRAMES
from analysis.winners_again import winners_again
from sweeps.spec import load_spec
from tests.analysis.conftest import SweepBuilder
from tests.analysis.generated import write_trials


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
        "data",
        "files.txt",
        "index.html",
        "report.md",
        "tables",
        "trials.csv",
    ]
    markdown = report.markdown.read_text()
    assert "| ractd " in markdown
    for line in report.headlines:
        assert f"- {line}" in markdown
    # What the notes call bold and grey is.
    assert re.search(r"\*\*13\d\.\d \[13\d\.\d, 13\d\.\d\]\*\*", markdown)
    assert re.search(r"\| \*RACTD \(published, D4RL's own data\)\* +\|", markdown)
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
    assert 'http-equiv="refresh"' not in html
    assert html.count('type="application/json"') == html.count('class="figure"') >= 8
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
    assert len(page) < 25_000


def test_only_failed_trials(builder: SweepBuilder) -> None:
    builder.trial(0, "failed", reason="out of memory")
    (builder.folder / "trials" / "running").mkdir()
    report = write_report(builder.storage, "quickstart")
    assert "trials: 0 completed, 0 pruned, 1 failed, 1 unfinished" in report.headlines
    assert "out of memory" in report.page.read_text()
    assert "0 diverged" in report.page.read_text()
    assert "0 diverged" in report.markdown.read_text()
    assert "no trial has been scored" in report.markdown.read_text()


def test_other_folder_and_rewriting(builder: SweepBuilder, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    write_report(builder.storage, "quickstart", out)
    builder.trial(0)
    report = write_report(builder.storage, "quickstart", out)
    assert report.page == out / "index.html"
    assert len(pd.read_csv(report.trials_csv)) == 1
    assert not (builder.folder / "report").exists()


def test_a_report_takes_away_what_an_earlier_one_has_left_and_nothing_else(
    full: SweepBuilder, tmp_path: Path
) -> None:
    other = SweepBuilder(full.storage, "other")
    other.trial(0)
    for each in (full, other):
        (each.folder / "spec.yaml").write_text("tasks: []")
    out = tmp_path / "out"
    write_report(full.storage, "quickstart", out)
    (out / "tables" / "mine.md").write_text("mine")
    (tmp_path / "outside").write_text("mine")
    with (out / "files.txt").open("a") as file:
        file.write(f"../outside\n{tmp_path / 'outside'}\n\ntables\n")
    assert {"benchmark.tex", "mine.md"} < {path.name for path in (out / "tables").iterdir()}
    write_report(full.storage, "other", out)
    assert [path.name for path in out.glob("winner-*")] == [
        "winner-other-local-maze2d-umaze-v1.yaml"
    ]
    assert {path.stem for path in (out / "tables").iterdir()} == {"mine", "published"}
    assert (tmp_path / "outside").exists()
    listed = set((out / "files.txt").read_text().splitlines())
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written - listed == {"tables/mine.md", "files.txt"}
    assert listed < written


def test_damaged_record_leaves_the_last_report_alone(builder: SweepBuilder) -> None:
    report = write_report(builder.storage, "quickstart")
    before = report.markdown.read_text()
    (builder.trial(0) / "record.json").write_text('{"schema": 1')
    with pytest.raises(RecordError, match=r"record\.json"):
        write_report(builder.storage, "quickstart")
    assert report.markdown.read_text() == before


def test_every_frame_is_a_file_beside_the_page(full: SweepBuilder) -> None:
    report = write_report(full.storage, "quickstart")
    assert {path.stem for path in (report.folder / "data").iterdir()} == set(FRAMES)
    assert len(pd.read_csv(report.folder / "data" / "curves.csv")) == 5 * 6 + 2 * 3 + 4


def test_the_policy_allows_the_scripts_of_the_page_and_no_other(full: SweepBuilder) -> None:
    html = write_report(full.storage, "quickstart").page.read_text()
    (policy,) = re.findall('Content-Security-Policy" content="([^"]+)"', html)
    allowed = re.findall("'(sha256-[^']+)'", policy)
    bodies = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    digests = [hashlib.sha256(body.encode()).digest() for body in bodies]
    assert allowed == [f"sha256-{base64.b64encode(digest).decode()}" for digest in digests]
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]


def test_several_sweeps_are_compared_in_one_page(full: SweepBuilder, tmp_path: Path) -> None:
    other = SweepBuilder(full.storage, "other")
    other.data()
    other.trial(0, curve=[1.0])
    other.row("ractd", [150.0, 152.0], key="rowother")
    report = write_report(full.storage, ["quickstart", "other", "other"], tmp_path / "both")
    page = _Page(report.page.read_text())
    for text in ("Comparison", "Sweep quickstart", "Sweep other", "other: local/maze2d-umaze-v1"):
        assert text in page.text
    assert page.fetched == ["#c1", "#c2", "#c3"]
    benchmark = pd.read_csv(report.benchmark_csv)
    assert set(benchmark["sweep"]) == {"quickstart", "other"}
    assert len(pd.read_csv(report.folder / "data" / "sweeps.csv")) == 2


def test_torn_lines_of_the_log_are_told(builder: SweepBuilder) -> None:
    assert "unreadable" not in write_report(builder.storage, "quickstart").page.read_text()
    (builder.folder / "events.jsonl").write_text('{"time": "2026\n')
    report = write_report(builder.storage, "quickstart")
    for text in (report.markdown.read_text(), _Page(report.page.read_text()).text):
        assert "unreadable lines of events.jsonl" in text
        assert "1; no score is made from it" in text


def test_several_sweeps_need_a_folder(full: SweepBuilder) -> None:
    SweepBuilder(full.storage, "other")
    with pytest.raises(ValueError, match="say where to write"):
        write_report(full.storage, ["quickstart", "other"])


def test_a_watched_page_reads_itself_again(builder: SweepBuilder) -> None:
    page = write_report(builder.storage, "quickstart", refresh=30).page
    assert '<meta http-equiv="refresh" content="30">' in page.read_text()


def test_the_winner_comes_with_commands_to_get_it_again(builder: SweepBuilder) -> None:
    folder = builder.trial(0, params={"student.optim.lr": 0.002})
    assert "Winners again" not in write_report(builder.storage, "quickstart").page.read_text()
    model = folder / "student-0" / "model.safetensors"
    model.parent.mkdir()
    model.touch()
    spec = {
        "name": "quickstart",
        "tasks": [builder.dataset, "local/maze2d-medium-v1"],
        "trials": 9,
        "search": {"sigma": {"low": 1e-5, "high": 1e-2, "log": True}},
        "first_trials": ["released"],
        "budget": {"hours": 2},
        "recipe": {"student": {"optim": {"steps": 20}}},
    }
    (builder.folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    report = write_report(builder.storage, "quickstart")
    text = _Page(report.page.read_text()).text
    assert f"ractd evaluate {model}" in text
    (written,) = report.folder.glob("winner-*.yaml")
    assert f"ractd sweep run {written} --storage {builder.storage}\n" in text
    alone = load_spec(str(written))
    assert (alone.name, alone.trials, len(alone.tasks)) == ("quickstart-winner-maze2d-umaze", 1, 1)
    assert alone.search == {
        "window.horizon": 160,
        "student.ctm_weight": 1.0,
        "student.dsm_weight": 1.0,
        "student.reward_weight": 1e-4,
        "student.optim.lr": 0.002,
    }
    assert alone.recipe == spec["recipe"]
    assert alone.budget.hours is None
    # Of a student that was chosen by its curve's best point those weights are the winner's.
    best = model.with_name("best.safetensors")
    best.touch()
    (builder.folder / "spec.yaml").write_text(
        yaml.safe_dump(spec | {"selection": {"rule": "best"}})
    )
    text = _Page(write_report(builder.storage, "quickstart").page.read_text()).text
    assert f"ractd evaluate {best}" in text
    assert f"ractd evaluate {model}" not in text


@pytest.mark.parametrize(
    ("folder", "expected"), [("storage", ""), ("my storage", " --storage '{}/my storage'")]
)
def test_the_winner_is_trained_into_the_storage_that_has_its_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, expected: str
) -> None:
    monkeypatch.setenv("RACTD_HOME", str(tmp_path))
    builder = SweepBuilder(tmp_path / folder)
    builder.trial(0)
    (builder.folder / "spec.yaml").write_text("tasks: []")
    (again,) = winners_again(load(builder.storage))
    (command,) = again.commands(Path("/reports"))
    assert command == f"ractd sweep run /reports/{again.spec_name}" + expected.format(tmp_path)


def test_a_spec_that_is_no_yaml_is_named(builder: SweepBuilder) -> None:
    builder.trial(0)
    (builder.folder / "spec.yaml").write_text("a: [1")
    with pytest.raises(RecordError, match=r"spec\.yaml: cannot be read as YAML"):
        write_report(builder.storage, "quickstart")


def test_pictures_without_kaleido_name_the_extra(
    full: SweepBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(PicturesError, match=r"pip install 'ractd\[pictures\]'"):
        write_report(full.storage, "quickstart", pictures="svg")
    assert not (full.folder / "report").exists()


def test_a_browser_that_does_not_start_leaves_a_whole_report(
    builder: SweepBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    builder.trial(0, curve=[1.0, 2.0])
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    with pytest.raises(PicturesError, match="no pictures"):
        write_report(builder.storage, "quickstart", pictures="svg")
    report = builder.folder / "report"
    for name in ("index.html", "report.md", "benchmark.csv"):
        assert (report / name).is_file()


def test_two_hundred_trials_fit_into_ten_megabytes(tmp_path: Path) -> None:
    write_trials(tmp_path, 200)
    report = write_report(tmp_path, "large")
    assert report.page.stat().st_size < 10e6


def test_a_parameter_may_be_a_list(builder: SweepBuilder) -> None:
    for number, widths in enumerate(([32, 64], None, [64, 64])):
        builder.trial(number, params={"student.network.widths": widths}, curve=[1.0, 2.0])
    (builder.folder / "spec.yaml").write_text("name: quickstart\n")
    report = write_report(builder.storage, builder.name)
    assert "[64, 64]" in report.markdown.read_text()
