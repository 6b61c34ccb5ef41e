"""Data and evaluation, measured on one core: ``python tests/benchmarks/bench_data.py [FILE]``.

FILE is a D4RL-layout Hopper file for the evaluation's policy to be trained on, so that its episodes
last; without one it is untrained and falls at once. Every figure stands beside one of the same run
that bounds it, so that ratios can be compared between machines.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from ractd_core.bench import time_evaluation
from ractd_core.config import Recipe, WindowConfig
from ractd_core.data.collect_maze2d import collect_maze2d
from ractd_core.data.d4rl_files import read_rows
from ractd_core.data.flat import FlatDataset
from ractd_core.data.normalizer import Normalizers
from ractd_core.data.rows import from_rows
from ractd_core.data.store import load
from ractd_core.data.windows import ActionWindows
from ractd_core.envs import Maze2d
from ractd_core.policy import Planner
from ractd_core.stages import make_stage
from ractd_core.tasks import parse_dataset_name
from ractd_core.training import Trainer

ROWS = 1_000_000
EPISODE = 457
"""Mean length of an episode of D4RL's hopper-medium-v2."""
DATASET = "bench/hopper-medium-v2"


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def hopper_file(path: Path) -> None:
    """A file of D4RL's layout and size for hopper-medium-v2, with made-up numbers."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(ROWS + 1, 11)).astype(np.float32)
    ends = np.zeros(ROWS, dtype=bool)
    ends[np.cumsum(rng.integers(EPISODE - 150, EPISODE + 150, ROWS // EPISODE)) % ROWS] = True
    ends[-1] = True
    columns = {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": rng.uniform(-1, 1, (ROWS, 3)).astype(np.float32),
        "rewards": rng.normal(size=ROWS).astype(np.float32),
        "terminals": ends,
        "timeouts": np.zeros(ROWS, dtype=bool),
    }
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, compression="gzip")


def bench_import(folder: Path) -> FlatDataset:
    """Import, then open the cache in this process."""
    path = folder / "hopper.hdf5"
    hopper_file(path)

    def read() -> None:
        with h5py.File(path) as file:
            for key in file:
                file[key][()]

    raw = seconds(read)
    arguments = ["import", str(path), "--task", "hopper-medium-v2", "--source", "bench"]
    whole = seconds(lambda: subprocess.run(["ractd", "data", *arguments], check=True))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    name = parse_dataset_name(DATASET)
    opened = seconds(lambda: load(name))
    data = load(name)
    size = sum(array.nbytes for array in (data.observations, data.actions, data.rewards))
    print(f"import of {ROWS:,} rows: {whole:.1f} s, {whole / raw:.0f} x reading the file's arrays")
    print(f"  peak memory {peak:.2f} GiB, {peak * 2**30 / size:.1f} x the arrays")
    print(f"opening the cache, checksum included: {opened:.2f} s for {size / 1e6:.0f} MB")
    return data


def bench_collector() -> None:
    """D4RL's waypoint collector, against the bare simulator's steps."""
    name, steps = parse_dataset_name("local/maze2d-umaze-v1"), 50_000
    env = Maze2d(name.task)
    env.reset(seed=0)
    bare = seconds(lambda: [env.step(np.zeros(2)) for _ in range(steps)])
    whole = seconds(lambda: collect_maze2d(name, steps))
    print(
        f"maze2d collector: {steps / whole:,.0f} transitions/s, {whole / bare:.1f} x the time of "
        "the environment's steps alone"
    )


def bench_windows(data: FlatDataset) -> None:
    """Batches of 4,096 windows of 16 actions, against copying as many rows that lie in order."""
    windows = ActionWindows(
        data, WindowConfig(horizon=16), Normalizers.fit(data), torch.device("cpu")
    )
    index = torch.randint(len(windows), (64, 4096), generator=torch.Generator().manual_seed(0))
    windows.at(index[0])
    taken = seconds(lambda: [windows.at(batch) for batch in index]) / len(index)
    plain = windows.actions[: 4096 * 16]
    copy = seconds(lambda: [plain.clone() for _ in range(64)]) / 64
    rate = 4096 * 16 / taken
    print(
        f"window batches of 4,096 x 16: {rate / 1e6:.1f} million rows/s, "
        f"{taken / copy:.0f} x a plain copy"
    )


def bench_evaluation(data: FlatDataset, folder: Path, episodes: int, steps: int) -> None:
    """One-step policy on Hopper: all lanes at once against one episode at a time."""
    recipe = Recipe.model_validate(
        {
            "window": {"horizon": 16},
            "teacher": {"network": {"widths": [32, 64], "patch": 4}, "optim": {"steps": steps}},
            "reward": {"optim": {"steps": steps}},
            "student": {"optim": {"steps": steps}},
        }
    )
    cpu = torch.device("cpu")
    models: dict[str, Path] = {}
    for kind in ("teacher", "reward", "student"):
        stage, normalizers = make_stage(kind, recipe, data, models, cpu)
        trainer = Trainer(stage, stage.optim, seed=0, device=cpu)
        trainer.run(every=steps)
        models[kind] = folder / f"{kind}.safetensors"
        stage.result(trainer.ema, normalizers).save(models[kind])
    planner = Planner.load(models["student"], cpu)
    times = time_evaluation(planner, parse_dataset_name("local/hopper-medium-v2"), episodes)
    print(
        f"{episodes} Hopper episodes ({times.steps:,} steps), {times.lanes} at once: "
        f"{times.batched_s:.1f} s, score {times.score:.1f}\n"
        f"  one at a time: {times.apart_s:.1f} s ({times.apart_ratio:.1f} x), "
        f"{'the same returns' if times.same_returns else 'OTHER RETURNS'}\n"
        f"  one at a time by calls of one row: {times.single_s:.1f} s ({times.single_ratio:.1f} x)"
    )


def main() -> None:
    """Run everything in a temporary folder."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"MINARI_DATASETS_PATH": f"{scratch}/datasets", "RACTD_HOME": scratch}
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        data = bench_import(Path(scratch))
        bench_windows(data)
        bench_collector()
        steps = 1
        if len(sys.argv) > 1:
            name = parse_dataset_name("local/hopper-medium-v2")
            data, steps = from_rows(name, read_rows(Path(sys.argv[1]))), 300
        bench_evaluation(data, Path(scratch), 100, steps)


if __name__ == "__main__":
    main()
