"""``ractd tasks`` and ``ractd data``: what they print, and that a mistake leaves no dataset."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from ractd_core.tasks import all_tasks, get_task
from sweeps.cli_errors import user_errors
from tests.core.file_server import FileServer, serving
from tests.core.sources import (
    change_metadata,
    d4rl_rows,
    env_spec,
    hdf5_bytes,
    minari_episodes,
    store_minari,
    write_npz,
)
from tests.sweeps.command import ractd

pytestmark = pytest.mark.usefixtures("project_home")

DATASET = "local/maze2d-umaze-v1"
HOPPER = "hopper-medium-v2"
BELOW = "/kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(key, "127.0.0.1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where datasets are stored."""
    return tmp_path / "datasets"


def refused(*arguments: str) -> str:
    """The one message of a mistake."""
    output = ractd(*arguments, code=2)
    assert output.startswith("error: "), output
    assert output.count("error: ") == 1
    assert output.count("\n") == 1
    return output


def nothing_stored(root: Path) -> bool:
    """Neither a dataset nor a part of one is under ``root``."""
    return [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


# Tasks


def test_tasks_as_json_are_the_whole_table() -> None:
    rows = json.loads(ractd("tasks", "--json"))
    assert len(rows) == 42
    for row in rows:
        task = all_tasks()[row["task"]]
        assert (row["ref_min"], row["ref_max"]) == (task.ref_min, task.ref_max)
        assert (row["generated"], row["protocol"]) == (task.generated, task.protocol)
        assert row["datasets"] == []


def test_tasks_for_people_have_a_line_each() -> None:
    _, _, *lines, empty, groups = ractd("tasks").splitlines()
    assert [line.split()[0] for line in lines] == list(all_tasks())
    assert all(line.split()[-1] == "-" for line in lines)
    assert not empty
    assert groups.startswith("groups: ")
    assert "gym-mujoco-9 (9)" in groups
    assert f"all ({len(all_tasks())})" in groups


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["gym-mujoco-9"], 9),
        (["--domain", "adroit"], 12),
        (["*-human-v1"], 4),
        (["maze2d-medium-*", "--domain", "maze2d"], 2),
        (["kitchen-mixed-v0"], 1),
    ],
)
def test_tasks_may_be_chosen(arguments: list[str], count: int) -> None:
    lines = ractd("tasks", *arguments).partition("\n\ngroups: ")[0].splitlines()
    assert len(lines) == count + 2
    assert len(json.loads(ractd("tasks", *arguments, "--json"))) == count


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["hoper-medium-v2"], "did you mean hopper-medium-v2"),
        (["gym-mujoko"], "did you mean gym-mujoco"),
        (["zz*"], "groups: "),
        (["pen-*", "--domain", "maze2d"], "no maze2d task matches 'pen-*'"),
        (["--domain", "maze2"], "did you mean maze2d, antmaze?; there are mujoco, "),
        (["--domain", ""], "unknown domain ''; there are"),
    ],
)
def test_tasks_that_there_are_not(arguments: list[str], told: str) -> None:
    assert told in refused("tasks", *arguments)


# Data that are made here


def test_data_are_made_once_and_then_listed(root: Path) -> None:
    assert "no datasets here" in ractd("data", "list")
    made = ractd("data", "make", DATASET, "--transitions", "1000", "--seed", "3")
    assert f"{DATASET}: made, " in made
    assert (root / DATASET / "data" / "metadata.json").exists()
    again = ractd("data", "make", DATASET, "--transitions", "1000", "--seed", "3")
    assert f"{DATASET}: already there, " in again
    pattern = re.compile(r"(\d+) transitions(?: in|,) (\d+) episodes, fingerprint ([0-9a-f]{12})")
    [about] = {tuple(pattern.findall(text)) for text in (made, again, ractd("data", "list"))}
    [(transitions, episodes, _)] = about
    assert 0 < int(episodes) < int(transitions) <= 1000
    rows = {row["task"]: row["datasets"] for row in json.loads(ractd("tasks", "--json"))}
    assert {task: found for task, found in rows.items() if found} == {"maze2d-umaze-v1": [DATASET]}
    message = refused("data", "make", DATASET, "--transitions", "1001", "--seed", "3")
    assert "1001" in message
    assert "MINARI_DATASETS_PATH" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local/maze2d-umase-v1", "did you mean maze2d-umaze-v1"),
        ("maze2d-umaze-v1", "local/maze2d-umaze-v1 (generated here)"),
        ("d4rl/maze2d-umaze-v1", "d4rl/maze2d-umaze-v1 cannot be generated here"),
        ("local/pen-human-v1", "local/pen-human-v1 cannot be generated here"),
        ("../x", "'..' cannot name a data source"),
        ("local/../x", "unknown task '../x'"),
    ],
)
def test_a_dataset_that_cannot_be_made_is_explained(name: str, message: str, root: Path) -> None:
    assert message in refused("data", "make", name)
    assert not root.exists()


