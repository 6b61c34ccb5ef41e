"""Ten thousand trials, loaded in a process of its own: time, memory, and what was imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.analysis.generated import write_trials

_LOAD = """
import json, resource, sys, time
import analysis

times = []
for _ in range(2):
    wall, work = time.perf_counter(), time.process_time()
    records = analysis.load(sys.argv[1])
    times.append((time.perf_counter() - wall, time.process_time() - work))
found = {
    "wall_s": min(wall for wall, _ in times),
    "cpu_s": min(work for _, work in times),
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "lines": [len(records.trials), len(records.curves), len(records.episodes)],
    "imported": sorted({"torch", "ray", "optuna", "gymnasium"} & set(sys.modules)),
}
print(json.dumps(found))
"""


@pytest.mark.slow
def test_ten_thousand_trials_load_in_seconds(tmp_path: Path) -> None:
    write_trials(tmp_path, 10_000)
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", _LOAD, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(run.stdout)
    print(found)
    assert found["lines"] == [10_000, 100_000, 250_000]
    assert found["imported"] == []
    # Processor time: how long it takes by the clock depends on what else the machine does.
    assert found["cpu_s"] < 5
    assert found["peak_mb"] < 1000
