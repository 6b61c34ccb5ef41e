"""The batch script, run by bash; SLURM's commands are stand-ins here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import Job, JobError, JobState
from cluster.slurm import SlurmBackend, SlurmPlace
from tests.cluster.jobs import shell, wait, wait_for_line

words = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=12
)
lines = words.filter(lambda text: bool(text) and text.isprintable())
folders = lines.map(lambda text: "/" + text.replace("/", "_").replace("..", "_"))


def place(**changes: object) -> SlurmPlace:
    told = {
        "root": "/shared/jobs",
        "python": "/shared/venv/bin/python",
        "nodes": {"count": 2, "cpus": 8, "memory_gib": 62.5, "gpus": 4, "gpu_type": "a100"},
        "hours": 23.5,
    }
    return SlurmPlace.model_validate({**told, **changes})


def directives(script: str) -> dict[str, str]:
    found = [line.removeprefix("#SBATCH --") for line in script.splitlines() if "#SBATCH" in line]
    return {key: value for key, _, value in (line.partition("=") for line in found)}


def test_what_is_asked_of_slurm() -> None:
    script = SlurmBackend(
        place(partition="gpu", account="lab", qos="long", constraint="a100&ib")
    ).render(shell("one", "true"))
    assert directives(script) == {
        "job-name": "ractd-one",
        "nodes": "2",
        "time": "1410",
        "mem": "64000M",
        "gpus-per-node": "a100:4",
        "partition": "gpu",
        "account": "lab",
        "qos": "long",
        "constraint": "a100&ib",
        "ntasks-per-node": "1",
        "cpus-per-task": "8",
        "exclusive": "",
        "output": "log.txt",
        "open-mode": "append",
        "signal": "B:TERM@120",
        "requeue": "",
    }
    assert "--num-cpus=8 --num-gpus=4 --" in script


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(words, min_size=1, max_size=4), folder=folders, value=lines)
def test_nothing_from_a_file_breaks_out_of_its_quotes(
    arguments: list[str], folder: str, value: str, tmp_path: Path
) -> None:
    """Bash reads back every word as it was given, and nothing else."""
    backend = SlurmBackend(place(python=f"{folder}/bin/python", environment={"A": value}))
    script = backend.render(Job("one", ("printf", "%s\\0", *arguments)))
    assert script.count("#SBATCH") == len(directives(script))
    # Its roles, without a cluster.
    roles = script.removesuffix('"${1:-batch}"\n')
    assert roles != script
    probe = f"""{roles}
srun() {{ printf '%s\\0' "$PATH" "$A" >&3; HEAD=h drive; }}
od() {{ :; }}; tr() {{ :; }}; rm() {{ :; }}; cat() {{ echo 0; }}; mv() {{ :; }}
batch 3>&1
"""
    (tmp_path / "log.txt").unlink(missing_ok=True)
    told = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1"}
    done = subprocess.run(
        ["bash", "-c", probe], env=told, cwd=tmp_path, capture_output=True, check=True
    )
    expected = [f"{folder.rstrip('/')}/bin:{os.environ['PATH']}", value, ""]
    assert done.stdout.decode().split("\0") == expected
    assert (tmp_path / "log.txt").read_bytes().decode().split("\0") == [*arguments, ""]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partition", "gpu --wrap=id"),
        ("account", "a\n#SBATCH --uid=0"),
        ("constraint", "a #b"),
        ("qos", "'x'"),
        ("root", "jobs"),
        ("root", "/shared/../etc"),
        ("python", "/a\nb"),
        ("modules", ["cuda; id"]),
        ("environment", {"A-B": "1"}),
        ("environment", {"A": "x\ny"}),
        ("secrets", ["$(id)"]),
    ],
)
def test_what_could_be_more_than_one_word_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        place(**{key: value})


def test_the_script_is_in_order(tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    options = {"modules": ["cuda/12.4"], "environment": {"A": "1"}, "secrets": ["AWS_SECRET"]}
    path.write_text(SlurmBackend(place(**options)).render(shell("one", "echo 'a b'")))
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed; bash -n found nothing")
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
    assert done.stdout == ""


# Over the stand-in


def test_a_token_is_made_for_every_run_and_nobody_else_can_read_it(
    slurm: SlurmBackend, tmp_path: Path
) -> None:
    folder, seen = slurm.folder("one"), tmp_path / "seen"
    slurm.submit(
        shell("one", f'stat -c %a token; cat token >> {seen}; echo "$RAY_AUTH_MODE $RAY_ADDRESS"')
    )
    assert wait(slurm, "one") is JobState.SUCCEEDED
    slurm.resume("one")
    assert wait(slurm, "one") is JobState.SUCCEEDED
    assert list(slurm.logs("one")) == ["600", "token 127.0.0.1:20002"]
    first, second = seen.read_text()[:64], seen.read_text()[64:]
    assert len(first) == len(second) == 64
    assert first != second
    assert not (folder / "token").exists()
    kept = "".join(path.read_text() for path in folder.iterdir())
    assert first not in kept


def test_a_ray_that_does_not_start_is_a_failed_job(
    slurm: SlurmBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ray symmetric-run`` itself ends with 0 then."""
    monkeypatch.setenv("RAY_FAILS", "1")
    slurm.submit(shell("one", "echo never"))
    assert wait(slurm, "one") is JobState.FAILED
    assert slurm.status("one").exit_code == 1
    assert list(slurm.logs("one")) == ["Ray did not start; ray.log ends with", "no Ray today"]


