"""Write a report on one or more sweeps: Markdown, CSV and one self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from analysis.chapters import comparison_chapter, sweep_chapter
from analysis.markdown import chapters_markdown
from analysis.page import Page, render_page
from analysis.pictures import Format, write_pictures
from analysis.records import load
from analysis.schema import FRAMES
from analysis.tables import benchmark_table, benchmark_terminal, trials_table
from analysis.tables_all import write_tables
from analysis.winners_again import winners_again


@dataclass(frozen=True)
class Report:
    """Where a report was written, and its benchmark tables and headlines for a terminal."""

    folder: Path
    markdown: Path
    page: Path
    benchmark_csv: Path
    trials_csv: Path
    table: str
    headlines: tuple[str, ...]


def write_report(
    storage: Path,
    names: str | Sequence[str],
    out: Path | None = None,
    refresh: int = 0,
    pictures: Format | None = None,
) -> Report:
    """Report on the sweeps `names` into `out`, of one by default into its own folder `report`.

    With `refresh` an open page reads itself again after so many seconds; with `pictures` the
    figures become files of that format too. Each file is replaced whole or not at all. RecordError
    where a record cannot be read, PicturesError where pictures cannot be made, ValueError where
    several sweeps have no `out`.
    """
    chosen = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    if out is None and len(chosen) != 1:
        raise ValueError("several sweeps have no folder of their own; say where to write")
    sweeps = [load(storage, [name]) for name in chosen]
    folder = sweeps[0].folder / "report" if out is None else out
    benchmarks = [benchmark_table(sweep) for sweep in sweeps]
    chapters = [
        sweep_chapter(sweep, benchmark, folder)
        for sweep, benchmark in zip(sweeps, benchmarks, strict=True)
    ]
    if len(chosen) > 1:
        together = load(storage, chosen)
        chapters.insert(0, comparison_chapter(together, sweeps, benchmarks))
    else:
        together = sweeps[0]
    title = f"Sweep {chosen[0]}" if len(chosen) == 1 else f"Sweeps {', '.join(chosen)}"
    written = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    report = Report(
        folder=folder,
        markdown=folder / "report.md",
        page=folder / "index.html",
        benchmark_csv=folder / "benchmark.csv",
        trials_csv=folder / "trials.csv",
        table="\n\n".join(map(benchmark_terminal, benchmarks)),
        headlines=tuple(line for chapter in chapters for line in chapter.headlines),
    )
    _write(report.benchmark_csv, _named(chosen, benchmarks).to_csv(index=False))
    _write(report.trials_csv, _named(chosen, map(trials_table, sweeps)).to_csv(index=False))
    for winner in (winner for sweep in sweeps for winner in winners_again(sweep)):
        if winner.spec:
            _write(folder / winner.spec_name, winner.spec)
    write_tables(together, folder / "tables")
    for name in FRAMES:
        _write(folder / "data" / f"{name}.csv", getattr(together, name).to_csv(index=False))
    if pictures is not None:
        write_pictures(folder / "figures", chapters, pictures)
    _write(report.markdown, chapters_markdown(title, chapters))
    _write(report.page, render_page(Page(title, written, chapters, refresh)))
    return report


def _named(names: Sequence[str], tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The tables of several sweeps as one, with the sweep's name first; of one as it is."""
    if len(names) == 1:
        return next(iter(tables))
    return pd.concat(
        [table.assign(sweep=name) for name, table in zip(names, tables, strict=True)]
    ).pipe(lambda frame: frame[["sweep", *frame.columns.drop("sweep")]])


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
