"""The local backend, killed from outside."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster import JobError, JobState, LocalBackend
from cluster.ray_jobs import RayBackend
from tests.cluster.jobs import (
    is_alive,
    pid_of,
    shell,
    wait,
    wait_for_line,
)

# The local backend, killed from outside


def test_a_job_whose_whole_group_is_killed_is_lost(local: LocalBackend) -> None:
    local.submit(shell("one", "echo begun; exec sleep 60"))
    wait_for_line(local, "one", "begun")
    os.killpg(pid_of(local, "one"), signal.SIGKILL)
    assert wait(local, "one") is JobState.LOST
    assert local.status("one").exit_code is None
    assert local.stop("one").state is JobState.LOST
    local.resume("one")
    assert local.status("one").state is JobState.RUNNING
    local.stop("one", grace=0.1)


def test_following_ends_when_the_job_is_lost(local: LocalBackend) -> None:
    local.submit(shell("one", "echo begun; exec sleep 60"))
    lines = local.logs("one", follow=True)
    assert next(lines) == "begun"
    os.killpg(pid_of(local, "one"), signal.SIGKILL)
    assert list(lines) == []
    assert local.status("one").state is JobState.LOST


def test_a_signal_to_the_group_is_written_down_by_the_shell_that_waits(local: LocalBackend) -> None:
    """As a terminal's Ctrl-C would be, which reaches the shell as well as the command."""
    local.submit(shell("one", "trap 'exit 9' TERM; echo begun; sleep 60 & wait"))
    wait_for_line(local, "one", "begun")
    os.killpg(pid_of(local, "one"), signal.SIGTERM)
    assert wait(local, "one") is JobState.FAILED
    assert local.status("one").exit_code == 9


def test_another_process_of_the_same_number_is_not_the_job(local: LocalBackend) -> None:
    local.submit(shell("one", "exec sleep 60"))
    os.killpg(pid_of(local, "one"), signal.SIGKILL)
    wait(local, "one")
    path = local.folder("one") / "run.json"
    run = json.loads(path.read_text())
    time.sleep(0.05)  # start times are told in hundredths of a second
    other = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        path.write_text(json.dumps({**run, "pid": other.pid}))
        assert local.status("one").state is JobState.LOST
        assert local.stop("one", grace=0.2).state is JobState.LOST
        assert other.poll() is None, "somebody else's process was ended"
    finally:
        other.kill()
        other.wait()


def test_a_job_of_a_machine_that_is_gone_can_be_started_again(local: LocalBackend) -> None:
    """Hosts are renamed and replaced: such a job is lost, not running for ever."""
    local.submit(shell("one", "exec sleep 60"))
    path = local.folder("one") / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "host": "another-machine"}))
    status = local.status("one")
    assert status.state is JobState.LOST
    assert "another-machine" in status.detail
    assert local.stop("one").state is JobState.LOST
    assert is_alive(run["pid"]), "a process that may not be the job's was ended"
    os.killpg(run["pid"], signal.SIGKILL)
    local.submit(shell("one", "true"))
    assert wait(local, "one") is JobState.SUCCEEDED


DAMAGED = ['{"pid": 1', "{}", "[]", "null", '{"pid": "x", "started": 1, "host": "h"}', ""]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_run_file_is_a_lost_job(local: LocalBackend, text: str) -> None:
    local.submit(shell("one", "true"))
    wait(local, "one")
    (local.folder("one") / "run.json").write_text(text)
    assert local.status("one").state is JobState.LOST


@pytest.mark.parametrize("text", [*DAMAGED, '{"command": ["true"], "colour": "red"}'])
def test_a_job_whose_description_is_damaged_is_submitted_again_instead(
    local: LocalBackend, tmp_path: Path, text: str
) -> None:
    job = shell("one", "true")
    local.submit(job)
    wait(local, "one")
    (local.folder("one") / "job.json").write_text(text)
    with pytest.raises(JobError, match=r"job\.json is damaged; submit one again"):
        local.resume("one")
    local.submit(job)
    assert wait(local, "one") is JobState.SUCCEEDED
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(JobError, match=r"one\.json is damaged; submit one again"):
        RayBackend("http://127.0.0.1:1", tmp_path).resume("one")


def test_a_job_outlives_the_process_that_submitted_it(
    local: LocalBackend, root: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    waiting = f"while [ ! -e {shlex.quote(str(gate))} ]; do sleep 0.05; done; echo done; exit 6"
    submit = (
        "import sys; from pathlib import Path; from cluster import Job, LocalBackend; "
        "LocalBackend(Path(sys.argv[1])).submit(Job('one', ('/bin/sh', '-c', sys.argv[2])))"
    )
    subprocess.run(
        [sys.executable, "-c", submit, str(root), waiting],
        check=True,
        capture_output=True,
        timeout=30,
        start_new_session=True,
    )
    assert local.status("one").state is JobState.RUNNING
    gate.touch()
    assert wait(local, "one") is JobState.FAILED
    assert local.status("one").exit_code == 6
    assert list(local.logs("one")) == ["done"]


def test_a_job_does_not_share_the_submitters_process_group(local: LocalBackend) -> None:
    local.submit(shell("one", "echo begun; exec sleep 60"))
    wait_for_line(local, "one", "begun")
    job = pid_of(local, "one")
    assert os.getpgid(job) == os.getsid(job) == job
    assert os.getpgid(job) != os.getpgid(0)
    local.stop("one", grace=0.1)


def test_a_job_that_is_started_again_does_not_look_lost(
    local: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.submit(shell("one", "true"))
    wait(local, "one")
    seen = []
    start = subprocess.Popen

    def watched(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        seen.append(local.status("one").state)
        return start(*arguments, **options)

    monkeypatch.setattr("cluster.local.subprocess.Popen", watched)
    local.resume("one")
    assert seen == [JobState.UNKNOWN]
    assert wait(local, "one") is JobState.SUCCEEDED