def test_data_that_have_no_place_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "below"))
    message = refused("data", "make", DATASET, "--transitions", "1000")
    assert str(tmp_path / "file" / "below") in message


# Files


def with_next(arrays: dict[str, Any]) -> dict[str, Any]:
    return arrays | {"next_observations": np.roll(arrays["observations"], -1, axis=0)}


def good(**changes: Any) -> dict[str, Any]:
    """60 rows of hopper with some arrays replaced, or left out where None."""
    arrays = with_next(d4rl_rows(HOPPER, rows=60)) | changes
    return {key: values for key, values in arrays.items() if values is not None}


def spoilt(key: str, at: Any, value: float) -> dict[str, Any]:
    values = good()[key].astype(np.float64)
    values[at] = value
    return good(**{key: values})


# What is in the file, and what the message says: found, expected, what to do.
BAD: list[tuple[Callable[[], bytes], list[str]]] = [
    (lambda: b"", ["the file is empty", "expected an HDF5 file", "download or export it again"]),
    (lambda: b"<html>404</html>", ["web page", "expected an HDF5 file", "download it again"]),
    (
        lambda: b"version https://git-lfs.github.com/spec/v1\n",
        ["git-lfs pointer", "expected an HDF5 file", "git lfs pull"],
    ),
    (lambda: b"anything", ["neither HDF5 nor .npz", "expected", "download it again"]),
    (lambda: hdf5_bytes(good())[:-5], ["truncated or damaged", "to its end", "compare its size"]),
    (lambda: hdf5_bytes(good(rewards=None)), ["rewards missing", "expected", "rename the arrays"]),
    (
        lambda: hdf5_bytes(with_next(d4rl_rows("walker2d-medium-v2", rows=60))),
        ["observations are 17 wide, expected 11", "actions are 6 wide, expected 3", "name that"],
    ),
    (
        lambda: hdf5_bytes(good(rewards=np.zeros(59))),
        ["rewards has 59 rows, expected 60", "correct the arrays"],
    ),
    (
        lambda: hdf5_bytes(spoilt("observations", (7, 2), np.nan)),
        ["observations holds 1 values that are not finite", "row 7", "expected finite", "correct"],
    ),
    (
        lambda: hdf5_bytes(spoilt("terminals", 3, 0.5)),
        ["flags other than 0 and 1, first 0.5 in row 3", "expected 0 and 1", "correct"],
    ),
    (
        lambda: hdf5_bytes(spoilt("actions", (4, 1), -1.37)),
        ["1.37 in size in row 4", "expected actions in [-1, 1]", "--clip-actions"],
    ),
    (
        lambda: hdf5_bytes(good(terminals=np.zeros(60))),
        ["60 rows hold no complete episode", "expected a terminal or time-out", "set terminals"],
    ),
]


