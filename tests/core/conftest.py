"""Small data and small trained models, made once; every test writes under its own folder only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ractd_core.config import Recipe
from ractd_core.data.collect_maze2d import collect_maze2d
from ractd_core.data.flat import FlatDataset
from ractd_core.stages import make_stage
from ractd_core.tasks import DatasetName, get_task, parse_dataset_name
from ractd_core.training import Trainer

torch.set_num_threads(1)

_NETWORK = {"widths": [8], "patch": 4, "groups": 4, "embed_dim": 8}
_OPTIM = {"steps": 20, "batch_size": 8, "warmup_steps": 4}


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("RACTD_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def umaze() -> DatasetName:
    return parse_dataset_name("local/maze2d-umaze-v1")


@pytest.fixture(scope="session")
def umaze_data(umaze: DatasetName) -> FlatDataset:
    """3000 transitions of the umaze, seed 0, no action noise."""
    return collect_maze2d(umaze, 3000, seed=0)


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """Every stage, as small as it gets: horizon 16, one level of 8 channels, 20 steps."""
    return Recipe.model_validate(
        {
            "window": {"horizon": 16},
            "teacher": {"network": _NETWORK, "optim": _OPTIM},
            "reward": {"widths": [8], "optim": _OPTIM | {"batch_size": 64}},
            "student": {"optim": _OPTIM},
            "regression": {"network": _NETWORK, "optim": _OPTIM},
        }
    )


@pytest.fixture(scope="session")
def models(
    tmp_path_factory: pytest.TempPathFactory, umaze_data: FlatDataset, tiny: Recipe
) -> dict[str, Path]:
    """One trained model file per kind of stage."""
    return _trained(tmp_path_factory.mktemp("models"), tiny, umaze_data)


def _trained(folder: Path, recipe: Recipe, data: FlatDataset) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for kind in ("teacher", "reward", "student", "regression"):
        stage, normalizers = make_stage(kind, recipe, data, files, torch.device("cpu"))
        trainer = Trainer(stage, stage.optim, seed=stage.seed, device=torch.device("cpu"))
        trainer.run(every=20)
        files[kind] = folder / f"{kind}.safetensors"
        stage.result(trainer.ema, normalizers).save(files[kind])
    return files


@pytest.fixture(scope="session")
def flat() -> Callable[..., FlatDataset]:
    """A data set with the given numbers of transitions per episode, filled from ``seed``."""

    def build(
        transitions: list[int],
        *,
        seed: int = 0,
        terminated: list[bool] | None = None,
        rewards: list[float] | None = None,
        dims: int = 4,
    ) -> FlatDataset:
        rng = np.random.default_rng(seed)
        bounds = np.concatenate([[0], np.cumsum(np.array(transitions) + 1)]).astype(np.int64)
        rows = int(bounds[-1])
        final = np.zeros(rows, dtype=bool)
        final[bounds[1:] - 1] = True
        paid = np.zeros(rows)
        paid[~final] = rng.normal(size=sum(transitions)) if rewards is None else rewards
        forces = np.where(final[:, None], 0.0, rng.uniform(-1, 1, (rows, 2)))
        return FlatDataset(
            name=DatasetName("made", get_task("maze2d-umaze-v1")),
            observations=rng.normal(size=(rows, dims)).astype(np.float32),
            actions=forces.astype(np.float32),
            rewards=paid.astype(np.float32),
            bounds=bounds,
            terminated=np.array(terminated or [False] * len(transitions), dtype=np.bool_),
        )

    return build


@pytest.fixture(scope="session")
def hopper() -> DatasetName:
    return parse_dataset_name("local/hopper-medium-v2")


@pytest.fixture(scope="session")
def hopper_data(hopper: DatasetName) -> FlatDataset:
    """Synthetic rows in Hopper's range, not played: 12 episodes of 40 steps, every other falls.

    The first torque is never 0, so that the zeros of the final rows would show.
    """
    rng = np.random.default_rng(0)
    episodes, rows = 12, 12 * 41
    low = np.array([0.7, -0.2, -0.6, -0.6, -0.7, -2, -2, -4, -4, -5, -5])
    high = np.array([1.4, 0.2, 0.0, 0.0, 0.7, 4, 2, 4, 4, 5, 5])
    bounds = np.arange(episodes + 1) * 41
    actions = rng.uniform([0.02, -1, -1], [0.8, 1, 1], (rows, 3))
    rewards = rng.normal(3, 1, rows)
    actions[bounds[1:] - 1], rewards[bounds[1:] - 1] = 0, 0
    return FlatDataset(
        name=hopper,
        observations=rng.uniform(low, high, (rows, 11)).astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=rewards.astype(np.float32),
        bounds=bounds,
        terminated=np.arange(episodes) % 2 == 0,
    )


@pytest.fixture(scope="session")
def tiny_actions(tiny: Recipe) -> Recipe:
    """The tiny recipe on the last two observations."""
    return Recipe.model_validate({**tiny.model_dump(), "window": {"horizon": 16, "history": 2}})


@pytest.fixture(scope="session")
def action_models(
    tmp_path_factory: pytest.TempPathFactory, hopper_data: FlatDataset, tiny_actions: Recipe
) -> dict[str, Path]:
    """One trained model file per kind of stage, for windows of actions."""
    return _trained(tmp_path_factory.mktemp("action-models"), tiny_actions, hopper_data)
