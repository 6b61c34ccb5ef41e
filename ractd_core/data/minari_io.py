"""Minari datasets in and out: T+1 observations per episode, flat or the robotics domains' dicts."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import gymnasium as gym
import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from numpy.typing import NDArray

from ractd_core.data.flat import ACTION_TOLERANCE, DataError, FlatDataset
from ractd_core.envs import Maze2d
from ractd_core.envs.kitchen import ELEMENTS, SUBTASKS
from ractd_core.tasks import DatasetName, Task, all_tasks

ORIGIN_KEY = "ractd_origin"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ROOT = "MINARI_DATASETS_PATH"
_EPISODE_OVERHEAD, _FILE_OVERHEAD = 20_000, 64_000
"""More bytes than HDF5 and Minari need beside the arrays (measured: 14,200 and 4,000)."""
_log = logging.getLogger(__name__)
Result = TypeVar("Result")
Observations = Any
"""An array (T+1, dims), or a dict of arrays or of such dicts (an HDF5 group reads alike)."""


@dataclass(frozen=True)
class _Episode:
    observations: NDArray[np.floating]
    actions: NDArray[np.floating]
    rewards: NDArray[np.floating]
    terminated: bool


def datasets_root() -> Path:
    """Minari's own root: ``MINARI_DATASETS_PATH`` or ``~/.minari/datasets``."""
    default = Path.home() / ".minari" / "datasets"
    return Path(os.environ.get(_ROOT) or default).expanduser().absolute()


def with_root(root: Path, call: Callable[[], Result]) -> Result:
    """Run ``call`` with Minari's root at ``root``, without its remarks on missing authorship."""
    before = os.environ.get(_ROOT)
    os.environ[_ROOT] = str(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    finally:
        if before is None:
            del os.environ[_ROOT]
        else:
            os.environ[_ROOT] = before


def check_minari_id(minari_id: str) -> str:
    """``minari_id`` if it is well formed; :class:`DataError` if not, or without a version."""
    try:
        parse_dataset_id(minari_id)
    except ValueError as error:
        raise DataError(
            f"{minari_id!r} is neither a file nor a Minari id (namespace/name-v0); check the path, "
            "or see `minari list local`"
        ) from error
    except TypeError as error:
        raise DataError(
            f"{minari_id!r} is no file, and the Minari id {minari_id!r} has no version; write it "
            f"as {minari_id}-v0, with the version that `minari list local` shows"
        ) from error
    return minari_id


def read_metadata(minari_id: str) -> dict[str, Any]:
    """The dataset's ``metadata.json``; :class:`DataError` if it is absent or not readable."""
    path = datasets_root() / minari_id / "data" / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"no Minari dataset {minari_id} under {datasets_root()}; `minari list local` shows "
            "what is there"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); delete {path.parents[1]} and get the dataset again"
        ) from error
    if not isinstance(metadata, dict):
        raise DataError(f"{path} does not hold a JSON object; delete {path.parents[1]}")
    return metadata


def read_minari(name: DatasetName, minari_id: str) -> FlatDataset:
    """The Minari dataset ``minari_id`` as data for ``name``'s task.

    Dict observations become the task's vector: PointMaze its ``observation``, AntMaze
    ``achieved_goal`` before the first 27 of ``observation``, Kitchen D4RL's 60 (robot and object
    positions, goal). Maze rewards are relabelled for the task's fixed goal, as D4RL does, because
    PointMaze's own are for goals that change. Actions beyond [-1, 1] are clipped with a warning,
    which is what the environment made of them when they were recorded. Raises :class:`DataError`
    if the dataset is absent, damaged, of another environment or of other widths.
    """
    metadata = read_metadata(check_minari_id(minari_id))
    where = datasets_root() / minari_id
    try:
        _check_environment(name.task, where, metadata)
        total = int(metadata.get("total_episodes", 0))
        if total < 1:
            raise DataError(f"{where} holds no episodes; delete it and get the dataset again")
        if metadata.get("data_format", "hdf5") == "hdf5":
            episodes = list(_hdf5_episodes(name.task, where, total))
        else:
            episodes = list(_other_episodes(name.task, minari_id))
        if len(episodes) != total:
            # Of files that are missing, Minari's other formats say nothing.
            raise ValueError(f"{len(episodes)} of {total} episodes are there")
    except DataError:
        raise
    # As for files of rows, damaged bytes make h5py, pyarrow and Minari raise nearly anything.
    except Exception as error:
        raise DataError(
            f"{where} cannot be read as a Minari dataset ({type(error).__name__}: {error}); delete "
            "it and get the dataset again"
        ) from error
    return _lay_out(name, str(where), episodes)


def _check_environment(task: Task, where: Path, metadata: Mapping[str, Any]) -> None:
    spec, origin = metadata.get("env_spec"), metadata.get(ORIGIN_KEY)
    found = json.loads(spec).get("id") if isinstance(spec, str) else None
    if isinstance(origin, str) and json.loads(origin).get("task") in all_tasks():
        found = all_tasks()[json.loads(origin)["task"]].env_id
    if found and _base(found) != _base(task.env_id):
        raise DataError(
            f"{where} was collected in {found}, but {task.name} is evaluated in {task.env_id}; "
            "name the task that the dataset is for"
        )


def _base(env_id: str) -> str:
    """The environment whatever its version, and whatever a maze's starts and goals are.

    Minari collected AntMaze's diverse datasets in environments of their own, the same mazes with
    other starts and goals.
    """
    return re.sub(r"_Diverse_GR?", "", env_id.rpartition("-v")[0] or env_id)


def _hdf5_episodes(task: Task, where: Path, total: int) -> Iterator[_Episode]:
    """Straight from HDF5: reading only what is needed is five times as fast as decoding it all."""
    with h5py.File(where / "data" / "main_data.hdf5", "r") as file:
        for index in range(total):
            group = file[f"episode_{index}"]
            yield _episode(task, group["observations"], group)


