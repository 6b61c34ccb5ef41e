"""Write a sweep's report: Markdown, CSV and one self-contained HTML page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.confirmation import NOTE as CONFIRMATION_NOTE
from analysis.confirmation import confirmation_text
from analysis.diagnostics import NOTE as DIAGNOSTICS_NOTE
from analysis.diagnostics import diagnostics_failures, diagnostics_table, diagnostics_text
from analysis.figures.returns import plot_returns, returns_info
from analysis.figures.stability import plot_stability, stability_info
from analysis.page import Panel, Section, render_page
from analysis.protocol import protocol_lines
from analysis.records import Sweep, load_sweep
from analysis.summary import failure_lines, headlines
from analysis.tables import (
    PUBLISHED,
    benchmark_table,
    benchmark_terminal,
    benchmark_text,
    to_markdown,
    trials_table,
    trials_text,
)

_BENCHMARK_NOTE = (
    "Scores are means with a 95 % interval, over training seeds where there are several and else "
    "over episodes. α, β, σ weight the "
    "consistency, denoising and reward losses; network calls are the denoiser's, ∇R gradients of "
    "the reward model beside them, and both and the latency those of one plan (mazes) or one "
    "executed action; a name such as teacher:ddim-20 or ractd:2 says by which sampler and in how "
    "many calls."
)
_TRIALS_NOTE = "Scores of the search, on the seeds that trials were selected with."
_NO_TRIALS = "No trial has finished yet."


@dataclass(frozen=True)
class Report:
    """Where a report was written, and its benchmark table and headlines for a terminal."""

    folder: Path
    markdown: Path
    page: Path
    benchmark_csv: Path
    trials_csv: Path
    table: str
    headlines: tuple[str, ...]


def write_report(storage: Path, name: str, out: Path | None = None) -> Report:
    """Report on the sweep `name` into `out`, by default the sweep's own folder `report`.

    Each file is replaced whole or not at all. RecordError where a record cannot be read.
    """
    sweep = load_sweep(storage, name)
    folder = sweep.folder / "report" if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    benchmark, trials = benchmark_table(sweep), trials_table(sweep)
    lines = headlines(sweep, benchmark)
    report = Report(
        folder=folder,
        markdown=folder / "report.md",
        page=folder / "index.html",
        benchmark_csv=folder / "benchmark.csv",
        trials_csv=folder / "trials.csv",
        table=benchmark_terminal(benchmark),
        headlines=lines,
    )
    _write(report.benchmark_csv, benchmark.to_csv(index=False))
    _write(report.trials_csv, trials.to_csv(index=False))
    _write(report.markdown, _markdown(sweep, lines, to_markdown(benchmark_text(benchmark)), trials))
    _write(report.page, _page(sweep, lines, benchmark, trials))
    return report


def _markdown(sweep: Sweep, lines: tuple[str, ...], table: str, trials: pd.DataFrame) -> str:
    failures = failure_lines(sweep)
    parts = [
        f"# Sweep {sweep.name}",
        _bullets(lines),
        "## Benchmark",
        table,
        _BENCHMARK_NOTE,
        "## How to read the numbers",
        _bullets(protocol_lines(sweep)),
        *(["## Failures", _bullets(failures)] if failures else []),
        *_markdown_section(_confirmation_section(sweep)),
        *_markdown_section(_diagnostics_section(sweep)),
        "## Trials",
        _NO_TRIALS if trials.empty else f"{to_markdown(trials_text(trials))}\n\n{_TRIALS_NOTE}",
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_section(section: Section | None) -> list[str]:
    if section is None:
        return []
    note = section.note.replace("<", "&lt;")
    return [f"## {section.title}", to_markdown(section.table), note]


def _confirmation_section(sweep: Sweep) -> Section | None:
    """The candidates that were played again; None if none was."""
    if sweep.confirmations.empty:
        return None
    return Section("Confirmation", CONFIRMATION_NOTE, confirmation_text(sweep.confirmations))


def _diagnostics_section(sweep: Sweep) -> Section | None:
    """The winners' diagnostics; None if none was diagnosed."""
    table = diagnostics_table(sweep)
    if table.empty:
        return None
    note = f"{diagnostics_failures(table)} {DIAGNOSTICS_NOTE}".strip()
    return Section("Diagnostics", note, diagnostics_text(table))


def _bullets(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {line.replace('<', '&lt;')}" for line in lines)


def _page(
    sweep: Sweep, lines: tuple[str, ...], benchmark: pd.DataFrame, trials: pd.DataFrame
) -> str:
    published = frozenset(
        place for place, method in enumerate(benchmark["method"]) if method == PUBLISHED
    )
    further = (_confirmation_section(sweep), _diagnostics_section(sweep))
    return render_page(
        name=sweep.name,
        created=sweep.created,
        headlines=lines,
        failures=failure_lines(sweep),
        protocol=protocol_lines(sweep),
        sections=[
            Section("Benchmark", _BENCHMARK_NOTE, benchmark_text(benchmark), published),
            *(section for section in further if section is not None),
            Section("Trials", _NO_TRIALS if trials.empty else _TRIALS_NOTE, trials_text(trials)),
        ],
        panels=[panel for dataset in sweep.datasets for panel in _panels(sweep, dataset)],
    )


def _panels(sweep: Sweep, dataset: str) -> list[Panel]:
    panels = []
    stability = stability_info(sweep, dataset)
    if stability.lines:
        caption = "One line per trial, coloured by the reward weight σ."
        if stability.without_curve:
            caption += f" Not drawn, having no score: {stability.without_curve}."
        width = max(340, 260 * len(stability.horizons))
        panels.append(Panel(f"Training of {dataset}", caption, plot_stability(stability), width))
    returns = returns_info(sweep, dataset)
    if returns.groups:
        caption = (
            "Share of episodes (for the data, its own) by normalized return; click a row's entry "
            "to see it."
        )
        panels.append(Panel(f"Returns on {dataset}", caption, plot_returns(returns), 340))
    return panels


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
