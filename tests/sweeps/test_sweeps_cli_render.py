"""``ractd cluster render``: what would run somewhere else, as text and as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sweeps.cli import app

EXAMPLES = Path(__file__).parents[2] / "cluster" / "examples"


def render(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["cluster", "render", *arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("example", "file"),
    [("slurm", "job.sh"), ("kuberay", "job.yaml"), ("vm-gcp", "cluster.yaml")],
)
def test_files_are_written_with_a_readme_and_are_what_is_printed(
    example: str, file: str, tiny: Callable[..., Path], tmp_path: Path, project_home: Path
) -> None:
    spec, cluster, out = str(tiny()), str(EXAMPLES / f"{example}.yaml"), tmp_path / "out"
    code, printed = render(spec, "--cluster", cluster)
    assert code == 0
    assert render(spec, "--cluster", cluster, "--out", str(out))[0] == 0
    assert without_date((out / file).read_text()) == without_date(printed)
    assert "# tiny" in (out / "README.md").read_text()
    assert not project_home.exists(), "nothing was submitted or remembered"


@pytest.mark.parametrize(
    "where", [("--backend", "local"), ("--address", "http://127.0.0.1:8265")], ids=["local", "ray"]
)
def test_places_that_are_told_by_an_option_are_rendered_with_their_file(
    where: tuple[str, str], tiny: Callable[..., Path], tmp_path: Path, project_home: Path
) -> None:
    spec, out, storage = str(tiny()), tmp_path / "out", ("--storage", str(tmp_path / "a b"))
    assert render(spec, *where, *storage, "--out", str(out))[0] == 0
    assert f"--cluster cluster.yaml --storage '{tmp_path}/a b'" in (out / "README.md").read_text()
    again = (str(out / "spec.yaml"), "--cluster", str(out / "cluster.yaml"), *storage)
    told = [without_date(each) for each in (render(*again)[1], render(spec, *where, *storage)[1])]
    assert told[0] == told[1]
    assert told[0] == without_date((out / "command.txt").read_text())


def without_date(text: str) -> list[str]:
    """What is rendered may say when it was made."""
    return [line for line in text.splitlines() if "submitted" not in line]


def test_the_storage_is_the_commands_then_the_specs_then_the_clusters(
    tiny: Callable[..., Path], project_home: Path
) -> None:
    cluster = str(EXAMPLES / "slurm.yaml")
    of_spec = str(tiny(storage="/shared/of-spec"))
    assert "spec.yaml /shared/of-spec " in render(of_spec, "--cluster", cluster)[1]
    told = render(of_spec, "--cluster", cluster, "--storage", "/shared/told")[1]
    assert "spec.yaml /shared/told " in told
    assert "spec.yaml /shared/ractd/storage " in render(str(tiny()), "--cluster", cluster)[1]


def test_storage_that_no_pod_would_keep_is_refused(
    tiny: Callable[..., Path], project_home: Path
) -> None:
    cluster = str(EXAMPLES / "kuberay.yaml")
    for where in ("/root/here", "/mnt/ractd/../../root/here"):
        code, said = render(str(tiny()), "--cluster", cluster, "--storage", where)
        assert code == 2
        assert "storage /root/here would be lost with the node that writes it" in said


def test_a_cluster_file_that_is_wrong_says_all_and_writes_nothing(
    tiny: Callable[..., Path], tmp_path: Path, project_home: Path
) -> None:
    raw = yaml.safe_load((EXAMPLES / "slurm.yaml").read_text())
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(yaml.safe_dump({**raw, "hours": -1, "partitoin": "gpu"}))
    out = tmp_path / "out"
    code, said = render(str(tiny()), "--cluster", str(cluster), "--out", str(out))
    assert code == 2
    assert "2 mistakes" in said
    assert "hours: Input should be greater than 0.05, found -1" in said
    assert "did you mean partition?" in said
    assert not out.exists()
    cluster.write_text("a: [")
    code, said = render(str(tiny()), "--cluster", str(cluster))
    assert (code, "is not YAML" in said) == (2, True)
    code, said = render(str(tiny()), "--cluster", str(EXAMPLES / "slurm.yaml"), "--backend", "vm")
    assert (code, "is for backend slurm, --backend says vm" in said) == (2, True)


def test_a_job_has_its_trials_grace_and_its_drivers_own(
    tiny: Callable[..., Path], project_home: Path
) -> None:
    spec = str(tiny(resources={"grace": 60}))
    told = render(spec, "--address", "http://127.0.0.1:8265")[1]
    assert json.loads(told)["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "75"
