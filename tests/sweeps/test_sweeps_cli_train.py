"""``ractd train``: one stage in a folder, resumed to the same weights, and every refusal."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock

from ractd_core.checkpoint import load_checkpoint
from ractd_core.data.collect_maze2d import collect_maze2d
from ractd_core.data.minari_io import write_minari
from ractd_core.data.store import load
from ractd_core.recipes import override, recipe_for
from ractd_core.stages import load_model, make_stage
from ractd_core.tasks import get_task, parse_dataset_name
from ractd_core.training import Trainer
from sweeps.jsonl import read_rows
from sweeps.one_stage import StageFolder
from tests.sweeps.command import ractd

DATASET = "local/maze2d-umaze-v1"
NAME = parse_dataset_name(DATASET)
NETWORK = {"widths": [8], "patch": 4, "groups": 4, "embed_dim": 8}
CHANGES: dict[str, Any] = {
    "window": {"horizon": 16},
    "teacher": {"network": NETWORK, "optim": {"steps": 6, "batch_size": 8}},
    "reward": {"widths": [8], "optim": {"steps": 6, "batch_size": 8}},
    "student": {"reward_states": 4, "optim": {"steps": 6, "batch_size": 8}},
    "regression": {"network": NETWORK, "optim": {"steps": 6, "batch_size": 8}},
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of a few episodes, made once."""
    root = tmp_path_factory.mktemp("datasets")
    write_minari(root, collect_maze2d(NAME, 2000), {}, "waypoints", "a small maze dataset")
    return root


