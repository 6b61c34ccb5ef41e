"""A sweep whose driver is killed again and again: ``python -m tests.benchmarks.kill_test FOLDER``.

Twelve trials of two tasks, killed with -9 at 25 random moments (``--seed`` draws others) and
started again each time, a quarter of an hour or more. In the end every trial must have one record,
written once and never again, study and ledger must agree, every stage must have been built once,
from its checkpoint where it was interrupted, and no process may be left. Linux only: processes are
found through ``/proc``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
import uuid
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps.jsonl import read_rows
from sweeps.layout import SweepFolder
from sweeps.spec import SweepSpec, parse_spec
from tests.sweeps.conftest import TINY

TASKS = ("local/maze2d-umaze-v1", "local/maze2d-medium-v1")
SPEC: dict[str, Any] = TINY | {
    "name": "killed",
    "tasks": list(TASKS),
    "data": {"transitions": 20_000},
    "trials": 6,
    # Long enough that a kill can meet them.
    "recipe": {
        part: config | {"optim": config["optim"] | {"steps": 100}}
        for part, config in TINY["recipe"].items()
    },
    # So that every trial has to complete.
    "pruner": {"kind": "none"},
}
MOMENTS = {
    "driver": "nothing",
    "data": "sweeps/killed/data/*.json",
    "stage": "stages/.building/*/metrics.jsonl",
    "student": "sweeps/killed/trials/*/curve.jsonl",
    "record": "sweeps/killed/trials/*/record.json",
    "row": "sweeps/killed/rows/*/record.json",
}
"""Kinds of moments, by the files whose next change they follow."""
PHASES: tuple[dict[str, int], ...] = (
    {"data": 2, "stage": 4, "driver": 2},
    {"student": 9, "record": 3, "driver": 3},
    {"row": 2},
)
"""How many of each kind in which part of the sweep; within a part their order is drawn."""
FOREVER = ("sweeps/killed/*/*/record.json", "stages/*-*/manifest.json")
"""What is never written again once it is there."""
PATIENCE = 600.0
MARK = "RACTD_KILL_TEST"


class Sweep:
    """The sweep's folder and its driver's process, of which there is one at a time."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.mark = folder / "storage", uuid.uuid4().hex
        self.folder = SweepFolder(self.storage, SPEC["name"])
        self.spec: SweepSpec = parse_spec(yaml.safe_dump(SPEC), "the kill test's spec")
        self.folder.freeze(self.spec)
        self._environment = os.environ | {
            "RACTD_HOME": str(folder / "home"),
            "MINARI_DATASETS_PATH": str(folder / "datasets"),
            "PYTHONPATH": str(Path.cwd()),
            MARK: self.mark,
        }
        self._log = (folder / "driver.log").open("a")
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the driver as the command does."""
        command = [sys.executable, "-u", "-m", "sweeps.drive", str(self.storage), SPEC["name"]]
        self.driver = subprocess.Popen(
            command, env=self._environment, stdout=self._log, stderr=self._log
        )
        return self.driver

    def state(self, pattern: str) -> dict[Path, tuple[int, int]]:
        """Which files there are, by what changes when one is written again."""
        found = {}
        for path in self.storage.glob(pattern):
            try:
                about = path.stat()
            except FileNotFoundError:  # renamed into place this moment
                continue
            found[path] = (about.st_ino, about.st_mtime_ns)
        return found

    def finished(self) -> dict[Path, tuple[int, int]]:
        """The state of what is never written again."""
        return self.state(FOREVER[0]) | self.state(FOREVER[1])

    def processes(self) -> dict[int, str]:
        """Processes of any driver of this sweep that are still there, by the mark they inherit."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() not in (folder / "environ").read_bytes():
                    continue
                if ") Z " in (folder / "stat").read_text():
                    continue
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found[int(folder.name)] = command
        return found


def kill(sweep: Sweep, kind: str, delay: float) -> str | None:
    """Start the driver and kill it at the moment; None if it ended before."""
    pattern = MOMENTS[kind]
    before = sweep.state(pattern)
    driver = sweep.start()
    began = time.monotonic()
    if kind == "driver":
        # Anything from imports to Ray's start and beyond.
        delay *= 20
    else:
        while sweep.state(pattern) == before and driver.poll() is None:
            if time.monotonic() - began > PATIENCE:
                raise TimeoutError(f"no {kind} within {PATIENCE:.0f} s; see driver.log")
            time.sleep(0.02)
    time.sleep(delay)
    if driver.poll() is not None:
        if driver.returncode != 0:
            raise RuntimeError(f"the driver ended with {driver.returncode}; see driver.log")
        return None
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return f"{kind} + {delay:.1f} s, {time.monotonic() - began:.0f} s after its start"


