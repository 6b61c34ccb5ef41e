"""Small data in the layouts that data come in, and processes that ask for them at once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import gymnasium_robotics
import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from ractd_core.data.minari_io import with_root
from ractd_core.envs.kitchen import SUBTASKS
from ractd_core.tasks import get_task

REPOSITORY = Path(__file__).parents[2]
KITCHEN_WIDTHS = {
    "bottom burner": 2,
    "light switch": 2,
    "slide cabinet": 1,
    "microwave": 1,
    "kettle": 7,
}

Arrays = dict[str, Any]


def d4rl_rows(task_name: str, rows: int | None = None, every: int = 20, seed: int = 0) -> Arrays:
    """Rows in D4RL's layout, as many as D4RL's own file has, terminating ``every`` so many."""
    task = get_task(task_name)
    count = task.hdf5_rows if rows is None else rows
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(count, task.obs_dim)).astype(np.float32)
    ends = np.arange(count) % every == every - 1
    return {
        "observations": states,
        "actions": rng.uniform(-1, 1, (count, task.act_dim)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminals": ends,
        "timeouts": np.zeros(count, dtype=bool),
    }


def hdf5_bytes(arrays: Mapping[str, Any]) -> bytes:
    """The content of an HDF5 file that holds these."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return buffer.getvalue()


def write_npz(path: Path, arrays: Mapping[str, Any]) -> Path:
    """The path of an .npz file that holds these."""
    np.savez(path, **arrays)
    return path


@dataclass(frozen=True)
class Episodes:
    """Episodes as Minari keeps them, and the vectors that they should become."""

    space: gym.spaces.Space[Any]
    buffers: list[EpisodeBuffer]
    states: list[Any]
    actions: list[Any]
    rewards: list[Any]

    @property
    def terminated(self) -> list[bool]:
        return [bool(buffer.terminations[-1]) for buffer in self.buffers]


def minari_episodes(task_name: str, *, width: int | None = None, seed: int = 0) -> Episodes:
    """Three episodes (4, 7 and 2 steps) in the observation space of the task's Minari dataset.

    ``width`` is that of ``observation``; by default that of the robotics environments of today.
    """
    task = get_task(task_name)
    rng = np.random.default_rng(seed)
    dicts = task.domain in ("maze2d", "antmaze", "kitchen")
    widths: dict[str, Any] = {"observation": width or task.obs_dim}
    if task.domain in ("maze2d", "antmaze"):
        widths = {"observation": width or {"maze2d": 4, "antmaze": 105}[task.domain]}
        widths |= {"achieved_goal": 2, "desired_goal": 2}
    elif task.domain == "kitchen":
        goals = {name: KITCHEN_WIDTHS[name] for name in SUBTASKS[task_name]}
        widths = {"observation": width or 59, "achieved_goal": goals, "desired_goal": goals}
    buffers, states, actions, rewards = [], [], [], []
    for steps, terminated in ((4, False), (7, True), (2, False)):
        observed = _draw(rng, widths, steps + 1)
        states.append(_vector(task.domain, observed))
        last = np.arange(steps) == steps - 1
        actions.append(rng.uniform(-1, 1, (steps, task.act_dim)).astype(np.float32))
        rewards.append(rng.normal(size=steps))
        buffers.append(
            EpisodeBuffer(
                observations=observed if dicts else observed["observation"],
                actions=actions[-1],
                rewards=rewards[-1],
                terminations=last & terminated,
                truncations=last & (not terminated),
            )
        )
    space = _space(widths)
    return Episodes(space if dicts else space["observation"], buffers, states, actions, rewards)


def _draw(rng: np.random.Generator, widths: Mapping[str, Any], rows: int) -> dict[str, Any]:
    return {
        key: _draw(rng, width, rows) if isinstance(width, dict) else rng.normal(size=(rows, width))
        for key, width in widths.items()
    }


def _space(widths: Mapping[str, Any]) -> gym.spaces.Dict:
    return gym.spaces.Dict(
        {
            key: _space(width)
            if isinstance(width, dict)
            else gym.spaces.Box(-np.inf, np.inf, (width,), np.float64)
            for key, width in widths.items()
        }
    )


def _vector(domain: str, observed: dict[str, Any]) -> Any:
    """What the task's policies see, put together element by element."""
    own = observed["observation"]
    if domain == "antmaze":
        return np.hstack([observed["achieved_goal"], own[:, :27]])
    if domain != "kitchen":
        return own
    vector = np.zeros((len(own), 60))
    vector[:, :9], vector[:, 9:30] = own[:, :9], own[:, 18:39]
    first = {
        "bottom burner": 11,
        "light switch": 17,
        "slide cabinet": 19,
        "microwave": 22,
        "kettle": 23,
    }
    for name, goal in observed["desired_goal"].items():
        vector[:, 30 + first[name] : 30 + first[name] + goal.shape[1]] = goal
    return vector


def store_minari(
    root: Path, minari_id: str, episodes: Episodes, act_dim: int, data_format: str = "hdf5"
) -> Path:
    """Write them as a Minari dataset under ``root``; the path of its ``data``."""
    with_root(
        root,
        lambda: minari.create_dataset_from_buffers(
            minari_id,
            episodes.buffers,
            observation_space=episodes.space,
            action_space=gym.spaces.Box(-1, 1, (act_dim,), np.float32),
            data_format=data_format,
        ),
    )
    return root / minari_id / "data"


def change_metadata(data: Path, **changes: Any) -> None:
    """Replace entries of a Minari dataset's metadata."""
    path = data / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def env_spec(env_id: str, like: str) -> str:
    """The JSON that Minari keeps of an environment called ``env_id``."""
    gym.register_envs(gymnasium_robotics)
    spec = json.loads(gym.spec(like).to_json())
    return json.dumps(spec | {"id": env_id})


def at_once(code: str, *arguments: str, count: int, gate: Path) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of processes that run ``code`` from the same moment on.

    ``code`` follows its imports' line ``# go``, where each process waits for the others.
    """
    gate.mkdir()
    wait = "\n".join(
        [
            "import os, pathlib, time",
            f"gate = pathlib.Path({str(gate)!r})",
            "(gate / str(os.getpid())).touch()",
            "while not (gate / 'open').exists(): time.sleep(0.005)",
        ]
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code.replace("# go", wait), *arguments],
            cwd=REPOSITORY,
            env=os.environ.copy(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        deadline = time.monotonic() + 90
        while len(list(gate.iterdir())) < count:
            assert all(process.poll() is None for process in processes)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (gate / "open").touch()
        outputs = [process.communicate(timeout=90) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [
        (process.returncode, out, errors)
        for process, (out, errors) in zip(processes, outputs, strict=True)
    ]
