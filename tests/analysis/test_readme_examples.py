"""Every example of the package's README, run in order as one notebook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import analysis

if TYPE_CHECKING:
    from tests.analysis.conftest import SweepBuilder

README = Path(analysis.__file__).with_name("README.md")


def test_every_example_runs(
    full: SweepBuilder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The examples read the folder "storage", where a reader has a link or a path of their own.
    (full.storage / "storage").symlink_to(full.storage, target_is_directory=True)
    monkeypatch.chdir(full.storage)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 7
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out
    for text in (
        "completed    5",
        "low=None, high=None",
        "diverged=1",
        r"\toprule",
        " σ |",
        "secondary notes on arXiv",
    ):
        assert text in printed, text


def test_files_that_the_readme_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    for name in set(re.findall(r"\b(\w+)\.py\b", text)) - {"test_load_at_size"}:
        assert (README.parent / f"{name}.py").is_file(), name
