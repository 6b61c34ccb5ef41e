"""``ractd report``: tables, figures and one page from the records of sweeps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from ractd_core.files import write_text
from sweeps.cli_errors import user_errors
from sweeps.jobs import goes_on, is_lost, state_of
from sweeps.layout import StorageError, SweepFolder, open_sweep, storage_path

if TYPE_CHECKING:
    from analysis.report import Report

_LOOK, _REFRESH = 15.0, 30
"""Seconds between two writings of a watched report, and between two readings of its page."""

Storage = Annotated[str | None, typer.Option(help="Folder of stages and sweeps.")]


class _WriteByDefault(TyperGroup):
    """What is no subcommand is a sweep to report on: `report NAME` is `report write NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["write", *args]
        return super().parse_args(ctx, args)


report_app = typer.Typer(cls=_WriteByDefault)


@report_app.command("write")
def write(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="One sweep or several.")],
    storage: Storage = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; of one sweep by default its own folder `report`."),
    ] = None,
    watch: Annotated[
        bool, typer.Option(help="Write it again every few seconds until the sweeps have ended.")
    ] = False,
    pictures: Annotated[
        Literal["svg", "pdf", "png"] | None,
        typer.Option(help="Write the figures as files too; the extra of that name."),
    ] = None,
) -> None:
    """Write tables (Markdown, LaTeX, CSV), figures and one HTML page from sweeps' records.

    `ractd report diff A B` compares two sweeps: settings, scores, cost.
    """
    from analysis import write_report

    with user_errors():
        names = list(dict.fromkeys(names))
        root = storage_path(storage)
        if _means_diff(names, root) and not (watch or pictures):
            diff(names[1], names[2], storage, out)
            return
        if out is None and len(names) > 1:
            raise StorageError("a report on several sweeps needs a folder of its own: --out DIR")
        target = None if out is None else out.expanduser().absolute()
        folders = [SweepFolder(root, name) for name in names]

        def once(refresh: int) -> Report:
            for name in names:
                open_sweep(storage, name)
            return write_report(root, names, target, refresh=refresh, pictures=pictures)

        try:
            while watch and any(map(goes_on, folders)):
                typer.echo(f"{time.strftime('%H:%M:%S')} {once(_REFRESH).page}")
                time.sleep(_LOOK)
        except KeyboardInterrupt:
            # Nobody writes the page any more, so it must not go on reading itself.
            once(0)
            raise
        # After the last look at the driver: what it wrote until then is not missed.
        written = once(0)
    typer.echo(written.table)
    typer.echo("")
    for line in written.headlines:
        typer.echo(line)
    for folder in folders:
        if watch and is_lost(folder):
            typer.echo(f"\n{folder.name}: {state_of(folder)}; `{folder.command('resume')}` goes on")
    typer.echo(f"\nreport: {written.page}")


@report_app.command("diff")
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A sweep.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one of the same storage.")],
    storage: Storage = None,
    out: Annotated[Path | None, typer.Option(help="A Markdown file to write to.")] = None,
) -> None:
    """Compare two sweeps: scores, settings, versions and cost, B less A."""
    from analysis.comparison import compare

    with user_errors():
        opened = [open_sweep(storage, name) for name in (first, second)]
        text = compare(opened[0].storage, first, second)
        if out is None:
            typer.echo(text)
        else:
            write_text(out.expanduser().absolute(), text)
            typer.echo(f"comparison: {out}")


def _means_diff(names: Sequence[str], storage: Path) -> bool:
    """Whether options stood before the word `diff`, so that it was taken for a sweep's name."""
    return len(names) == 3 and names[0] == "diff" and not SweepFolder(storage, "diff").path.exists()