@pytest.fixture(autouse=True)
def _home(
    datasets: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RACTD_HOME", str(datasets.parent / f"{datasets.name}-home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(datasets))


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A file with a recipe of tiny networks."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(CHANGES))
    return str(path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def words(kind: str, out: Path, recipe: str, *more: str) -> list[str]:
    common = ("--out", str(out), "--recipe", recipe, "--device", "cpu", "--threads", "1")
    return ["train", kind, DATASET, *common, *more]


def train(kind: str, out: Path, recipe: str, *more: str, code: int = 0) -> str:
    return ractd(*words(kind, out, recipe, *more), code=code)


def refused(kind: str, out: Path, recipe: str, *more: str) -> str:
    """What is said of a mistake, on one line."""
    return " ".join(train(kind, out, recipe, *more, code=2).split())


def contents(folder: Path) -> dict[str, str]:
    """Checksums by path of what lies in a folder, but for locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_model(path).network.state_dict() for path in (one, other))
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def numbers(path: Path) -> list[dict[str, Any]]:
    """The rows without their times."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(path)]


# What it makes


def test_where_all_is_worth_the_same_there_is_no_r2(datasets: Path, out: Path, recipe: str) -> None:
    data, name = load(NAME), parse_dataset_name("unpaid/maze2d-umaze-v1")
    unpaid = dataclasses.replace(data, name=name, rewards=np.zeros_like(data.rewards))
    write_minari(datasets, unpaid, {}, "waypoints", "a maze without a goal")
    options = ("--recipe", recipe, "--device", "cpu", "--threads", "1")
    said = ractd("train", "reward", str(name), "--out", str(out), *options)
    assert "held-out episodes: none, as there are none or all are worth the same; on the" in said
    assert "others: none, as there are none" in said


def test_teacher_reward_student_score(out: Path, recipe: str) -> None:
    said = train("teacher", out, recipe)
    assert f"{out / 'teacher.safetensors'}: teacher of {DATASET}" in said
    last = read_rows(out / "teacher.jsonl")[-1]
    assert f"6 steps in {sum(r['seconds'] for r in read_rows(out / 'teacher.jsonl')):.1f} s" in said
    assert f"loss {last['loss']:.4g}" in said
    assert f"next: ractd train reward {DATASET} --out {out} --recipe {recipe}" in said
    said = train("reward", out, recipe)
    measured = load_model(out / "reward.safetensors").about["measured"]
    # No held-out episode of so few meets the goal, so there is nothing to explain.
    assert measured["held_out_r2"] is None
    assert f"; on the others: {measured['r2']:.3g}" in said
    assert f"next: ractd train student {DATASET} --out {out} --recipe {recipe}" in said
    said = train("student", out, recipe)
    assert f"next: ractd evaluate {out / 'student.safetensors'}" in said
    assert set(contents(out)) == {
        f"{kind}.{suffix}"
        for kind in ("teacher", "reward", "student")
        for suffix in ("safetensors", "jsonl", "json")
    }
    [command] = re.findall(r"next: ractd (.*)", said)
    assert "normalized score" in ractd(*command.split(), "--episodes", "2")


def test_the_weights_are_those_of_the_stage_alone(out: Path, recipe: str) -> None:
    """Options reach the training: seed, steps and a field; compared with the core's own loop."""
    options = ("--seed", "3", "--steps", "4", "--set", "regression.optim.lr=1e-2")
    train("regression", out, recipe, *options, "--micro-batch", "8")
    changes = {"regression": {"seed": 3, "optim": {"steps": 4, "lr": 0.01}}}
    full = override(override(recipe_for(get_task("maze2d-umaze-v1")), CHANGES), changes)
    cpu = torch.device("cpu")
    stage, normalizers = make_stage("regression", full, load(NAME), {}, cpu)
    trainer = Trainer(stage, stage.optim, seed=3, device=cpu)
    trainer.run(every=1)
    stage.result(trainer.ema, normalizers).save(out / "twin.safetensors")
    assert same_weights(out / "regression.safetensors", out / "twin.safetensors")
    assert [row["step"] for row in read_rows(out / "regression.jsonl")] == [1, 2, 3, 4]


def test_joint_training_makes_a_student(out: Path, recipe: str) -> None:
    said = train("joint", out, recipe, "--seed", "2")
    assert "12 steps in" in said
    assert f"next: ractd evaluate {out / 'joint.safetensors'}" in said
    assert load_model(out / "joint.safetensors", "student").about["trained"] == "jointly"
    definition = json.loads((out / "joint.json").read_text())
    assert [definition[part]["seed"] for part in ("teacher", "reward", "student")] == [0, 0, 2]


def test_families_and_options_are_laid_over_each_other(out: Path, recipe: str) -> None:
    """The family below the file below the options, and the paper's names for its weights."""
    train("teacher", out, recipe, "--family", "paper", "--set", "teacher.times=mixed")
    teacher = json.loads((out / "teacher.json").read_text())["teacher"]
    assert (teacher["distance"], teacher["times"]) == ("pseudo_huber", "mixed")
    assert teacher["optim"]["steps"] == 6
    options = ("--set", "reward.network=mlp", "--set", "reward.widths=[16]")
    train("reward", out, recipe, "--family", "paper", *options)
    assert json.loads((out / "reward.json").read_text())["reward"]["widths"] == [16]
    train("student", out, recipe, "--family", "paper", "--set", "sigma=0.3", "--steps", "1")
    student = json.loads((out / "student.json").read_text())["student"]
    assert (student["reward_weight"], student["reward_at"]) == (0.3, "noise")


def test_parents_from_elsewhere(out: Path, recipe: str, tmp_path: Path) -> None:
    train("teacher", out, recipe)
    train("reward", out, recipe)
    apart = tmp_path / "apart"
    train("student", apart / "one", recipe, "--parents", str(out))
    (apart / "r.safetensors").write_bytes((out / "reward.safetensors").read_bytes())
    files = ("--parents", str(out), "--reward", str(apart / "r.safetensors"))
    train("student", apart / "two", recipe, *files)
    one, two = apart / "one/student.safetensors", apart / "two/student.safetensors"
    assert same_weights(one, two)
    # A teacher that learns from a reward model needs one too.
    rewarded = ("--set", "teacher.reward_weight=0.1")
    assert "no reward there yet" in refused("teacher", apart / "three", recipe, *rewarded)
    train("teacher", apart / "three", recipe, *rewarded, "--parents", str(out))


# The same command again


def test_what_is_there_is_not_trained_again(out: Path, recipe: str) -> None:
    first = train("teacher", out, recipe)
    before = contents(out)
    (out / "teacher.checkpoint.safetensors").write_bytes(b"of a process that was killed at its end")
    again = train("teacher", out, recipe, "--threads", "2")
    assert "is there already; nothing to train" in again
    assert again.splitlines()[1:] == first.splitlines()[-2:]
    assert contents(out) == before


def test_another_recipe_is_refused_and_says_what_differs(out: Path, recipe: str) -> None:
    train("teacher", out, recipe)
    before = contents(out)
    message = refused("teacher", out, recipe, "--steps", "7", "--set", "horizon=32")
    assert "teacher.optim.steps is 6 there and 7 here" in message
    assert "window.horizon is 16 there and 32 here" in message
    assert f"name another --out, or delete {out / 'teacher'}.*" in message
    assert contents(out) == before
    train("teacher", out.with_name("other"), recipe, "--steps", "7")
    # What another stage reads is no difference.
    train("teacher", out, recipe, "--set", "student.optim.steps=99")


def test_a_student_of_other_parents_is_refused(out: Path, recipe: str) -> None:
    for kind in ("teacher", "reward", "student"):
        train(kind, out, recipe)
    train("teacher", out.with_name("other"), recipe, "--seed", "1")
    other = out.with_name("other") / "teacher.safetensors"
    message = refused("student", out, recipe, "--teacher", str(other))
    assert "parents.teacher is" in message
    assert "parents.reward" not in message


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_interrupted_at_any_row_it_goes_on_to_the_same_bits(
    kind: str, out: Path, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = out.with_name("whole")
    for parent in ("teacher", "reward") if kind == "student" else ():
        train(parent, whole, recipe)
    train(kind, whole, recipe)
    parents = ("--parents", str(whole)) if kind == "student" else ()

    def interrupt_after(rows: int) -> Callable[[Trainer], None]:
        saved = Trainer.save

        def save(trainer: Trainer) -> None:
            saved(trainer)
            if trainer.step == rows:
                signal.raise_signal(signal.SIGINT)

        return save

    for step in (2, 5):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "save", interrupt_after(step))
            said = train(kind, out, recipe, *parents, code=130)
        checkpoint = out / f"{kind}.checkpoint.safetensors"
        assert f"interrupted; the same command goes on from {checkpoint}" in said
        assert not (out / f"{kind}.safetensors").exists()
        assert [row["step"] for row in read_rows(out / f"{kind}.jsonl")][-1] == step
    message = refused(kind, out, recipe, *parents, "--seed", "1")
    assert f"the unfinished {kind} in {out} is of something else: {kind}.seed is 0" in message
    assert f"going on from {checkpoint}" in train(kind, out, recipe, *parents)
    assert same_weights(out / f"{kind}.safetensors", whole / f"{kind}.safetensors")
    assert numbers(out / f"{kind}.jsonl") == numbers(whole / f"{kind}.jsonl")
    assert not checkpoint.exists()


def test_interrupted_before_its_first_checkpoint_it_can_become_another(
    out: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", lambda trainer: signal.raise_signal(signal.SIGINT))
        said = train("teacher", out, recipe, code=130)
    assert "interrupted before the first checkpoint" in said
    train("teacher", out, recipe, "--steps", "4")
    assert [row["step"] for row in read_rows(out / "teacher.jsonl")] == [1, 2, 3, 4]
    assert "nothing to train" in train("teacher", out, recipe, "--steps", "4")


def test_a_killed_process_is_followed_and_a_running_one_is_not(out: Path, recipe: str) -> None:
    steps = ("--steps", "400")
    checkpoint = out / "regression.checkpoint.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps", *words("regression", out, recipe, *steps)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        while not checkpoint.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        # Whatever it was writing is written now.
        os.waitpid(process.pid, os.WUNTRACED)
        before = contents(out)
        message = refused("regression", out, recipe, *steps)
        assert f"another process is training {out / 'regression.safetensors'}" in message
        assert contents(out) == before
    finally:
        process.kill()
        process.wait(30)
    assert f"going on from {checkpoint}" in train("regression", out, recipe, *steps)
    whole = out.with_name("whole")
    train("regression", whole, recipe, *steps)
    assert same_weights(out / "regression.safetensors", whole / "regression.safetensors")
    assert numbers(out / "regression.jsonl") == numbers(whole / "regression.jsonl")


def test_training_that_diverges_says_so_and_keeps_its_last_healthy_checkpoint(
    out: Path, recipe: str
) -> None:
    train("teacher", out, recipe)
    train("reward", out, recipe)
    options = ["--set", "student.collapse.loss=1.01", "--set", "student.optim.lr=3"]
    options += ["--set", "student.optim.warmup_steps=0"]
    said = train("student", out, recipe, *options, code=1)
    [error] = re.findall(r"error: student diverged: (.* by step \d.*?)\.", said)
    assert f"delete {out / 'student'}.* first" in said
    assert not (out / "student.safetensors").exists()
    tensors, about = load_checkpoint(out / "student.checkpoint.safetensors")
    assert 1 <= about["step"] < 6
    assert all(torch.isfinite(tensor).all() for key, tensor in tensors.items())
    assert error in train("student", out, recipe, *options, code=1)


# Refusals


def test_all_mistakes_are_told_at_once_and_nothing_is_written(
    out: Path, recipe: str, tmp_path: Path
) -> None:
    options = (
        [
            *("--set", "student.reward_wieght=0.3"),
            *("--set", "student.optim.lr=fast"),
            *("--set", "student.seed=1", "--seed", "2"),
            *("--set", "alpha=1", "--set", "student.ctm_weight=2"),
            *("--set", "student.dropout"),
            *("--set", "teacher.times=["),
        ],
    )
    message = train("student", out, recipe, *options[0], code=2)
    lines = message.splitlines()
    assert lines[0] == "error: train student: 8 problems; nothing was started"
    for expected in (
        "'student.reward_wieght' is not a field of the recipe; did you mean student.reward_weight",
        "recipe.student.optim.lr: Input should be a valid number",
        "--seed 2: student.seed is also set by --set",
        "--set student.ctm_weight=2: student.ctm_weight is set twice",
        "--set student.dropout: no value; write --set student.dropout=VALUE",
        "--set teacher.times=[: the value is not valid YAML",
        f"{out / 'teacher.safetensors'}: no teacher there yet; `ractd train teacher {DATASET} ",
        f"{out / 'reward.safetensors'}: no reward there yet; `ractd train reward {DATASET} ",
    ):
        assert expected in message, expected
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("joint", ("--steps", "4"), "joint trains teacher.optim.steps and student.optim.steps"),
        ("reward", ("--teacher", "t"), "--teacher t: this reward is built from no teacher"),
        ("teacher", ("--parents", "p"), "--parents p: this teacher is built from no other stage"),
        ("teacher", ("--set", "horizon=17"), "horizon 17 does not fit the teacher network"),
        ("student", ("--teacher", "absent.safetensors"), "absent.safetensors: no such checkpoint"),
        ("reward", ("--set", "reward.target=advantage"), "is planned in states"),
        ("joint", ("--set", "student.reward_scale=gradient"), "set it to none for joint training"),
    ],
)
def test_what_a_stage_cannot_be_trained_with(
    kind: str, options: tuple[str, ...], expected: str, out: Path, recipe: str
) -> None:
    assert expected in refused(kind, out, recipe, *options)
    assert not out.exists()


