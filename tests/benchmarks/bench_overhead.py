"""What a trial costs beside its own work: ``python -m tests.benchmarks.bench_overhead [TRIALS]``.

Runs a sweep of 2,000 trials of 50 ms, two at a time, through the driver's own search: Ray Tune, the
study, records, budget and heartbeats are real, only training is replaced by a pause and by what a
trial leaves behind. Prints time per trial and the driver's memory as trials accumulate;
``--profile FILE`` writes where its main thread spends its time, for ``python -m pstats FILE``.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import yaml

from sweeps.embedded_ray import embedded_ray, set_environment
from sweeps.layout import SweepFolder, TaskContext
from sweeps.ledger import Record
from sweeps.spec import parse_spec

SECONDS, SLOTS = 0.05, 2
MARKS = (250, 500, 1000, 1500, 2000)
SPEC: dict[str, Any] = {
    "name": "overhead",
    "tasks": ["local/maze2d-umaze-v1"],
    "search": {
        "horizon": {"choices": [128, 160]},
        "sigma": {"low": 1e-5, "high": 1e-2, "log": True},
        "alpha": {"low": 0.3, "high": 3.0, "log": True},
        "beta": {"low": 0.3, "high": 3.0, "log": True},
    },
    "first_trials": [],
    "resources": {"concurrent_trials": SLOTS},
}


def trial(config: dict[str, Any]) -> None:
    """A pause, one score, and a record as a real trial writes it."""
    from ray import tune

    from tests.sweeps.study import write_record

    time.sleep(SECONDS)
    values = config["values"]
    score = 100 - 1e4 * abs(values["student.reward_weight"] - 1e-3) - values["student.ctm_weight"]
    tune.report({"step": 1, "score": score})
    write_record(config, "completed", score)


def resident() -> float:
    """MB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="?", type=int, default=MARKS[-1])
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--profile", type=Path)
    arguments = parser.parse_args()
    # Workers find this project where it was started, whatever is installed.
    os.environ["PYTHONPATH"] = str(Path.cwd())
    set_environment()
    from sweeps import driver

    rows: list[dict[str, float]] = []

    class Measured(driver.Driver):
        """A driver that takes its own measure as records arrive."""

        done = 0

        def _announce(self, record: Record) -> None:
            super()._announce(record)
            self.done += 1
            if self.done in {1, *MARKS, arguments.trials}:
                taken = {"clock": time.perf_counter(), "cpu": time.process_time()}
                rows.append({"trials": self.done, **taken, "MB": resident()})
                print(rows[-1], file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(driver, "_tune_trial", trial):
        changes = {"trials": arguments.trials, "sampler": {"kind": arguments.sampler}}
        folder = SweepFolder(Path(scratch), "overhead")
        folder.freeze(parse_spec(yaml.safe_dump({**SPEC, **changes}), "the benchmark's spec"))
        measured = Measured(folder)
        context = TaskContext(folder, measured.spec, measured.spec.datasets()[0], "f" * 64)
        with embedded_ray(measured.spec.resources) as available:
            profile = cProfile.Profile()
            if arguments.profile:
                profile.enable()
            measured._search([context], available)
            if arguments.profile:
                profile.disable()
                profile.dump_stats(arguments.profile)
    print(table(rows).to_markdown(index=False, floatfmt=".1f"))


def table(rows: list[dict[str, float]]) -> pd.DataFrame:
    """Means between one mark and the next, the first row being where counting began."""
    found = pd.DataFrame(rows)
    steps = found.diff().iloc[1:]
    return pd.DataFrame(
        {
            "trials": found["trials"].iloc[1:],
            "ms per trial": 1e3 * steps["clock"] / steps["trials"],
            "of a slot, beside its 50 ms": 1e3
            * (SLOTS * steps["clock"] / steps["trials"] - SECONDS),
            "driver's CPU ms per trial": 1e3 * steps["cpu"] / steps["trials"],
            "driver MB": found["MB"].iloc[1:],
        }
    )


if __name__ == "__main__":
    main()
