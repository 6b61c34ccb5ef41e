"""What sharing teachers saves, and what a second node gives.

``python -m tests.benchmarks.bench_sharing FOLDER [sharing | nodes]`` runs tiny sweeps of a
generated maze in FOLDER. ``sharing``: 40 students over three horizons; device time as recorded,
against the same trials with a teacher and a reward model each. ``nodes``: the same number of equal
trials on a Ray cluster of one node, and of two, with one CPU each on this machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from ractd_core.config import merged
from sweeps.budget import device_seconds
from sweeps.embedded_ray import set_environment
from sweeps.jsonl import read_rows
from sweeps.layout import SweepFolder
from sweeps.spec import parse_spec

TRIALS, HORIZONS = 40, (64, 96, 128)
SPEC: dict[str, Any] = {
    "name": "sharing",
    "tasks": ["local/maze2d-umaze-v1"],
    "data": {"transitions": 20_000},
    "trials": TRIALS,
    "search": {
        "horizon": {"choices": list(HORIZONS)},
        "sigma": {"low": 1e-5, "high": 1e-2, "log": True},
    },
    "first_trials": [],
    "rows": [],
    # In the proportions of the quickstart, at a twentieth of its length.
    "recipe": {
        "teacher": {"optim": {"steps": 30}},
        "reward": {"optim": {"steps": 30}},
        "student": {"optim": {"steps": 10}},
    },
    "evaluation": {"every": 10, "episodes": 2, "selection_episodes": 2, "final_episodes": 2},
    "selection": {"confirmation_episodes": 2},
    "pruner": {"kind": "none"},
    "sampler": {"kind": "random"},
}


def run(folder: Path, address: str | None = None, **changes: Any) -> SweepFolder:
    """Run a sweep to its end, on a cluster of that address or a Ray of its own."""
    spec = parse_spec(yaml.safe_dump({**SPEC, **changes}), "the benchmark's spec")
    sweep = SweepFolder(folder / "storage", spec.name)
    sweep.freeze(spec)
    environment = os.environ | ({"RAY_ADDRESS": address} if address else {})
    command = [sys.executable, "-m", "sweeps.drive", str(sweep.storage), sweep.name]
    subprocess.run(command, env=environment, check=True)
    return sweep


def sharing(folder: Path) -> None:
    """Print which stages were built, and device time with and without sharing them."""
    sweep = run(folder)
    records = list(sweep.trials)
    built = [row for row in read_rows(sweep.path / "events.jsonl") if row.get("state") == "built"]
    times = Counter(row["name"] for row in built)
    asked = {name for record in records for name in record["stages"].values()}
    print(f"{len(records)} trials ask for {len(asked)} stages; built: {dict(times)}")
    assert len(records) == TRIALS
    assert set(times) == asked
    assert set(times.values()) == {1}, "a stage was built twice"
    assert {path.name for path in sweep.store.root.glob("*-*")} == asked
    cost = {row["name"]: row["device_seconds"] for row in built}
    students = sum(map(device_seconds, records))
    shared = students + sum(cost.values())
    alone = students + sum(cost[name] for r in records for name in r["stages"].values())
    print(
        f"device time: {shared:.0f} s shared, {alone:.0f} s alone: {alone / shared:.1f} times less"
    )


def nodes(folder: Path) -> None:
    """Print how long the same trials take on one node and on two."""
    set_environment()
    from ray.cluster_utils import Cluster

    # Data and stages first, so that trials alone are timed.
    run(folder, name="stages", trials=1, search=_equal())
    seconds = []
    for count in (1, 2):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            for _ in range(count - 1):
                cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
            recipe = merged(SPEC["recipe"], {"student": {"optim": {"steps": 60}}})
            changes = {"name": f"nodes{count}", "recipe": recipe, "trials": 12, "search": _equal()}
            sweep = run(folder, cluster.address, **changes)
        finally:
            cluster.shutdown()
        seconds.append(_searched(read_rows(sweep.path / "events.jsonl")))
        print(f"{count} nodes: {seconds[-1]:.0f} s")
    print(f"efficiency of two nodes: {seconds[0] / seconds[1] / 2:.0%}")


def _equal() -> dict[str, Any]:
    return {"horizon": {"choices": [128]}, "sigma": SPEC["search"]["sigma"]}


def _searched(events: list[dict[str, Any]]) -> float:
    """Seconds from the search's beginning to its last trial's end."""
    begun = next(row for row in events if row.get("text", "").endswith("trials at once"))
    ended = [row for row in events if row["kind"] == "trial"][-1]
    gap = datetime.fromisoformat(ended["time"]) - datetime.fromisoformat(begun["time"])
    return gap.total_seconds()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=("sharing", "nodes"), nargs="?", default="sharing")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    # Drivers inherit these, and so do the nodes of a cluster and their workers.
    os.environ["RACTD_HOME"] = str(folder / "home")
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "datasets")
    os.environ["PYTHONPATH"] = str(Path.cwd())
    {"sharing": sharing, "nodes": nodes}[arguments.what](folder)


if __name__ == "__main__":
    main()