def check(sweep: Sweep, seen: dict[Path, tuple[int, int]]) -> list[str]:
    """What is not as it must be after the last driver has ended; empty if all is well."""
    problems = []
    now = sweep.finished()
    problems += [f"{path} was written again" for path in seen if now.get(path) != seen[path]]
    records = list(sweep.folder.trials)
    states = Counter((record["dataset"], record["status"]) for record in records)
    expected = {(task, "completed"): SPEC["trials"] for task in TASKS}
    if states != expected:
        problems.append(f"records: {dict(states)}, expected {expected}")
    for record in records:
        steps = [
            row["step"]
            for row in read_rows(sweep.folder.trials.folder(record["key"]) / "curve.jsonl")
        ]
        if steps != list(range(10, 101, 10)):
            problems.append(f"{record['key']}: the curve's steps are {steps}")
    for task in TASKS:
        problems += study_problems(sweep, task, records)
    stages = [path.parent for path in now if path.name == "manifest.json"]
    kinds = Counter(path.name.partition("-")[0] for path in stages)
    # Two horizons share a task's reward model.
    if {kind: kinds[kind] for kind in ("reward", "teacher")} != {"reward": 2, "teacher": 4}:
        problems.append(f"stages: {dict(kinds)}")
    for stage in stages:
        steps = [row["step"] for row in read_rows(stage / "metrics.jsonl")]
        if steps != list(range(10, 101, 10)):
            problems.append(f"{stage.name}: reported at {steps}")
    deadline = time.monotonic() + 30
    while sweep.processes() and time.monotonic() < deadline:
        time.sleep(0.5)
    problems += [f"process {pid} is left: {line}" for pid, line in sweep.processes().items()]
    return problems


def study_problems(sweep: Sweep, task: str, records: list[dict[str, Any]]) -> list[str]:
    """Where the study and the records of a task do not agree."""
    name = task.partition("/")[2]
    path = sweep.folder.path / "studies" / f"{name}.journal"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = JournalStorage(JournalFileBackend(str(path)))
    trials = optuna.load_study(study_name=None, storage=storage).get_trials()
    # Half suggestions that a kill interrupted are failures without a record.
    left = [t.state.name for t in trials if t.state.name not in ("COMPLETE", "FAIL")]
    told = sorted(t.value for t in trials if t.state.name == "COMPLETE")
    scores = sorted(r["selection"]["score"] for r in records if r["dataset"] == task)
    problems = [f"{task}: the study has trials {left}"] if left else []
    return problems + ([] if told == scores else [f"{task}: study {told}, ledger {scores}"])


def main() -> int:
    """Kill, start again, check and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    sweep = Sweep(arguments.folder.absolute())
    rng = random.Random(arguments.seed)
    kinds = [
        kind
        for phase in PHASES
        for kind in rng.sample(list(phase), k=sum(phase.values()), counts=list(phase.values()))
    ]
    seen: dict[Path, tuple[int, int]] = {}
    made = 0
    for kind in kinds:
        killed = kill(sweep, kind, rng.uniform(0, 1))
        if killed is None:
            print(f"the sweep ended before its next kill ({kind})", flush=True)
            continue
        made += 1
        now = sweep.finished()
        again = [path for path in seen if now.get(path) != seen[path]]
        print(
            f"kill {made}: {killed}; {len(list(sweep.folder.trials))} records, "
            f"{len(list(sweep.folder.rows))} rows, {len(sweep.state(FOREVER[1]))} stages",
            *(f"WRITTEN AGAIN: {path}" for path in again),
            flush=True,
        )
        seen = now | seen
    if sweep.start().wait() != 0:
        print("the last driver failed; see driver.log")
        return 1
    problems = check(sweep, seen)
    records = list(sweep.folder.trials)
    keys = {record["key"] for record in records}
    print(f"{made} kills; {len(records)} records of {len(keys)} trials, {len(seen)} files watched")
    print("\n".join(problems) or "nothing lost, nothing twice, nothing left")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
