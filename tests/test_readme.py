"""Every command of the README's how-to, typed as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from ractd_core.bench import untrained_data, untrained_models
from ractd_core.config import Recipe
from ractd_core.tasks import get_task
from sweeps.spec import SweepSpec

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
README, DATA = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/data.md"))


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def test_make_targets_of_the_readme_exist() -> None:
    named = set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
    assert named == {"quickstart", "test"}
    makefile = (ROOT / "Makefile").read_text()
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_files_and_pictures_named_in_the_readme_exist() -> None:
    for page in PAGES:
        for path in re.findall(r"\]\(([\w/.-]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / path).is_file(), f"{page}: {path}"
    for path in re.findall(r"`((?:sweeps|ractd_core|cluster|analysis)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A mirror of D4RL's server on this machine, with one file of made-up numbers."""
    task = get_task("kitchen-complete-v0")
    rng = np.random.default_rng(0)
    file = tmp_path / "mirror" / "kitchen" / task.hdf5_file
    file.parent.mkdir(parents=True)
    with h5py.File(file, "w") as hdf5:
        hdf5["observations"] = rng.normal(size=(task.hdf5_rows, task.obs_dim))
        hdf5["actions"] = rng.uniform(-1, 1, (task.hdf5_rows, task.act_dim))
        hdf5["rewards"] = np.zeros(task.hdf5_rows)
        hdf5["terminals"] = np.arange(task.hdf5_rows) % 184 == 183
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_QuietHandler, directory=str(tmp_path / "mirror"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.ray
@pytest.mark.slow
def test_every_command_of_the_how_to_runs_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("RACTD_D4RL_MIRROR", mirror)
    monkeypatch.setenv("RACTD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    # `ractd` is what the README's reader has after activating the environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    [spec] = blocks("yaml")
    assert SweepSpec.model_validate(yaml.safe_load(spec)).name == "my-sweep"
    (tmp_path / "my-sweep.yaml").write_text(spec)
    [own_data] = blocks("python", DATA)
    subprocess.run([sys.executable, "-c", own_data], cwd=tmp_path, check=True)
    typed = [block for page in PAGES for block in blocks("console", page.read_text())]
    commands = [line[2:] for block in typed for line in block.splitlines()]
    assert len(commands) >= 8
    output = {}
    for command in commands:
        run = subprocess.run(
            shlex.split(command), cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        output[command] = run.stdout
    assert "3/3 trials" in output["ractd sweep status my-sweep"]
    assert "3/3 trials" in output["ractd sweep list"]
    assert "nothing to train" in output["ractd sweep resume my-sweep"]
    assert "1 trial to run" in output["ractd sweep resume my-sweep --spec my-sweep.yaml"]
    assert "published" in output["ractd report my-sweep"]
    for name in ("local/maze2d-medium-v1", "local/hopper-random-v2", "d4rl/kitchen-complete-v0"):
        assert name in output["ractd data list"]
    assert "local/maze2d-umaze-v1" in output["ractd tasks"]
    [imported] = [text for command, text in output.items() if command.startswith("ractd data imp")]
    assert "mylab/hopper-medium-v2: imported, 2,000 transitions in 20 episodes" in imported
    assert (tmp_path / "home/storage/sweeps/my-sweep/report/index.html").is_file()


def test_a_policy_is_exported_and_used_as_shown(tmp_path: Path) -> None:
    network = {"widths": [8], "patch": 4, "groups": 2}
    recipe = Recipe.model_validate(
        {
            "window": {"horizon": 16},
            "teacher": {"network": network},
            "regression": {"network": network},
        }
    )
    data = untrained_data(get_task("hopper-medium-v2"))
    student = untrained_models(recipe, data, tmp_path)["student"]
    [command] = re.findall(r"`(ractd export FILE [^`]+)`", README)
    typed = shlex.split(command.replace("FILE", str(student)))
    python = [sys.executable, "-m", "sweeps", *typed[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(python, cwd=tmp_path, env=environment, check=True)
    [use_policy] = blocks("python")
    shown = subprocess.run(
        [sys.executable, "-I", "-c", use_policy],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    action = np.array(shown.stdout.strip("[]\n").split(), dtype=float)
    assert action.shape == (3,)
    assert bool((np.abs(action) <= 1).all())
