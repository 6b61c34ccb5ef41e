"""``python -m sweeps.drive STORAGE NAME``: the driver's process."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from filelock import FileLock, Timeout

from ractd_core.data.flat import DataError
from ractd_core.files import FileError, home, lacks_room
from sweeps.cli_errors import INTERRUPTED
from sweeps.embedded_ray import ResourceError, set_environment
from sweeps.layout import StorageError, SweepFolder
from sweeps.lease import LeaseHeldError
from sweeps.mirrored_sweep import driving
from sweeps.object_store import StoreAwayError
from sweeps.spec import SpecError


def main(storage: str, name: str) -> int:
    """Drive the sweep; returns the exit code: 0, 1 for an error, 130 when interrupted."""
    # Ray reads its environment when it is imported, which importing the driver does.
    set_environment()
    from sweeps.driver import Driver, TasksFailedError

    # A mirror is at the same path on every node.
    os.environ.setdefault("RACTD_HOME", str(home()))
    folder = SweepFolder(Path(storage), name)
    try:
        with FileLock(folder.path / "driver.lock", timeout=0), driving(folder.path):
            driver = Driver(folder)
            driver.ending.listen()
            with driver.progress.session():
                driver.run()
    except Timeout:
        return _end(f"sweep {name} is already being driven by another process")
    except LeaseHeldError as error:
        return _end(f"sweep {name} is {error}")
    except KeyboardInterrupt:
        return _end(f"interrupted; `{folder.command('resume')}` goes on from here", INTERRUPTED)
    except (ValueError, RuntimeError, OSError) as error:
        if lacks_room(error):
            return _end(
                f"error: storage {storage} is full, by its size or by a quota; free some, and "
                f"`{folder.command('resume')}` goes on from here"
            )
        known = StorageError | StoreAwayError | SpecError | DataError | FileError
        known |= ResourceError | TasksFailedError
        if not isinstance(error, known):
            traceback.print_exc()
        return _end(f"error: {error}")
    return 0


def _end(text: str, code: int = 1) -> int:
    print(text, file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