def test_at_the_time_limit_the_command_is_told_and_goes_on_in_another_run(
    slurm: SlurmBackend, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    slurm.submit(
        shell(
            "one",
            f"trap 'echo saved; touch {mark}; exit 130' TERM; [ -e {mark} ] && exit 0; "
            "echo begun; sleep 60 & wait",
        )
    )
    wait_for_line(slurm, "one", "begun")
    number = json.loads((slurm.folder("one") / "run.json").read_text())["number"]
    subprocess.run(["scancel", "--batch", "--signal=TERM", number], check=True)
    assert wait(slurm, "one") is JobState.SUCCEEDED
    assert list(slurm.logs("one")) == ["begun", "saved"]


def test_a_stopped_job_does_not_start_again_by_itself(slurm: SlurmBackend) -> None:
    slurm.submit(shell("one", "trap 'exit 130' TERM; echo begun; sleep 60 & wait"))
    wait_for_line(slurm, "one", "begun")
    assert slurm.stop("one").state is JobState.STOPPED
    time.sleep(0.5)
    assert slurm.status("one").state is JobState.STOPPED
    assert list(slurm.logs("one")) == ["begun"]


def test_a_cancelled_job_is_stopped(slurm: SlurmBackend) -> None:
    slurm.submit(shell("one", "echo begun; exec sleep 60"))
    wait_for_line(slurm, "one", "begun")
    number = json.loads((slurm.folder("one") / "run.json").read_text())["number"]
    subprocess.run(["scancel", number], check=True)
    assert wait(slurm, "one") is JobState.STOPPED


def test_a_script_that_is_killed_is_a_lost_job(slurm: SlurmBackend) -> None:
    slurm.submit(shell("one", "echo begun; exec sleep 60"))
    wait_for_line(slurm, "one", "begun")
    path = slurm.folder("one") / "driver.pid"
    while not path.exists():
        time.sleep(0.01)
    driver = int(path.read_text())
    os.killpg(os.getpgid(driver), signal.SIGKILL)
    assert wait(slurm, "one") is JobState.LOST
    assert slurm.status("one").exit_code is None


def test_a_secret_that_is_not_set_is_named_before_anything_is_submitted(root: Path) -> None:
    backend = SlurmBackend(place(root=str(root), secrets=["AWS_SECRET_ACCESS_KEY_X", "PATH"]))
    with pytest.raises(JobError, match="AWS_SECRET_ACCESS_KEY_X not set here"):
        backend.submit(shell("one", "true"))
    assert not root.exists()


def test_a_machine_without_slurm_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(JobError, match="sbatch is not installed here"):
        SlurmBackend(place(root=str(root))).submit(shell("one", "true"))


def test_what_sbatch_refuses_is_told_in_its_words(
    slurm: SlurmBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "refusing"
    refusing.mkdir()
    (refusing / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1"
    )
    (refusing / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{refusing}:{os.environ['PATH']}")
    with pytest.raises(JobError, match=r"sbatch --parsable job\.sh failed: .*invalid partition"):
        slurm.submit(shell("one", "true"))
    assert slurm.status("one").state is JobState.UNKNOWN


def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="root must be a folder that this machine and every node"):
        SlurmBackend(place(root=str(tmp_path / "file" / "jobs"))).submit(shell("one", "true"))


def test_a_run_that_cannot_be_queued_leaves_what_the_last_one_left(
    slurm: SlurmBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.submit(shell("one", "echo a; exit 3"))
    wait(slurm, "one")
    before = slurm.status("one")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    with monkeypatch.context() as told:
        told.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        with pytest.raises(JobError, match="invalid partition"):
            slurm.resume("one")
    assert slurm.status("one") == before
    assert list(slurm.logs("one")) == ["a"]
    slurm.resume("one")
    assert wait(slurm, "one") is JobState.FAILED
    assert list(slurm.logs("one")) == ["a"]
