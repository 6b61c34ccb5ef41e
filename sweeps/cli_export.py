"""``ractd export``: a trained policy as files that run without this project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli_errors import user_errors


def export(
    model: Annotated[Path, typer.Argument(help="A student's or regression's model.safetensors.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must be new or empty.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="onnx or torch (torch.export); repeat it for both. Default both."
        ),
    ] = None,
    calls: Annotated[
        int | None, typer.Option(min=1, help="Network calls per plan or action; default 1.")
    ] = None,
    executed: Annotated[
        int, typer.Option(min=1, help="Actions of a window that are executed before the next.")
    ] = 1,
    score: Annotated[
        Path | None, typer.Option(help="What `ractd evaluate MODEL --json` printed, for the card.")
    ] = None,
) -> None:
    """Write a policy as ONNX and torch.export, with a card that says how to use it."""
    from ractd_core.export import CARD, FILES, export_policy

    with user_errors():
        card = export_policy(
            model,
            out,
            formats=formats or tuple(FILES),
            calls=calls,
            executed_actions=executed,
            score=score,
        )
    for about in card["files"].values():
        typer.echo(
            f"{out / about['file']}: differs from the planner by "
            f"{about['largest_difference']:.1e} of the data's range at most"
        )
    inputs = card["inputs"]
    shapes = [f"{name} {tuple(inputs[name]['shape'])}" for name in inputs]
    windows = tuple(card["outputs"]["windows"]["shape"])
    typer.echo(f"{out / CARD}: {', '.join(shapes)} -> windows {windows}".replace("'", ""))
