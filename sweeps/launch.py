"""``python -m sweeps.launch SPEC STORAGE``: a whole sweep in one process, as a cluster's job.

Run again with the same arguments it goes on from where it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sweeps.cli_errors import user_errors


def main(spec: str, storage: str) -> int:
    """Freeze the spec in the storage and drive the sweep; exit code as :mod:`sweeps.drive`."""
    from sweeps.embedded_ray import set_environment

    set_environment()
    from sweeps.drive import main as drive
    from sweeps.layout import SweepFolder, check_storage
    from sweeps.spec import parse_spec

    with user_errors():
        checked = parse_spec(Path(spec).read_text(encoding="utf-8"), spec)
        folder = SweepFolder(check_storage(storage), checked.name)
        folder.freeze(checked)
        return drive(str(folder.storage), folder.name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
