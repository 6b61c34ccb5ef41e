"""Every command of the README's how-to, typed as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sweeps.spec import SweepSpec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_make_targets_of_the_readme_exist() -> None:
    named = set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
    assert named == {"quickstart", "test"}
    makefile = (ROOT / "Makefile").read_text()
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_files_and_pictures_named_in_the_readme_exist() -> None:
    for path in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`((?:sweeps|ractd_core|cluster|analysis)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.ray
@pytest.mark.slow
def test_every_command_of_the_how_to_runs_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RACTD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    # `ractd` is what the README's reader has after activating the environment.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    [spec] = blocks("yaml")
    assert SweepSpec.model_validate(yaml.safe_load(spec)).name == "my-sweep"
    (tmp_path / "my-sweep.yaml").write_text(spec)
    commands = [line[2:] for block in blocks("console") for line in block.splitlines()]
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
    assert "published" in output["ractd report my-sweep"]
    assert "local/maze2d-medium-v1" in output["ractd data list"]
    assert "local/maze2d-umaze-v1" in output["ractd tasks"]
    assert (tmp_path / "home/storage/sweeps/my-sweep/report/index.html").is_file()