def test_data_that_is_not_here_and_what_is_no_data(out: Path) -> None:
    def said(dataset: str) -> str:
        return ractd("train", "teacher", dataset, "--out", str(out), code=2)

    assert "`ractd data make local/maze2d-large-v1` generates it" in said("local/maze2d-large-v1")
    assert "`ractd data download hopper-medium-v2` fetches it" in said("d4rl/hopper-medium-v2")
    assert "unknown task 'maze2d-umaze'; did you mean" in said("local/maze2d-umaze")
    assert "cannot be scored; use minari/antmaze-umaze-v2" in said("d4rl/antmaze-umaze-v2")
    assert not out.exists()


def test_recipe_files_that_are_none(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    assert f"--recipe {path} cannot be read" in refused("teacher", out, str(path))
    path.write_text("[1, 2]")
    assert "expected a mapping of keys, found list" in refused("teacher", out, str(path))
    path.write_text("{teacher: 3, studnet: {}}")
    message = refused("teacher", out, str(path), "--set", "teacher.seed=1")
    assert "recipe.teacher: Input should be a valid dictionary" in message
    assert "recipe.studnet: unknown key; did you mean student?" in message
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused("teacher", out, str(path))
    assert not out.exists()


def test_parents_that_do_not_fit(out: Path, recipe: str, tmp_path: Path) -> None:
    train("teacher", out, recipe)
    train("reward", out, recipe)
    before = contents(out)
    swapped = ("--teacher", str(out / "reward.safetensors"))
    assert "holds a reward model, expected teacher" in refused("student", out, recipe, *swapped)
    message = refused("student", out, recipe, "--set", "horizon=32")
    assert "is no teacher for this student: it has horizon 16, not 32" in message
    assert contents(out) == before
    assert not (out / ".student.lock").exists()


def test_a_folder_that_cannot_be_used(out: Path, recipe: str) -> None:
    out.write_text("a file")
    assert f"--out {out} is not a folder" in refused("teacher", out, recipe)
    out.unlink()
    train("teacher", out, recipe)
    model = out / "teacher.safetensors"
    whole = model.read_bytes()
    model.write_bytes(whole[:-5])
    message = refused("teacher", out, recipe)
    assert "truncated or damaged" in message
    assert f"delete {out / 'teacher'}.* to train it anew" in message
    model.write_bytes(whole)
    (out / "teacher.json").unlink()
    assert "but no teacher.json" in refused("teacher", out, recipe)


def test_devices_and_compilers_that_are_not_here(
    out: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device cuda: torch finds no CUDA" in refused(
        "teacher", out, recipe, "--device", "cuda"
    )
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler cannot be found" in refused("teacher", out, recipe, "--compile")
    assert not out.exists()


def test_kinds_are_locked_apart(out: Path, recipe: str) -> None:
    """A teacher and a reward model can be trained at once."""
    out.mkdir()
    with FileLock(out / ".teacher.lock"):
        assert "another process is training" in refused("teacher", out, recipe)
        train("reward", out, recipe)
    assert StageFolder(out, "teacher").outputs.model.exists() is False
    assert not (out / "teacher.json").exists()
