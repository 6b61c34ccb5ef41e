"""Write a report on one or more sweeps: Markdown, CSV and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from analysis.chapters import comparison_chapter, sweep_chapter
from analysis.folder import replace_files
from analysis.markdown import chapters_markdown
from analysis.page import Page, render_page
from analysis.pictures import Format, check_pictures, picture_names, write_pictures
from analysis.records import Records, load
from analysis.schema import FRAMES
from analysis.table import files_of
from analysis.tables import benchmark_table, benchmark_terminal, trials_table
from analysis.tables_all import all_tables
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
    figures become files of that format too. Each file is replaced whole or not at all, and those of
    an earlier report that this one does not have are deleted. RecordError where a record cannot be
    read, PicturesError where pictures cannot be made, ValueError where several sweeps have no
    `out`.
    """
    chosen = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    if out is None and len(chosen) != 1:
        raise ValueError("several sweeps have no folder of their own; say where to write")
    if pictures is not None:
        check_pictures()
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
    report = Report(
        folder=folder,
        markdown=folder / "report.md",
        page=folder / "index.html",
        benchmark_csv=folder / "benchmark.csv",
        trials_csv=folder / "trials.csv",
        table="\n\n".join(map(benchmark_terminal, benchmarks)),
        headlines=tuple(line for chapter in chapters for line in chapter.headlines),
    )
    texts = _tables(chosen, sweeps, together, benchmarks) | {
        report.markdown.name: chapters_markdown(title, chapters),
        report.page.name: render_page(Page(title, written, chapters, refresh)),
    }
    drawn = [] if pictures is None else picture_names(chapters, pictures)
    replace_files(folder, texts, [f"figures/{name}" for name in drawn])
    # Last: what a browser does not draw leaves a report that is whole without it.
    if pictures is not None:
        write_pictures(folder / "figures", chapters, pictures)
    return report


def _tables(
    names: Sequence[str],
    sweeps: Sequence[Records],
    together: Records,
    benchmarks: Sequence[pd.DataFrame],
) -> dict[str, str]:
    """Every file beside the report itself: its text by its path in the folder."""
    specs = {
        winner.spec_name: winner.spec
        for sweep in sweeps
        for winner in winners_again(sweep)
        if winner.spec
    }
    tables = {
        f"tables/{name}": text
        for table in all_tables(together)
        for name, text in files_of(table).items()
    }
    return {
        "benchmark.csv": _named(names, benchmarks).to_csv(index=False),
        "trials.csv": _named(names, map(trials_table, sweeps)).to_csv(index=False),
        **specs,
        **tables,
        **{f"data/{name}.csv": getattr(together, name).to_csv(index=False) for name in FRAMES},
    }


def _named(names: Sequence[str], tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The tables of several sweeps as one, with the sweep's name first; of one as it is."""
    if len(names) == 1:
        return next(iter(tables))
    return pd.concat(
        [table.assign(sweep=name) for name, table in zip(names, tables, strict=True)]
    ).pipe(lambda frame: frame[["sweep", *frame.columns.drop("sweep")]])