@pytest.mark.parametrize("source", [["--source", "mylab"], []])
@pytest.mark.parametrize(("content", "told"), BAD, ids=[told[0] for _, told in BAD])
def test_a_bad_file_is_one_message_and_a_good_one_then_succeeds(
    tmp_path: Path, root: Path, content: Callable[[], bytes], told: list[str], source: list[str]
) -> None:
    path = tmp_path / "rows.hdf5"
    path.write_bytes(content())
    message = refused("data", "import", str(path), "--task", HOPPER, *source)
    assert str(path) in message
    checked = refused("data", "check", str(path), "--task", HOPPER)
    for fragment in told:
        assert fragment in checked
        # Without a source, a file of rows is first of all not D4RL's.
        assert fragment in message or (not source and "has 60 rows, but D4RL's" in message)
    assert nothing_stored(root)
    path.write_bytes(hdf5_bytes(good()))
    imported = ractd("data", "import", str(path), "--task", HOPPER, "--source", "mylab")
    assert "mylab/hopper-medium-v2: imported, 60 transitions in 3 episodes" in imported
    assert str(root / "mylab" / HOPPER) in imported
    again = ractd("data", "import", str(path), "--task", HOPPER, "--source", "mylab")
    assert "mylab/hopper-medium-v2: already there" in again


def test_actions_may_be_clipped(tmp_path: Path) -> None:
    path = tmp_path / "rows.hdf5"
    path.write_bytes(hdf5_bytes(spoilt("actions", (4, 1), -1.37)))
    arguments = (str(path), "--task", HOPPER, "--clip-actions")
    assert "imported" in ractd("data", "import", *arguments, "--source", "mylab")
    assert "-1 to " in ractd("data", "check", *arguments)


def test_arrays_of_ones_own_need_a_source(tmp_path: Path, root: Path) -> None:
    path = write_npz(tmp_path / "rows.npz", good())
    message = refused("data", "import", str(path), "--task", HOPPER)
    assert f"{path} is no HDF5 file, but D4RL's hopper_medium-v2.hdf5 is" in message
    assert "--source (local, or a label of yours)" in message
    assert nothing_stored(root)
    assert "mylab/hopper-medium-v2: imported" in ractd(
        "data", "import", str(path), "--task", HOPPER, "--source", "mylab"
    )


