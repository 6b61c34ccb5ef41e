"""Backends to test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Backend, LocalBackend
from cluster.kuberay import KubeRayBackend, KubeRayPlace
from cluster.kuberay_settings import KubeGroup
from cluster.slurm import Nodes, SlurmBackend, SlurmPlace
from tests.cluster import kubectl_stand_in, slurm_stand_in
from tests.cluster.jobs import BACKENDS


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """Where jobs lie; those still running at the end are stopped."""
    place = tmp_path / "jobs"
    yield place
    for run in place.glob("*/job/run.json"):
        if "pid" in run.read_text():
            LocalBackend(place).stop(run.parent.parent.name, grace=0.1)


@pytest.fixture
def slurm(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmBackend:
    """The backend of SLURM over a stand-in for it."""
    folder = tmp_path.with_name(f"{tmp_path.name}-slurm")
    binaries = slurm_stand_in.install(folder)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    monkeypatch.setattr("cluster.slurm._POLL", 0.05)
    nodes = Nodes(cpus=1)
    python = str(binaries / "python")
    return SlurmBackend(SlurmPlace(root=str(root), python=python, nodes=nodes, hours=1))


@pytest.fixture
def kuberay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KubeRayBackend:
    """The backend of KubeRay over a stand-in for kubectl and what is behind it."""
    binaries = kubectl_stand_in.install(tmp_path.with_name(f"{tmp_path.name}-kube"))
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    monkeypatch.setattr("cluster.kuberay._POLL", 0.05)
    group = KubeGroup(name="cpu", max=2, cpus=4, memory_gib=8)
    return KubeRayBackend(KubeRayPlace(image="registry/ractd:1", workers=(group,)))


@pytest.fixture(params=[*(make.__name__ for make in BACKENDS), "slurm", "kuberay"])
def backend(request: pytest.FixtureRequest, root: Path) -> Backend:
    for make in BACKENDS:
        if make.__name__ == request.param:
            return make(root)
    found: Backend = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def local(root: Path) -> LocalBackend:
    return LocalBackend(root)
