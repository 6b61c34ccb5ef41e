"""The command: what it prints, and that a mistake is one message and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ractd_core.files import write_json
from sweeps.cli import app
from sweeps.jsonl import append_row
from sweeps.layout import CURVE, SweepFolder
from sweeps.spec import load_spec
from tests.sweeps.command import ractd

pytestmark = pytest.mark.usefixtures("project_home")

Spec = Callable[..., Path]
DATASET = "local/maze2d-umaze-v1"


def refused(*arguments: str) -> str:
    """The one message of a mistake."""
    output = ractd(*arguments, code=2)
    assert output.startswith("error: "), output
    return output


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def frozen(storage: Path, tiny: Spec) -> SweepFolder:
    """A sweep that was started and has one record."""
    spec = load_spec(str(tiny()))
    folder = SweepFolder(storage, spec.name)
    folder.freeze(spec)
    append_row(folder.trials.folder("k") / CURVE, {"step": 10, "score": 1.0})
    selection = {"score": 61.5}
    record = {"dataset": DATASET, "status": "completed", "number": 0, "reason": None}
    record |= {"seconds": 1.0, "workers": 1, "finished": "2026-03-01T12:00:00+00:00"}
    folder.trials.put("k", {**record, "selection": selection})
    return folder


# Sweeps


def test_a_bad_spec_names_every_problem_and_starts_nothing(tiny: Spec, storage: Path) -> None:
    path = tiny(trials=0, trails=3, tasks=["local/maze2d-umase-v1"])
    message = refused("sweep", "run", str(path), "--storage", str(storage))
    assert "3 problems; nothing was started" in message
    for problem in ("trials: ", "trails: unknown key", "tasks.0: unknown task"):
        assert problem in message
    assert not storage.exists()


def test_a_spec_that_is_not_there_hints_at_presets() -> None:
    assert "did you mean quickstart" in refused("sweep", "run", "quickstrat")


@pytest.mark.parametrize("command", ["resume", "status", "stop"])
@pytest.mark.parametrize("name", ["another", "../tiny", "Tiny", ""])
def test_an_unknown_sweep_is_refused_with_those_that_are_there(
    command: str, name: str, frozen: SweepFolder
) -> None:
    message = refused("sweep", command, name, "--storage", str(frozen.storage))
    assert "there: tiny" in message
    assert not (frozen.path / "job").exists()


def test_a_report_of_an_unknown_sweep_lists_near_names(frozen: SweepFolder) -> None:
    write_json(frozen.path / "sweep.json", {"created": "then"})
    message = refused("report", "tinny", "--storage", str(frozen.storage))
    assert "did you mean tiny?" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ("sweep", "list"),
        ("sweep", "status", "x"),
        ("sweep", "resume", "x"),
        ("sweep", "run", "quickstart"),
        ("report", "x"),
    ],
)
@pytest.mark.parametrize("place", ["file/below", "gs://bucket/sweeps"])
def test_a_storage_that_cannot_be_used_is_refused(
    arguments: tuple[str, ...], place: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    where = place if "://" in place else str(tmp_path / place)
    assert where.removesuffix("bucket/sweeps") in refused(*arguments, "--storage", where)


def test_another_spec_under_a_used_name_is_refused(frozen: SweepFolder, tiny: Spec) -> None:
    message = refused("sweep", "run", str(tiny(seed=9)), "--storage", str(frozen.storage))
    assert "with another spec" in message
    assert not (frozen.path / "job").exists()


def test_a_sweep_of_other_recipes_can_be_watched_and_stopped_but_not_resumed(
    frozen: SweepFolder, tiny: Spec
) -> None:
    recipes = frozen.path / "recipes.json"
    recipes.write_text(recipes.read_text().replace('"hold"', '"zero"'))
    storage = ("--storage", str(frozen.storage))
    for command in (("resume", "tiny"), ("run", str(tiny()))):
        message = refused("sweep", *command, *storage)
        assert "reward.truncation was zero, is hold" in message
        assert not (frozen.path / "job").exists()
    assert "1/4 trials" in ractd("sweep", "status", "tiny", *storage)
    assert "1/4 trials" in ractd("sweep", "list", *storage)
    assert "tiny: " in ractd("sweep", "stop", "tiny", *storage)


def test_an_empty_storage_says_how_to_start(storage: Path, project_home: Path) -> None:
    assert f"no sweeps in {storage}" in ractd("sweep", "list", "--storage", str(storage))
    assert f"no sweeps in {project_home / 'storage'}" in ractd("sweep", "list")


def test_a_sweep_is_listed_and_its_status_told(frozen: SweepFolder) -> None:
    listed = ractd("sweep", "list", "--storage", str(frozen.storage))
    assert "tiny [unknown]" in listed
    told = ractd("sweep", "status", "tiny", "--storage", str(frozen.storage))
    for output in (listed, told):
        assert f"{DATASET}: 1/4 trials (1 completed), 0 under way, 3 to come, best 61.5" in output
    assert "report:" not in told


def test_stopping_a_sweep_that_does_not_run_changes_nothing(frozen: SweepFolder) -> None:
    assert "tiny: unknown" in ractd("sweep", "stop", "tiny", "--storage", str(frozen.storage))


def test_a_damaged_record_is_a_message_that_names_the_file(frozen: SweepFolder) -> None:
    path = frozen.trials.folder("k") / "record.json"
    path.write_text(path.read_text()[:20])
    assert str(path) in refused("sweep", "status", "tiny", "--storage", str(frozen.storage))


def test_a_damaged_spec_is_a_message_that_names_the_file(frozen: SweepFolder) -> None:
    path = frozen.path / "spec.yaml"
    path.write_text("name: [")
    assert str(path) in refused("sweep", "status", "tiny", "--storage", str(frozen.storage))


@pytest.mark.parametrize("arguments", [(), ("sweep",), ("data",)])
def test_a_command_without_a_verb_shows_its_help(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code in (0, 2)
    assert "Usage:" in result.output


def test_the_installed_module_ends_with_the_code_and_no_traceback(storage: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", "sweep", "status", "none", "--storage", str(storage)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no sweep 'none'")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("file", ["spec.yaml", "trials/k/record.json"])
def test_a_damaged_sweep_does_not_hide_the_others(tiny: Spec, storage: Path, file: str) -> None:
    for name in ("bad", "good"):
        spec = load_spec(str(tiny(name=name)))
        SweepFolder(storage, name).freeze(spec)
    damaged = storage / "sweeps" / "bad" / file
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_text("[")
    shown = ractd("sweep", "list", "--storage", str(storage))
    assert "good [unknown] local/maze2d-umaze-v1: 0/4 trials" in shown
    assert "bad [unknown]" in shown


def test_a_spec_may_say_where_its_storage_is(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.cli._drive", lambda folder, *rest: 0)
    runner = CliRunner()
    spec = tiny(storage=str(tmp_path / "shared"))
    assert runner.invoke(app, ["sweep", "run", str(spec)]).exit_code == 0
    assert (tmp_path / "shared/sweeps/tiny/spec.yaml").is_file()
    given = ["sweep", "run", str(spec), "--storage", str(tmp_path / "given")]
    assert runner.invoke(app, given).exit_code == 0
    assert (tmp_path / "given/sweeps/tiny/spec.yaml").is_file()
