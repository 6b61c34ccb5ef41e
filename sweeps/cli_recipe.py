"""``ractd recipe``: what a task is trained with."""

from __future__ import annotations

import json
from typing import Annotated

import typer
import yaml

from ractd_core.recipes import Family, provenance, recipe_for
from ractd_core.tasks import get_task
from sweeps.cli_errors import user_errors


def recipe(
    task: Annotated[str, typer.Argument(help="A D4RL task, such as hopper-medium-v2.")],
    family: Annotated[
        Family, typer.Option(help="For a CPU, as the authors' code, or as the paper says.")
    ] = "small",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a task's hyper-parameters, to copy from into the `recipe` of a sweep's spec."""
    with user_errors():
        table = recipe_for(get_task(task), family).model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps(table, indent=1))
    else:
        typer.echo(f"# {task}, {family}: {provenance(get_task(task), family)}")
        text = yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=120)
        typer.echo(text, nl=False)
