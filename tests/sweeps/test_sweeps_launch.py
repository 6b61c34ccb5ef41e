"""A whole sweep as one job: how it ends before it begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cluster import LocalPlace
from sweeps.cli_cluster import _place, job_of
from sweeps.layout import SweepFolder
from sweeps.spec import load_spec
from sweeps.versions import versions
from tests.sweeps.command import ractd

_ROOT = Path(__file__).parents[2]


def launch(spec: Path, storage: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps.launch", str(spec), str(storage)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT), **environment},
    )


@pytest.mark.slow
def test_what_the_user_can_mend_is_one_message_and_exit_code_2(
    tiny: Callable[..., Path], project_home: Path, tmp_path: Path
) -> None:
    spec = tiny()
    held = SweepFolder(tmp_path / "storage", "tiny")
    held.freeze(load_spec(str(spec)))
    (tmp_path / "versions.json").write_text(json.dumps({**versions(), "torch": "1.0.0"}))
    bad = tmp_path / "bad.yaml"
    bad.write_text(spec.read_text().replace("trials: 4", "trial: 4"))
    with FileLock(held.path / "driver.lock"):
        begun = {
            "already being driven": launch(spec, held.storage),
            "trial": launch(bad, tmp_path / "other"),
            # Before it is even looked for.
            "instead of 1.0.0": launch(spec, tmp_path / "third", RAY_ADDRESS="127.0.0.1:1"),
        }
        for words, process in begun.items():
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 2, out
            assert words in out
            assert "Traceback" not in out
    assert not (tmp_path / "other").exists()
    assert list((tmp_path / "third").iterdir()) == []


def test_a_job_takes_the_spec_and_versions_and_code_with_it(tiny: Callable[..., Path]) -> None:
    spec = load_spec(str(tiny()))
    job = job_of(spec, "/shared/with space")
    assert job.command[-2:] == ("spec.yaml", "/shared/with space")
    assert set(job.files) == {"spec.yaml", "versions.json"}
    assert json.loads(job.files["versions.json"]) == versions()
    assert {package.name for package in job.code} == {"ractd_core", "sweeps", "cluster", "analysis"}
    assert all((package / "__init__.py").exists() for package in job.code)
    assert job.metadata["ractd"] == versions()["ractd"]


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ({"backend": "ray", "adress": "http://h:8265"}, "address: missing"),
        ({"backend": "ray", "address": "h:8265"}, "expected the dashboard's http://HOST:8265"),
        ([1], "1 mistake"),
    ],
)
def test_a_cluster_file_with_mistakes_is_refused(
    place: Any, told: str, tiny: Callable[..., Path], project_home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "my-cluster.yaml"
    file.write_text(json.dumps(place))
    out = ractd("cluster", "submit", str(tiny()), "--cluster", str(file), code=2)
    assert told in out
    assert str(file) in out.replace("\n", "")
    assert not project_home.exists()


def test_rendering_for_a_cluster_shows_the_command_and_asks_nobody(
    tiny: Callable[..., Path], project_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ("--address", "http://127.0.0.1:1", "--storage", "here")
    request = json.loads(ractd("cluster", "render", str(tiny()), *where))
    command = request["entrypoint"].partition(" python ")[2]
    assert command == f"-u -m sweeps.launch spec.yaml {tmp_path / 'here'}"
    assert "sweeps" in request["working_dir"]
    assert not project_home.exists()


def test_a_local_jobs_folder_is_on_this_machine_though_its_storage_is_not(
    tiny: Callable[..., Path], project_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    place, where = _place("local", None, None, "s3://bucket/prefix")
    assert where == "s3://bucket/prefix"
    assert isinstance(place, LocalPlace)
    assert place.root == project_home / "jobs" / "local"
    place, where = _place("local", None, None, "here")
    assert isinstance(place, LocalPlace)
    assert place.root == tmp_path / "here" / "sweeps"
    assert where == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ("s3://AKIA:hunter2@bucket/p", "holds credentials"),
        ("s3://bucket/p?secret_key=hunter2", "holds credentials"),
        ("gs://hunter2/p", "gs:// is not supported"),
    ],
)
@pytest.mark.parametrize("verb", ["render", "submit"])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_storage_with_credentials_goes_nowhere(
    tiny: Callable[..., Path],
    project_home: Path,
    tmp_path: Path,
    storage: str,
    told: str,
    verb: str,
    in_file: bool,
) -> None:
    address = "http://127.0.0.1:1"
    file = tmp_path / "my-cluster.yaml"
    file.write_text(json.dumps({"backend": "ray", "address": address, "storage": storage}))
    where = ("--cluster", str(file)) if in_file else ("--address", address, "--storage", storage)
    out = ractd("cluster", verb, str(tiny()), *where, code=2)
    assert told in " ".join(out.split())
    assert "hunter2" not in out
    assert not in_file or str(file) in out.replace("\n", "")
    assert not project_home.exists()
