"""Two processes train to the weights of one, and continue each other's checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.stages import make_stage
from ractd_core.training import DivergedError, Metrics, Trainer
from tests.core.processes import run_workers

CPU = torch.device("cpu")
KINDS = ("teacher", "student", "joint")


def train(
    kind: str,
    recipe: Recipe,
    data: FlatDataset,
    models: dict[str, Path],
    checkpoint: Path,
    **arguments: Any,
) -> list[Metrics]:
    stage, _ = make_stage(kind, recipe, data, models, CPU)
    seen: list[Metrics] = []
    trainer = Trainer(
        stage, stage.optim, seed=3, device=CPU, checkpoint=checkpoint, identity="d", **arguments
    )
    trainer.run(every=4, callback=lambda _, metrics: seen.append(metrics))
    return seen


def _work(
    rank: int, folder: Path, recipe: Recipe, data: FlatDataset, models: dict[str, Path]
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    for kind in KINDS:
        metrics = train(kind, recipe, data, models, folder / kind)
        torch.save(metrics, folder / f"{kind}-{rank}.pt")
    # Worker 0's wish to end is everybody's; the other's alone is nobody's.
    for asking in range(2):

        def wish(trainer: Trainer, metrics: Metrics, asked: bool = rank == asking) -> bool:
            return asked

        stage, _ = make_stage("regression", recipe, data, models, CPU)
        trainer = Trainer(stage, stage.optim, seed=3, device=CPU)
        trainer.run(every=4, callback=wish)
        torch.save(trainer.step, folder / f"asked-by-{asking}-{rank}.pt")
    # What collapses does so for all, by the means over all.
    absurd = recipe.model_dump()
    absurd["student"] |= {"reward_weight": 1e3, "collapse": {"saturation": 0.1}}
    absurd["student"]["optim"] |= {"steps": 200, "lr": 0.01, "warmup_steps": 0}
    try:
        train("student", Recipe.model_validate(absurd), data, models, folder / "absurd")
    except DivergedError as error:
        (folder / f"collapsed-{rank}").write_text(str(error))
    torch.distributed.destroy_process_group()


def _divided(
    rank: int, folder: Path, recipes: dict[str, Recipe], data: FlatDataset, models: dict[str, Path]
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    for name, recipe in recipes.items():
        for kind in ("teacher", "reward", "student", "regression"):
            path = folder / f"{name}-{kind}"
            train(kind, recipe, data, models, path, micro_batch=3)
            # Half of it, and then the rest from the checkpoint.
            stage, _ = make_stage(kind, recipe, data, models, CPU)
            again = Path(f"{path}-again")
            for _ in range(2):
                trainer = Trainer(
                    stage, stage.optim, seed=3, device=CPU, checkpoint=again, identity="d",
                    micro_batch=3,
                )  # fmt: skip
                trainer.run(every=4, callback=lambda trainer, _: trainer.step == 4)
                torch.distributed.barrier()
                stage, _ = make_stage(kind, recipe, data, models, CPU)
    torch.distributed.destroy_process_group()


def test_two_workers_train_in_micro_batches_and_bf16_and_resume_to_the_last_bit(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path], tmp_path: Path
) -> None:
    recipes = {}
    for precision in ("fp32", "bf16"):
        table = tiny.model_dump()
        for kind in ("teacher", "reward", "student", "regression"):
            optim = {"steps": 8, "batch_size": 16, "precision": precision}
            table[kind] = {**table[kind], "optim": optim}
        recipes[precision] = Recipe.model_validate(table)
    together = tmp_path / "two"
    together.mkdir()
    assert run_workers(_divided, together, recipes, umaze_data, models) == [0, 0]
    for name, recipe in recipes.items():
        for kind in ("teacher", "reward", "student", "regression"):
            ours = load_file(together / f"{name}-{kind}")
            resumed = load_file(together / f"{name}-{kind}-again")
            assert ours.keys() == resumed.keys()
            assert all(torch.equal(ours[key], resumed[key]) for key in ours)
            train(kind, recipe, umaze_data, models, tmp_path / f"{name}-{kind}")
            alone = load_file(tmp_path / f"{name}-{kind}")
            # In bf16 a sum in another order can turn the sign of Adam's first, unit-size steps.
            tolerance = 3e-4 if name == "fp32" else 2 * recipe.teacher.optim.lr * 8
            for key, value in alone.items():
                if not key.startswith("optimizer"):
                    torch.testing.assert_close(ours[key], value, atol=tolerance, rtol=1e-3)


def test_two_workers_train_as_one(
    tiny: Recipe, umaze_data: FlatDataset, models: dict[str, Path], tmp_path: Path
) -> None:
    steps = {"steps": 8, "batch_size": 16}
    table = tiny.model_dump()
    for kind in ("teacher", "student"):
        table[kind] = {**table[kind], "optim": steps}
    recipe = Recipe.model_validate(table)
    together, alone = tmp_path / "two", tmp_path / "one"
    together.mkdir()
    alone.mkdir()

    assert run_workers(_work, together, recipe, umaze_data, models) == [0, 0]

    for kind in KINDS:
        expected = train(kind, recipe, umaze_data, models, alone / kind)
        ours, theirs = load_file(together / kind), load_file(alone / kind)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if not key.startswith("optimizer"):
                torch.testing.assert_close(ours[key], value, atol=2e-4, rtol=1e-3)
        for rank in range(2):
            metrics = torch.load(together / f"{kind}-{rank}.pt")
            for found, wanted in zip(metrics, expected, strict=True):
                assert found == pytest.approx(wanted, rel=1e-2, abs=1e-4)
        # The checkpoint of two is one worker's to continue: it is finished, so nothing is trained.
        assert train(kind, recipe, umaze_data, models, together / kind) == []
    for asking, ended in ((0, 4), (1, tiny.regression.optim.steps)):
        steps_done = [torch.load(together / f"asked-by-{asking}-{rank}.pt") for rank in range(2)]
        assert steps_done == [ended, ended]
    first, second = ((together / f"collapsed-{rank}").read_text() for rank in range(2))
    assert first == second
    assert first.startswith("collapsed by step ")
