"""Datasets on disk: written as Minari datasets, read back through Minari, cached flat.

The Minari dataset under ``MINARI_DATASETS_PATH`` is the original; the cache under ``RACTD_HOME``
holds the same content as memory-mapped arrays and can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
from filelock import FileLock
from minari.data_collector import EpisodeBuffer

from ractd_core.data.collect import collect_maze2d
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.files import home, new_folder, write_json
from ractd_core.tasks import DatasetName, Task

_ARRAYS = ("observations", "actions", "rewards", "bounds", "terminated")
_RECIPE_KEY = "ractd_recipe"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalRecipe:
    """How a ``local/...`` dataset is generated; the same recipe gives the same content."""

    transitions: int = 100_000
    seed: int = 0
    noisy: bool = False


def datasets_root() -> Path:
    """Minari's own root: ``MINARI_DATASETS_PATH`` or ``~/.minari/datasets``."""
    default = Path.home() / ".minari" / "datasets"
    return Path(os.environ.get("MINARI_DATASETS_PATH") or default).expanduser().absolute()


def is_present(name: DatasetName) -> bool:
    """Whether a complete Minari dataset of this name is there."""
    return (datasets_root() / str(name) / "data" / "metadata.json").is_file()


def make_local(
    name: DatasetName,
    recipe: LocalRecipe,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> bool:
    """Generate ``name`` by D4RL's recipe unless it is there already; True if it was generated.

    Safe when several processes ask at once. Raises :class:`DataError` if a dataset of this name
    was made by another recipe.
    """
    root = datasets_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{str(name).replace('/', '-')}.lock")
        with lock:
            if is_present(name):
                check_recipe(name, recipe)
                return False
            data = collect_maze2d(
                name, recipe.transitions, seed=recipe.seed, noisy=recipe.noisy, progress=progress
            )
            _write_minari(name, data, recipe)
            return True
    except OSError as error:
        raise DataError(
            f"cannot write datasets under {root} ({error}); set MINARI_DATASETS_PATH to a folder "
            "that can be written"
        ) from error


def load(name: DatasetName, fingerprint: str | None = None) -> FlatDataset:
    """The dataset as memory-mapped flat arrays.

    Raises :class:`DataError` if it is absent (and says how to get it), malformed, or not the one
    with ``fingerprint``.
    """
    if not is_present(name):
        raise DataError(
            f"dataset {name} is not under {datasets_root()}; `ractd data make {name}` generates it"
        )
    cache = home() / "cache" / "datasets" / _identity(name)
    if not cache.exists():
        data = _read_minari(name)
        with new_folder(cache) as folder:
            for key in _ARRAYS:
                np.save(folder / f"{key}.npy", getattr(data, key))
            write_json(folder / "about.json", {"name": str(name), "fingerprint": data.fingerprint})
    try:
        arrays = {key: np.load(cache / f"{key}.npy", mmap_mode="r") for key in _ARRAYS}
        data = FlatDataset(name=str(name), **arrays)
        intact = data.fingerprint == json.loads((cache / "about.json").read_text())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        intact = False
    if not intact:
        _log.warning("the cache of %s at %s is damaged; it is made anew", name, cache)
        shutil.rmtree(cache, ignore_errors=True)
        return load(name, fingerprint)
    if fingerprint not in (None, data.fingerprint):
        raise DataError(
            f"dataset {name} has fingerprint {data.fingerprint[:12]}, expected {fingerprint[:12]}: "
            "it was replaced while it was in use"
        )
    return data


def recipe_of(name: DatasetName) -> LocalRecipe | None:
    """The recipe a local dataset was made by; None for data from elsewhere."""
    metadata = json.loads((datasets_root() / str(name) / "data" / "metadata.json").read_text())
    text = metadata.get(_RECIPE_KEY)
    return LocalRecipe(**json.loads(text)) if text else None


def check_recipe(name: DatasetName, recipe: LocalRecipe) -> None:
    """Raise :class:`DataError` if ``name`` is here and was made by another recipe."""
    if is_present(name) and recipe_of(name) != recipe:
        raise DataError(
            f"dataset {name} at {datasets_root() / str(name)} was made with {recipe_of(name)}, "
            f"but {recipe} was asked for; ask for what is there, or point MINARI_DATASETS_PATH to "
            "another folder"
        )


def _identity(name: DatasetName) -> str:
    """Changes whenever the Minari files are replaced."""
    folder = datasets_root() / str(name) / "data"
    digest = hashlib.sha256(str(folder).encode())
    for file in sorted(folder.iterdir()):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    return f"{name.task.name}-{digest.hexdigest()[:16]}"


def _write_minari(name: DatasetName, data: FlatDataset, recipe: LocalRecipe) -> None:
    """Write under a temporary root and rename: Minari itself leaves half-made folders behind."""
    root = datasets_root()
    _set_aside(root / str(name))
    buffers = []
    for first, end, terminated in zip(
        data.bounds[:-1], data.bounds[1:], data.terminated, strict=True
    ):
        steps = end - first - 1
        last = np.zeros(steps, dtype=bool)
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
    with new_folder(root / str(name)) as folder:
        staging = folder / "staging"
        staging.mkdir()
        dataset = _with_root(
            staging,
            lambda: minari.create_dataset_from_buffers(
                str(name),
                buffers,
                observation_space=gym.spaces.Box(-np.inf, np.inf, (name.task.obs_dim,), np.float32),
                action_space=gym.spaces.Box(-1, 1, (name.task.act_dim,), np.float32),
                algorithm_name="waypoint planner and PD controller",
                description=f"Generated by D4RL's recipe for {name.task.name}; not D4RL's own data",
            ),
        )
        dataset.storage.update_metadata(
            {
                "ref_min_score": name.task.ref_min,
                "ref_max_score": name.task.ref_max,
                _RECIPE_KEY: json.dumps(asdict(recipe)),
            }
        )
        (staging / str(name) / "data").rename(folder / "data")
        namespace = staging / name.source / "namespace_metadata.json"
        if namespace.exists() and not (root / name.source / namespace.name).exists():
            namespace.rename(root / name.source / namespace.name)
        shutil.rmtree(staging)


def _set_aside(folder: Path) -> None:
    """Move a folder that is no complete dataset out of the way: Minari leaves such after errors."""
    if folder.exists():
        aside = folder.with_name(f".incomplete-{folder.name}-{uuid.uuid4().hex[:8]}")
        folder.rename(aside)
        _log.warning("%s was no complete dataset; it is now %s", folder, aside)


def _with_root(root: Path, call: Callable[[], Any]) -> Any:
    """Run ``call`` with Minari's root at ``root``, without its remarks on missing authorship."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _read_minari(name: DatasetName) -> FlatDataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            episodes = list(minari.load_dataset(str(name)).iterate_episodes())
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"dataset {name} under {datasets_root()} cannot be read ({error}); delete its folder "
            f"and run `ractd data make {name}`"
        ) from error
    return flatten(name.task, str(name), episodes)


def flatten(task: Task, name: str, episodes: list[Any]) -> FlatDataset:
    """Lay Minari episodes (T+1 observations, T actions and rewards) end to end.

    Raises :class:`DataError` naming the first episode whose shapes do not fit ``task``.
    """
    for index, episode in enumerate(episodes):
        steps = len(episode.rewards)
        found = (np.shape(episode.observations), np.shape(episode.actions))
        expected = ((steps + 1, task.obs_dim), (steps, task.act_dim))
        if found != expected or steps == 0:
            raise DataError(
                f"{name}: episode {index} has observations and actions of shapes {found}, expected "
                f"{expected} with one step or more"
            )

    def final_row(values: Any) -> np.ndarray:
        return np.zeros((1, *np.shape(values)[1:]))

    columns = {
        "observations": [episode.observations for episode in episodes],
        "actions": [np.concatenate([e.actions, final_row(e.actions)]) for e in episodes],
        "rewards": [np.concatenate([e.rewards, final_row(e.rewards)]) for e in episodes],
    }
    lengths = [len(episode.rewards) + 1 for episode in episodes]
    return FlatDataset(
        name=name,
        bounds=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        terminated=np.array([bool(episode.terminations[-1]) for episode in episodes]),
        **{key: np.concatenate(parts).astype(np.float32) for key, parts in columns.items()},
    )
