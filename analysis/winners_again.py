"""How to get each dataset's winner again: play it, or train it from the data on."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.confirmation import winners
from analysis.document import RecordError
from analysis.published import base_task
from analysis.records import Records
from analysis.schema import PARAM_PREFIX, WEIGHTS
from analysis.tables import SYMBOLS
from ractd_core.files import home

_SEARCH_ONLY = ("search", "first_trials", "sampler", "pruner", "budget", "selection")
"""What a spec says of a search alone, and one trial has no use for."""


@dataclass(frozen=True)
class Again:
    """A winner: which trial it is, the commands that play it, and a spec that trains it alone.

    `models` are the files of its students, one per training seed; `spec` is empty where the
    sweep's own is not there.
    """

    storage: Path
    dataset: str
    number: int
    settings: str
    models: tuple[Path, ...]
    spec_name: str
    spec: str

    def commands(self, folder: Path) -> tuple[str, ...]:
        """The lines for a shell, with the spec in `folder`."""
        play = [f"ractd evaluate {shlex.quote(str(model))}" for model in self.models]
        train = f"ractd sweep run {shlex.quote(str(folder / self.spec_name))}"
        if self.storage != home() / "storage":
            # of the same stages, so that the teacher is there already
            train += f" --storage {shlex.quote(str(self.storage))}"
        return (*play, *([train] if self.spec else []))


def winners_again(sweep: Records) -> tuple[Again, ...]:
    """Each dataset's winner; RecordError where the sweep's spec cannot be read."""
    spec = read_spec(sweep)
    return tuple(_again(sweep, spec, line) for line in winners(sweep).to_dict("records"))


def spec_text(sweep: Records) -> str:
    """The sweep's spec as it was run; empty where it is not there."""
    path = sweep.folder / "spec.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def read_spec(sweep: Records) -> Mapping[str, Any]:
    """The same, parsed; none where it is not there, RecordError where it cannot be read."""
    path = sweep.folder / "spec.yaml"
    if not path.is_file():
        return {}
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecordError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(spec, dict):
        raise RecordError(f"{path}: found {type(spec).__name__}, expected a mapping")
    return spec


def _again(sweep: Records, spec: Mapping[str, Any], line: Mapping[Any, Any]) -> Again:
    folder = sweep.folder / "trials" / line["key"]
    params = {"horizon": int(line["horizon"]), **{weight: line[weight] for weight in WEIGHTS}}
    for name, value in line.items():
        if name.startswith(PARAM_PREFIX) and (isinstance(value, list) or not pd.isna(value)):
            params[name.removeprefix(PARAM_PREFIX)] = value
    slug = re.sub(r"[^A-Za-z0-9-]+", "-", line["dataset"]).strip("-")
    kept = {name: value for name, value in spec.items() if name not in _SEARCH_ONLY}
    alone = kept | {
        # a sweep's name has at most 64 characters
        "name": f"{sweep.name[:32]}-winner-{base_task(line['task'])[:23]}",
        "tasks": [line["dataset"]],
        "trials": 1,
        "search": params,
    }
    return Again(
        storage=sweep.folder.absolute().parents[1],
        dataset=line["dataset"],
        number=int(line["number"]),
        settings=", ".join(
            f"{SYMBOLS.get(name, name)} = {value:g}"
            if isinstance(value, int | float)
            else f"{SYMBOLS.get(name, name)} = {value}"
            for name, value in params.items()
        ),
        models=tuple(sorted(folder.glob(f"student-*/{_weights(spec)}.safetensors"))),
        spec_name=f"winner-{sweep.name}-{slug}.yaml",
        # through JSON, so that numbers of numpy become plain ones
        spec=yaml.safe_dump(json.loads(json.dumps(alone, default=_plain)), sort_keys=False)
        if spec
        else "",
    )


def _weights(spec: Mapping[str, Any]) -> str:
    """Which of a student's files was selected: its last weights, or those that scored best."""
    rule = (spec.get("selection") or {}).get("rule")
    return "best" if rule == "best" else "model"


def _plain(value: Any) -> Any:
    return value.item()
