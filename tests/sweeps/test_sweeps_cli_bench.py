"""``ractd bench`` as it is typed: tables with units, JSON, and mistakes in one message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ractd_core import bench
from ractd_core.bench.machine import Machine
from ractd_core.config import Recipe
from ractd_core.tasks import get_task
from sweeps.cli import app
from tests.sweeps.command import ractd

SMALL = ("--widths", "8", "--patch", "4", "--horizon", "8", "--seconds", "0", "--device", "cpu")


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine is measured in tests of its own; threads are put back."""
    threads = torch.get_num_threads()
    known = Machine("cpu", threads, 50.0, 100.0, 10.0)
    monkeypatch.setattr(bench, "measure_machine", lambda device: known)
    yield
    torch.set_num_threads(threads)


def printed(*arguments: str) -> Any:
    """The JSON on stdout alone; progress goes to stderr."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    assert "measuring the machine" in result.stderr or arguments[1] == "evaluate"
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained models of Hopper's shape."""
    network = {"widths": [8], "patch": 4}
    recipe = Recipe.model_validate(
        {
            "window": {"horizon": 8},
            "teacher": {"network": network, "noise": {"bins": 5}},
            "regression": {"network": network},
        }
    )
    data = bench.untrained_data(get_task("hopper-medium-v2"))
    return bench.untrained_models(recipe, data, tmp_path_factory.mktemp("models"))


def test_latency_prints_a_table_and_json(files: dict[str, Path]) -> None:
    given = [str(files["teacher"]), str(files["student"])]
    options = ("--seconds", "0", "--no-compile", "--device", "cpu")
    found = printed("bench", "latency", *given, *options, "--threads", "1", "--json")
    assert found["machine"]["bandwidth_gbs"] == 10
    assert torch.get_num_threads() == 1
    variants = {(row["variant"], row["batch"]) for row in found["rows"]}
    # The teacher's own grid of five bins is eight calls by Heun.
    for name in ("student, 1 call", "student, onnxruntime", "teacher, heun-8", "teacher, ddim-20"):
        assert {(name, 1), (name, 64)} <= variants
    said = ractd("bench", "latency", str(files["student"]), *options)
    for unit in ("p50 ms", "p99 ms", "ms/action", "GFLOP", "GFLOP/s", "GB/s", "MB"):
        assert unit in said
    assert "student, 4 calls" in said
    assert "teacher" not in said


def test_training_prints_both_precisions() -> None:
    found = printed("bench", "train", *SMALL, "--batch", "4", "--task", "maze2d-umaze-v1", "--json")
    assert [(row["precision"], row["batch"]) for row in found["rows"]] == [("fp32", 4), ("bf16", 4)]
    said = ractd("bench", "train", *SMALL, "--batch", "4")
    for unit in ("ms/step", "GFLOP/step", "of fp32 rate"):
        assert unit in said


def test_evaluation_prints_the_ratios(files: dict[str, Path]) -> None:
    arguments = ("evaluate", str(files["student"]), "--episodes", "2", "--device", "cpu")
    assert printed("bench", *arguments, "--json")["episodes"] == 2
    assert "the same returns" in ractd("bench", *arguments)


def test_mistakes_are_one_message(files: dict[str, Path], tmp_path: Path) -> None:
    said = ractd("bench", "latency", "--widths", "8-x", code=2)
    assert "--widths 8-x" in said
    assert "multiple of" in ractd("bench", "train", "--horizon", "15", "--patch", "4", code=2)
    assert "unknown task" in ractd("bench", "train", "--task", "hoper-medium-v2", code=2)
    teacher = str(files["teacher"])
    said = ractd("bench", "latency", teacher, teacher, code=2)
    assert "expected a student's or regression's file" in said
    assert "holds a teacher model" in ractd("bench", "evaluate", teacher, code=2)
    absent = tmp_path / "absent"
    assert f"{absent}: no such checkpoint" in ractd("bench", "latency", str(absent), code=2)


def test_a_missing_accelerator_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no CUDA device" in ractd("bench", "train", "--device", "cuda", code=2)
