"""``python -m sweeps.launch SPEC STORAGE``: a whole sweep in one process, as a cluster's job.

Beside the spec lies ``versions.json``, what the sweep was submitted with. Run again with the same
arguments it goes on from where it is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import typer

from sweeps.cli_errors import user_errors
from sweeps.drive import main as drive
from sweeps.embedded_ray import set_environment
from sweeps.jobs import check_undriven
from sweeps.layout import SweepFolder, check_storage
from sweeps.preflight import PASSED, preflight
from sweeps.spec import parse_spec


def main(spec: str, storage: str) -> int:
    """Preflight, freeze the spec in the storage, and drive the sweep.

    Returns 2 for what the user can do something about before the sweep begins, else as
    :mod:`sweeps.drive`.
    """
    set_environment()

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        with user_errors():
            folder = _begin(Path(spec), storage)
    except typer.Exit as ended:
        return ended.exit_code
    return drive(str(folder.storage), folder.name)


def _begin(spec: Path, storage: str) -> SweepFolder:
    checked = parse_spec(spec.read_text(encoding="utf-8"), str(spec))
    folder = SweepFolder(check_storage(storage), checked.name)
    if "RAY_ADDRESS" in os.environ:
        # Every node has to see the data, and the storage is what all of them see.
        os.environ.setdefault("MINARI_DATASETS_PATH", str(folder.storage / "datasets"))
        expected = json.loads(spec.with_name("versions.json").read_text())
        lines = preflight(checked.resources, folder.storage, expected)
    else:
        lines = [f"{PASSED}: the sweep runs on this machine alone"]
    folder.freeze(checked)
    check_undriven(folder)
    for line in lines:
        typer.echo(line)
    return folder


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