def test_a_file_of_another_size_is_not_d4rls(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "hopper_medium-v2.hdf5"
    path.write_bytes(hdf5_bytes(good()))
    message = refused("data", "import", str(path), "--task", HOPPER)
    assert f"{path} has 60 rows, but D4RL's hopper_medium-v2.hdf5 has about 1,000,000" in message
    assert "--source" in message
    assert nothing_stored(root)
    whole = tmp_path / "kitchen.hdf5"
    whole.write_bytes(hdf5_bytes(d4rl_rows("kitchen-complete-v0")))
    assert "d4rl/kitchen-complete-v0: imported" in ractd(
        "data", "import", str(whole), "--task", "kitchen-complete-v0"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{file}", "--task", "hoper-medium-v2"], "did you mean hopper-medium-v2"),
        (["{file}", "--task", HOPPER, "--source", "../x"], "'../x' cannot name a data source"),
        (["{file}", "--task", HOPPER, "--source", "My_Lab"], "'My_Lab' cannot name a data source"),
        (["{file}", "--task", HOPPER, "--source", "minari"], "needs another --source"),
        (["{file}", "--task", f"../{HOPPER}", "--source", "mylab"], "unknown task"),
        (["absent.hdf5", "--task", HOPPER], "absent.hdf5: no such file"),
        (["folder/absent", "--task", HOPPER], "is no file, and the Minari id"),
        (["{tmp}", "--task", HOPPER], "this is a folder"),
        (["../../etc", "--task", HOPPER, "--source", "mylab"], "../../etc: no such file"),
        (["hf://x/y-v0", "--task", HOPPER, "--source", "mylab"], "neither a file nor a Minari id"),
    ],
)
def test_what_cannot_be_imported_is_explained(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "rows.hdf5"
    file.write_bytes(hdf5_bytes(good()))
    filled = [argument.format(file=file, tmp=tmp_path) for argument in arguments]
    assert told in refused("data", "import", *filled)
    assert nothing_stored(root)


# Minari's datasets


def test_a_minari_dataset_is_imported_under_a_label(root: Path) -> None:
    data = store_minari(root, "mine/hopper-v0", minari_episodes(HOPPER), 3)
    for arguments, told in (
        (["mine/hopper-v0"], "give it a label of its own with --source"),
        (["mine/hopper", "--source", "mylab"], "write it as mine/hopper-v0"),
        (["mine/absent-v0", "--source", "mylab"], "no Minari dataset mine/absent-v0 under"),
        (["mine/hopper-v0", "--source", "minari"], "is Minari's mujoco/hopper/medium-v0, not"),
    ):
        assert told in refused("data", "import", *arguments, "--task", HOPPER)
    assert "widths" not in refused("data", "check", "mine/hopper-v0", "--task", "pen-human-v1")
    assert "13 transitions" in ractd("data", "check", "mine/hopper-v0", "--task", HOPPER)
    change_metadata(data, env_spec=env_spec("Walker2d-v5", "Walker2d-v5"))
    message = refused("data", "import", "mine/hopper-v0", "--task", HOPPER, "--source", "mylab")
    assert "was collected in Walker2d-v5, but hopper-medium-v2 is evaluated in Hopper-v5" in message
    assert not (root / "mylab" / HOPPER).exists()
    change_metadata(data, env_spec=env_spec("Hopper-v5", "Hopper-v5"))
    assert "mylab/hopper-medium-v2: imported, 13 transitions in 3 episodes" in ractd(
        "data", "import", "mine/hopper-v0", "--task", HOPPER, "--source", "mylab"
    )


# Checking and listing


def test_a_check_says_what_a_dataset_holds(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "rows.npz", good())
    ractd("data", "import", str(path), "--task", HOPPER, "--source", "mylab")
    shown = ractd("data", "check", "mylab/hopper-medium-v2")
    for fragment in (
        "60 transitions in 3 episodes (3 terminated, 0 cut)",
        "kind imported, file rows.npz, sha256 ",
        "normalized score",
        "note: not D4RL's own data: scores are reported as mylab/hopper-medium-v2, never as",
    ):
        assert fragment in shown
    report = json.loads(ractd("data", "check", "mylab/hopper-medium-v2", "--json"))
    returns = good()["rewards"].reshape(3, 20).sum(axis=1)
    assert report["returns"]["max"] == pytest.approx(returns.max(), rel=1e-5)
    score = get_task(HOPPER).normalized_score(returns.mean())
    assert report["score"]["mean"] == pytest.approx(float(score), rel=1e-5)
    assert report["fingerprint"][:12] in ractd("data", "list")
    unstored = json.loads(ractd("data", "check", str(path), "--task", HOPPER, "--json"))
    assert unstored["transitions"] == 60
    assert unstored["origin"] == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mylab/hopper-medium-v2"], "ractd data import FILE --task hopper-medium-v2 --source"),
        (["hopper-medium-v2"], "names a task but not where its data come from"),
        (["d4rl/pen-human-v1"], "`ractd data download pen-human-v1` fetches it"),
        (["absent.hdf5", "--task", HOPPER], "absent.hdf5: no such file"),
        (["mine/absent-v0", "--task", HOPPER], "no Minari dataset mine/absent-v0"),
        (["x.hdf5", "--task", "hopper"], "did you mean hopper-"),
    ],
)
def test_what_cannot_be_checked_is_explained(arguments: list[str], told: str) -> None:
    assert told in refused("data", "check", *arguments)


def test_one_damaged_dataset_does_not_hide_the_others(tmp_path: Path, root: Path) -> None:
    path = write_npz(tmp_path / "rows.npz", good())
    for source in ("ab", "cd", "ef"):
        ractd("data", "import", str(path), "--task", HOPPER, "--source", source)
    (root / "cd" / HOPPER / "data" / "main_data.hdf5").write_bytes(b"")
    (root / "ef" / HOPPER / "data" / "metadata.json").write_text('{"env_spec": "{"}')
    store_minari(root, "gh/hopper-medium-v2", minari_episodes(HOPPER), 3)
    listed = ractd("data", "list", code=2)
    for source in ("ab", "gh"):
        assert re.search(rf"^{source}/hopper-medium-v2: \d+ transitions", listed, re.MULTILINE)
    for source in ("cd", "ef"):
        where = re.escape(str(root / source / HOPPER))
        assert re.search(rf"^{source}/hopper-medium-v2: {where}.* again", listed, re.MULTILINE)