def _other_episodes(task: Task, minari_id: str) -> Iterator[_Episode]:
    dataset = with_root(datasets_root(), lambda: minari.load_dataset(minari_id))
    for episode in dataset.iterate_episodes():
        yield _episode(task, episode.observations, vars(episode))


def _episode(task: Task, observations: Observations, columns: Any) -> _Episode:
    states = _vector(task, observations)
    rewards = np.asarray(columns["rewards"])
    if task.domain == "maze2d" and not isinstance(observations, (np.ndarray, h5py.Dataset)):
        rewards = _maze(task).reward(states[:-1].astype(np.float64))
    terminations = columns["terminations"]
    return _Episode(
        states,
        np.asarray(columns["actions"]),
        rewards,
        bool(terminations[-1]) if len(terminations) else False,
    )


@cache
def _maze(task: Task) -> Maze2d:
    return Maze2d(task)


def _vector(task: Task, observations: Observations) -> NDArray[np.floating]:
    """The task's observation vectors (T+1, obs_dim) from Minari's observations."""
    if isinstance(observations, (np.ndarray, h5py.Dataset)):
        return np.asarray(observations)
    own = np.asarray(observations["observation"])
    if task.domain == "antmaze":
        return np.concatenate([np.asarray(observations["achieved_goal"]), own[:, :27]], axis=1)
    if task.domain == "kitchen":
        goal = np.zeros((len(own), 30))
        for subtask in SUBTASKS[task.name]:
            goal[:, ELEMENTS[subtask]] = np.asarray(observations["desired_goal"][subtask])
        return np.concatenate([own[:, :9], own[:, 18:39], goal], axis=1)
    return own


def _lay_out(name: DatasetName, where: str, episodes: list[_Episode]) -> FlatDataset:
    """Lay episodes end to end; :class:`DataError` names the first whose shapes do not fit."""
    task = name.task
    for index, episode in enumerate(episodes):
        steps = len(episode.rewards)
        found = (episode.observations.shape, episode.actions.shape)
        expected = ((steps + 1, task.obs_dim), (steps, task.act_dim))
        if found != expected or steps == 0:
            raise DataError(
                f"{where}: episode {index} has observations and actions of shapes {found}, "
                f"expected {expected} with one step or more; is it a dataset for {task.name}?"
            )
    lengths = np.array([len(episode.rewards) + 1 for episode in episodes])
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = int(bounds[-1])
    observations = np.empty((rows, task.obs_dim), np.float32)
    actions = np.zeros((rows, task.act_dim), np.float32)
    rewards = np.zeros(rows, np.float32)
    for episode, first, end in zip(episodes, bounds[:-1], bounds[1:], strict=True):
        observations[first:end] = episode.observations
        actions[first : end - 1] = episode.actions
        rewards[first : end - 1] = episode.rewards
    beyond = int(np.count_nonzero(np.abs(actions) > 1.0 + ACTION_TOLERANCE))
    if beyond:
        _log.warning(
            "%s: %d action values beyond [-1, 1] are clipped, as the environment does",
            where,
            beyond,
        )
    np.clip(actions, -1.0, 1.0, out=actions)
    terminated = np.array([episode.terminated for episode in episodes], dtype=np.bool_)
    try:
        return FlatDataset(name, observations, actions, rewards, bounds, terminated)
    except DataError as error:
        raise DataError(f"{where}: {error}; delete it and get the dataset again") from error


def write_minari(
    folder: Path, data: FlatDataset, origin: Mapping[str, Any], algorithm: str, description: str
) -> None:
    """Write ``data`` as the Minari dataset ``data.name`` under the root ``folder``.

    ``origin`` is kept in its metadata, and so are the task's reference returns. Raises OSError if
    it cannot be written.
    """
    name, task = data.name, data.name.task
    _reserve(folder, data)
    buffers = []
    for first, end, terminated in zip(
        data.bounds[:-1], data.bounds[1:], data.terminated, strict=True
    ):
        last = np.zeros(end - first - 1, dtype=bool)
        last[-1] = True
        buffers.append(
            EpisodeBuffer(
                observations=data.observations[first:end],
                actions=data.actions[first : end - 1],
                rewards=data.rewards[first : end - 1],
                terminations=last & terminated,
                truncations=last & ~terminated,
            )
        )
    try:
        dataset = with_root(
            folder,
            lambda: minari.create_dataset_from_buffers(
                str(name),
                buffers,
                observation_space=gym.spaces.Box(-np.inf, np.inf, (task.obs_dim,), np.float32),
                action_space=gym.spaces.Box(-1, 1, (task.act_dim,), np.float32),
                algorithm_name=algorithm,
                description=description,
            ),
        )
    except (OSError, RuntimeError, ValueError) as error:
        # h5py raises any of these for the system's own error, and keeps its number in the text.
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    dataset.storage.update_metadata(
        {
            "ref_min_score": task.ref_min,
            "ref_max_score": task.ref_max,
            ORIGIN_KEY: json.dumps(dict(origin)),
        }
    )


def _reserve(folder: Path, data: FlatDataset) -> None:
    """Raise OSError if there is no room for ``data``: on a full disk HDF5 crashes the process."""
    arrays = (data.observations, data.actions, data.rewards)
    size = sum(array.nbytes for array in arrays) + 2 * data.transitions
    size += data.episodes * _EPISODE_OVERHEAD + _FILE_OVERHEAD
    reserved = folder / "reserved"
    try:
        with reserved.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        # Some file systems cannot reserve room.
        if error.errno in FULL_DISK:
            raise
    finally:
        reserved.unlink(missing_ok=True)
