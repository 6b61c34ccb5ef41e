"""Backends to test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import Backend, LocalBackend
from tests.cluster.jobs import BACKENDS


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where jobs lie; those still running at the end are stopped."""
    place = tmp_path / "jobs"
    yield place
    for folder in place.glob("*/job"):
        LocalBackend(place).stop(folder.parent.name, grace=0.1)


@pytest.fixture(params=BACKENDS, ids=lambda make: str(make.__name__))
def backend(request: pytest.FixtureRequest, root: Path) -> Backend:
    make: Callable[[Path], Backend] = request.param
    return make(root)


@pytest.fixture
def local(root: Path) -> LocalBackend:
    return LocalBackend(root)
