"""Training that is interrupted or killed anywhere goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ractd_core import training
from ractd_core.config import Recipe
from ractd_core.data.flat import FlatDataset
from ractd_core.draws import Draws
from ractd_core.stages import make_stage
from ractd_core.training import Metrics, Trainer, TrainingInterrupted
from tests.core.processes import run_workers

CPU = torch.device("cpu")
EVERY, STEPS = 4, 10
Seen = list[tuple[int, Metrics]]


@pytest.fixture
def recipe(tiny: Recipe) -> Recipe:
    table = tiny.model_dump()
    table["student"]["optim"] |= {"steps": STEPS, "batch_size": 7}
    return Recipe.model_validate(table)


def trainer(recipe: Recipe, data: FlatDataset, models: dict[str, Path], path: Path) -> Trainer:
    stage, _ = make_stage("student", recipe, data, models, CPU)
    return Trainer(stage, stage.optim, seed=3, device=CPU, checkpoint=path, identity="i")


def numbers(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(path).items())


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Training's clock, in seconds, that goes on when its one number is changed."""
    clock = [0.0]
    monkeypatch.setattr("ractd_core.training.time.monotonic", lambda: clock[0])
    return clock


def slow_down(
    trained: Trainer, clock: list[float], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let every step take so long by ``clock``."""
    update = trained._update

    def slow() -> dict[str, torch.Tensor]:
        clock[0] += seconds
        return update()

    monkeypatch.setattr(trained, "_update", slow)


@pytest.mark.parametrize("interrupted_at", [1, 3, 4, 6, 8, 10])
def test_interrupted_at_any_step_it_reports_and_ends_the_same(
    interrupted_at: int,
    recipe: Recipe,
    umaze_data: FlatDataset,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "_LOOK_EVERY", 0.0)  # at every step
    whole: Seen = []
    trainer(recipe, umaze_data, models, tmp_path / "whole").run(
        every=EVERY, callback=lambda t, metrics: whole.append((t.step, metrics))
    )
    parts: Seen = []
    first = trainer(recipe, umaze_data, models, tmp_path / "parts")
    with pytest.raises(TrainingInterrupted, match=f"at step {interrupted_at}"):
        first.run(
            every=EVERY,
            callback=lambda t, metrics: parts.append((t.step, metrics)),
            interrupted=lambda: first.step >= interrupted_at,
        )
    # What is due at this very step is left to the next process: playing can take long.
    assert [step for step, _ in parts] == [s for s in (4, 8, 10) if s < interrupted_at]
    second = trainer(recipe, umaze_data, models, tmp_path / "parts")
    assert second.step == interrupted_at
    second.run(every=EVERY, callback=lambda t, metrics: parts.append((t.step, metrics)))
    assert parts == whole
    ours, theirs = numbers(tmp_path / "parts"), numbers(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_kill_costs_at_most_the_time_between_two_checkpoints(
    recipe: Recipe,
    umaze_data: FlatDataset,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = stopped_clock(monkeypatch)
    monkeypatch.setattr(training, "SAVE_EVERY", 3.0)
    saved: list[tuple[int, float]] = []
    path = tmp_path / "killed"
    killed = trainer(recipe, umaze_data, models, path)
    save = killed.save

    def timed() -> None:
        save()
        saved.append((killed.step, clock[0]))

    monkeypatch.setattr(killed, "save", timed)
    # A step of two seconds, with a report after them all.
    slow_down(killed, clock, 2.0, monkeypatch)
    killed.run(every=STEPS)
    assert saved == [(2, 4.0), (4, 8.0), (6, 12.0), (8, 16.0), (10, 20.0), (10, 20.0)]


def test_the_time_of_an_interrupted_process_is_counted(
    recipe: Recipe,
    umaze_data: FlatDataset,
    models: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = stopped_clock(monkeypatch)
    monkeypatch.setattr(training, "_LOOK_EVERY", 0.0)
    laps: list[dict[str, float]] = []

    def run(until: int) -> None:
        part = trainer(recipe, umaze_data, models, tmp_path / "laps")
        slow_down(part, clock, 1.0, monkeypatch)
        part.run(
            every=STEPS,
            callback=lambda t, _: laps.append(t.lap()),
            interrupted=lambda: part.step >= until,
        )

    with pytest.raises(TrainingInterrupted):
        run(4)
    clock[0] += 100.0  # Nobody trains.
    run(STEPS + 1)
    assert laps == [{"seconds": STEPS, "workers": 1.0}]


def _apart(
    rank: int, folder: Path, recipe: Recipe, data: FlatDataset, models: dict[str, Path]
) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=3
    )
    training._LOOK_EVERY = 0.0
    seen: list[Any] = []
    part = trainer(recipe, data, models, folder / "checkpoint")
    try:
        # Only the last worker is told.
        part.run(every=STEPS, interrupted=lambda: rank == 2 and part.step >= 3)
    except TrainingInterrupted:
        (folder / f"interrupted-{rank}").write_text(str(part.step))
    torch.distributed.barrier()
    part = trainer(recipe, data, models, folder / "checkpoint")
    part.run(every=STEPS, callback=lambda _, metrics: seen.append(metrics))
    torch.save(seen, folder / f"seen-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_workers_that_share_unevenly_end_together_and_train_as_one(
    recipe: Recipe, umaze_data: FlatDataset, models: dict[str, Path], tmp_path: Path
) -> None:
    """Three workers share a batch of seven: 3, 2 and 2 rows."""
    together = tmp_path / "three"
    together.mkdir()
    assert run_workers(_apart, together, recipe, umaze_data, models, count=3) == [0, 0, 0]
    steps = {(together / f"interrupted-{rank}").read_text() for rank in range(3)}
    assert len(steps) == 1
    expected: list[Metrics] = []
    trainer(recipe, umaze_data, models, tmp_path / "one").run(
        every=STEPS, callback=lambda _, metrics: expected.append(metrics)
    )
    for rank in range(3):
        [found] = torch.load(together / f"seen-{rank}.pt")
        assert found == pytest.approx(expected[0], rel=1e-3, abs=1e-5)
    ours, theirs = numbers(together / "checkpoint"), numbers(tmp_path / "one")
    for key, value in theirs.items():
        if key.startswith(("network", "ema")):
            torch.testing.assert_close(ours[key], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_shares_of_a_batch_are_its_rows_once(workers: int) -> None:
    whole = Draws(0, 5, 7, CPU).normal(2)
    rows = torch.empty_like(whole)
    for rank in range(workers):
        rows[rank::workers] = Draws(0, 5, 7, CPU, rank=rank, workers=workers).normal(2)
    assert torch.equal(rows, whole)