# Downloads


@pytest.fixture
def mirror() -> Iterator[FileServer]:
    content = hdf5_bytes(d4rl_rows("kitchen-complete-v0", every=184))
    with serving(files={BELOW: content}) as server:
        yield server


def test_a_file_is_downloaded_from_a_mirror(
    mirror: FileServer, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("data", "download", "kitchen-complete-v0")
    downloaded = ractd(*command, "--mirror", mirror.url)
    assert downloaded.startswith("d4rl/kitchen-complete-v0: downloaded, 3,660 transitions")
    assert len(downloaded.splitlines()) == 1
    monkeypatch.setenv("RACTD_D4RL_MIRROR", mirror.url)
    assert "d4rl/kitchen-complete-v0: already there" in ractd(*command)
    assert len(mirror.requests) == 1
    # One that fails does not keep the others of a group from being tried.
    first, *failed = ractd("data", "download", "kitchen", code=2).splitlines()
    assert first.startswith("d4rl/kitchen-complete-v0: already there")
    assert failed[0].startswith("error: d4rl/kitchen-partial-v0: ")
    assert failed[1].startswith("d4rl/kitchen-mixed-v0: ")
    for message in failed:
        assert "404" in message
        assert "/kitchen/kitchen_microwave_kettle_" in message
    assert not (root / "d4rl" / "kitchen-partial-v0").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["kichen"], "did you mean kitchen"),
        (["../x"], "unknown task or group '../x'"),
        (["hopper-random-v2", "--source", "minari"], "Minari has no dataset for hopper-random-v2"),
        (["pen-human-v1", "--mirror", "file:///etc"], "cannot be fetched"),
        (["pen-human-v1", "--mirror", "nowhere"], "cannot be fetched"),
    ],
)
def test_what_cannot_be_downloaded_is_explained(
    arguments: list[str], told: str, root: Path
) -> None:
    assert told in refused("data", "download", *arguments)
    assert nothing_stored(root)


# Interrupts


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps", *arguments],
        env=os.environ.copy(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(process: subprocess.Popen[str], under_way: Callable[[], bool]) -> str:
    """Press Ctrl-C as soon as the work is under way; what it says then."""
    deadline = time.monotonic() + 90
    while not under_way():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=90)
    assert process.returncode == 130, (out, errors)
    assert out == ""
    assert "Traceback" not in errors
    return errors


class RaisesInFinalizer:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_python_drops_is_sent_again() -> None:
    begin = time.monotonic()

    @user_errors()
    def work() -> None:
        RaisesInFinalizer()
        time.sleep(60)

    with pytest.raises(typer.Exit) as ended:
        work()
    assert ended.value.exit_code == 130
    assert time.monotonic() - begin < 30


def test_an_interrupted_import_leaves_nothing(tmp_path: Path, root: Path) -> None:
    path = write_npz(tmp_path / "rows.npz", d4rl_rows(HOPPER, rows=8000, every=4))
    process = command("data", "import", str(path), "--task", HOPPER, "--source", "mylab")
    errors = interrupt(process, lambda: any(root.rglob("main_data.hdf5")))
    assert errors.endswith("interrupted\n")
    assert nothing_stored(root)
    path = write_npz(tmp_path / "rows.npz", good())
    assert "imported" in ractd("data", "import", str(path), "--task", HOPPER, "--source", "mylab")


def test_an_interrupted_download_is_resumed(mirror: FileServer, root: Path) -> None:
    mirror.chunk_pause = 0.05
    process = command("data", "download", "kitchen-complete-v0", "--mirror", mirror.url)
    part = root / ".downloads" / f"{BELOW.rpartition('/')[2]}.part"
    interrupt(process, lambda: part.exists() and part.stat().st_size >= 1 << 17)
    assert not (root / "d4rl" / "kitchen-complete-v0").exists()
    have = part.stat().st_size
    mirror.chunk_pause = 0
    assert "downloaded" in ractd("data", "download", "kitchen-complete-v0", "--mirror", mirror.url)
    assert mirror.requests[-1] == (BELOW, f"bytes={have}-")
    assert list((root / ".downloads").iterdir()) == []
