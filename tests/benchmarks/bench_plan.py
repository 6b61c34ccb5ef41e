"""A plan against a real Ray: ``python -m tests.benchmarks.bench_plan [TRIALS] [SECONDS]``.

Runs a search of trials that only sleep, for different times, through the driver's own search, and
prints what the plan's simulation says of the same trials, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from sweeps.embedded_ray import embedded_ray, set_environment
from sweeps.layout import SweepFolder, TaskContext
from sweeps.plan import OVERHEAD
from sweeps.schedule import Phase, bounds, simulate
from sweeps.spec import parse_spec
from tests.benchmarks.bench_overhead import SLOTS, SPEC


def seconds(number: int, mean: float) -> float:
    """What trial ``number`` sleeps: a half to three halves of the mean, every tenth three times."""
    return mean * (0.5 + number % 5 / 4) * (3 if number % 10 == 9 else 1)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", nargs="?", type=int, default=60)
    parser.add_argument("mean", nargs="?", type=float, default=1.0)
    arguments = parser.parse_args()
    # Workers find this project where it was started, whatever is installed.
    os.environ["PYTHONPATH"] = str(Path.cwd())
    set_environment()
    from sweeps import driver

    mean = arguments.mean
    began: list[float] = []

    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        from tests.benchmarks.bench_plan import seconds
        from tests.sweeps.study import write_record

        time.sleep(seconds(config["number"], mean))
        tune.report({"step": 1, "score": 1.0})
        write_record(config, "completed", 1.0)

    class Measured(driver.Driver):
        """Notes when trials end."""

        def _announce(self, record: Any) -> None:
            super()._announce(record)
            began.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(driver, "_tune_trial", trial):
        folder = SweepFolder(Path(scratch), "overhead")
        spec = {**SPEC, "trials": arguments.trials}
        folder.freeze(parse_spec(yaml.safe_dump(spec), "the benchmark's spec"))
        measured = Measured(folder)
        context = TaskContext(folder, measured.spec, measured.spec.datasets()[0], "f" * 64)
        with embedded_ray(measured.spec.resources) as available:
            start = time.perf_counter()
            measured._search([context], available)
    jobs = [seconds(number, mean) for number in range(arguments.trials)]
    phase = Phase("search", jobs, SLOTS, OVERHEAD)
    # The first trials wait for their processes, which a plan of hours leaves out.
    warm = began[0] - start - min(jobs)
    taken = began[-1] - start - warm
    print(
        f"measured {taken:.1f} s after {warm:.1f} s of start, simulated {simulate(phase):.1f} s, "
    )
    print(
        f"at least {bounds(phase).most:.1f} s; measured / simulated {taken / simulate(phase):.2f}"
    )


if __name__ == "__main__":
    main()
