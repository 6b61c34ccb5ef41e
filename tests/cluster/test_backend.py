"""What every backend promises, and how the local one keeps it when processes are killed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import Backend, Job, JobError, JobState, LocalBackend
from cluster.protocol import check_name

BACKENDS: list[Callable[[Path], Backend]] = [LocalBackend]
"""Each makes a backend with its jobs under the folder given."""

BAD_NAMES = [
    "../x",
    "a/b",
    "/etc",
    "",
    ".",
    "..",
    ".hidden",
    "-flag",
    "Upper",
    "a b",
    "a\n",
    "a\0",
    "ä",
    "x" * 65,
]


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


def shell(name: str, script: str, **environment: str) -> Job:
    return Job(name, ("/bin/sh", "-c", script), environment)


def python(name: str, script: str) -> Job:
    return Job(name, (sys.executable, "-I", "-S", "-u", "-c", script))


# A test run started in the background of a plain shell has SIGINT ignored, and so would its jobs.
_HEARS_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def wait(backend: Backend, name: str, seconds: float = 20.0) -> JobState:
    """The job's state once it runs no more."""
    deadline = time.monotonic() + seconds
    while backend.status(name).state is JobState.RUNNING:
        assert time.monotonic() < deadline, "the job does not end"
        time.sleep(0.01)
    return backend.status(name).state


def wait_for_line(backend: Backend, name: str, line: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while line not in list(backend.logs(name)):
        assert time.monotonic() < deadline, f"{line!r} was not logged"
        time.sleep(0.01)


def pid_of(local: LocalBackend, name: str) -> int:
    run = json.loads((local.folder(name) / "run.json").read_text())
    return int(run["pid"])


def is_alive(pid: int) -> bool:
    """Whether the process runs (one that has ended and was not waited for does not)."""
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(shown) and not shown.startswith("Z")


# What every backend promises


def test_a_job_runs_to_its_end_and_its_output_is_kept(backend: Backend) -> None:
    assert backend.submit(shell("one", "echo out; echo err >&2; echo ä")) == "one"
    assert wait(backend, "one") is JobState.SUCCEEDED
    assert backend.status("one").exit_code == 0
    assert list(backend.logs("one")) == ["out", "err", "ä"]


@pytest.mark.parametrize("code", [1, 2, 77, 127, 128, 255])
def test_an_exit_code_is_the_jobs_own(backend: Backend, code: int) -> None:
    backend.submit(shell("one", f"exit {code}"))
    assert wait(backend, "one") is JobState.FAILED
    status = backend.status("one")
    assert status.exit_code == code
    assert "signal" not in status.detail
    assert str(code) in status.detail


def test_a_command_that_is_not_there_fails_and_says_so(backend: Backend) -> None:
    backend.submit(Job("one", ("no-such-command-anywhere", "--flag")))
    assert wait(backend, "one") is JobState.FAILED
    assert any("no-such-command-anywhere" in line for line in backend.logs("one"))


def test_a_killed_command_fails_and_the_signal_is_named(backend: Backend) -> None:
    backend.submit(shell("one", "kill -9 $$"))
    assert wait(backend, "one") is JobState.FAILED
    assert "signal 9" in backend.status("one").detail


def test_an_unknown_job(backend: Backend, root: Path) -> None:
    assert backend.status("one").state is JobState.UNKNOWN
    assert backend.stop("one").state is JobState.UNKNOWN
    with pytest.raises(JobError, match="no job one"):
        list(backend.logs("one"))
    with pytest.raises(JobError, match="no job one"):
        backend.resume("one")
    assert not list(root.glob("*"))


def test_a_running_job_is_not_submitted_again(backend: Backend) -> None:
    backend.submit(shell("one", "echo begun; exec sleep 60"))
    wait_for_line(backend, "one", "begun")
    with pytest.raises(JobError, match="one is already running"):
        backend.submit(shell("one", "echo other"))
    with pytest.raises(JobError, match="one is already running"):
        backend.resume("one")
    assert backend.status("one").state is JobState.RUNNING
    assert list(backend.logs("one")) == ["begun"]
    backend.stop("one", grace=0.1)


def test_of_submissions_at_the_same_moment_one_starts(backend: Backend, tmp_path: Path) -> None:
    count = 4
    gate = threading.Barrier(count)
    refused: list[JobError] = []
    witness, leave = tmp_path / "witness", tmp_path / "leave"
    script = 'echo here >> "$WITNESS"; while [ ! -e "$LEAVE" ]; do sleep 0.05; done'
    job = shell("one", script, WITNESS=str(witness), LEAVE=str(leave))

    def submit() -> None:
        gate.wait(20)
        try:
            backend.submit(job)
        except JobError as error:
            refused.append(error)

    threads = [threading.Thread(target=submit) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.2)  # for those that should not be there
    leave.touch()
    wait(backend, "one")
    assert witness.read_text() == "here\n"
    assert len(refused) == count - 1


def test_a_finished_job_may_be_submitted_again_and_begins_anew(backend: Backend) -> None:
    backend.submit(shell("one", "echo first; exit 3"))
    wait(backend, "one")
    backend.submit(shell("one", "echo second"))
    assert wait(backend, "one") is JobState.SUCCEEDED
    assert list(backend.logs("one")) == ["second"]


def test_jobs_of_other_names_do_not_meet(backend: Backend) -> None:
    for name in ("a", "b"):
        backend.submit(shell(name, f"echo {name}; exec sleep 60"))
        wait_for_line(backend, name, name)
    backend.stop("a", grace=0.1)
    assert backend.status("b").state is JobState.RUNNING
    assert list(backend.logs("b")) == ["b"]
    backend.stop("b", grace=0.1)


def test_resume_runs_the_same_command_with_its_environment(
    backend: Backend, tmp_path: Path
) -> None:
    """The first time it fails; the second time it finds its place."""
    mark = tmp_path / "place with space"
    script = '[ -e "$MARK" ] && echo "resumed, $MOOD" && exit 0; : > "$MARK"; exit 5'
    backend.submit(shell("one", script, MARK=str(mark), MOOD='it\'s "fine" $HOME'))
    assert wait(backend, "one") is JobState.FAILED
    assert backend.resume("one") == "one"
    assert wait(backend, "one") is JobState.SUCCEEDED
    assert list(backend.logs("one")) == ['resumed, it\'s "fine" $HOME']


def test_the_environment_is_added_to_the_backends_own(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "kept")
    monkeypatch.setenv("CHANGED", "before")
    backend.submit(
        shell("one", 'echo "$FROM_OUTSIDE-$CHANGED-$ADDED"', CHANGED="after", ADDED="a b")
    )
    wait(backend, "one")
    assert list(backend.logs("one")) == ["kept-after-a b"]


def test_arguments_arrive_as_they_are(backend: Backend) -> None:
    arguments = ("", "a b", "'", '"', "$HOME", "*", "a\nb", "ä", "--", "\\")
    backend.submit(
        Job("one", (sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *arguments))
    )
    wait(backend, "one")
    assert list(backend.logs("one")) == [ascii(list(arguments))]


def test_a_job_reads_no_terminal(backend: Backend) -> None:
    backend.submit(shell("one", "cat; echo end"))
    assert wait(backend, "one") is JobState.SUCCEEDED
    assert list(backend.logs("one")) == ["end"]


# Following


def test_following_yields_every_line_and_ends_with_the_job(backend: Backend) -> None:
    backend.submit(shell("one", "for i in 1 2 3 4 5 6; do echo $i; sleep 0.05; done; exit 4"))
    assert list(backend.logs("one", follow=True)) == ["1", "2", "3", "4", "5", "6"]
    assert backend.status("one").exit_code == 4


def test_following_shows_lines_while_the_job_runs(backend: Backend) -> None:
    backend.submit(shell("one", "echo begun; exec sleep 60"))
    lines = backend.logs("one", follow=True)
    assert next(lines) == "begun"
    assert backend.status("one").state is JobState.RUNNING
    backend.stop("one", grace=0.1)
    assert list(lines) == []


def test_following_a_finished_job_yields_its_lines(backend: Backend) -> None:
    backend.submit(shell("one", "echo a; echo b; printf c"))
    wait(backend, "one")
    assert list(backend.logs("one", follow=True)) == list(backend.logs("one")) == ["a", "b", "c"]


def test_a_line_written_in_two_halves_is_one_line(backend: Backend) -> None:
    backend.submit(shell("one", "printf half; sleep 0.5; echo ' and half'; echo end"))
    assert list(backend.logs("one", follow=True)) == ["half and half", "end"]


def test_logs_without_follow_do_not_wait(backend: Backend) -> None:
    backend.submit(shell("one", "echo begun; exec sleep 60"))
    wait_for_line(backend, "one", "begun")
    start = time.monotonic()
    assert list(backend.logs("one")) == ["begun"]
    assert time.monotonic() - start < 5
    backend.stop("one", grace=0.1)


def test_output_that_is_no_text_does_not_break_the_log(backend: Backend) -> None:
    backend.submit(shell("one", r"printf 'a\377b\n'; echo c"))
    wait(backend, "one")
    first, second = backend.logs("one")
    assert (first[0], first[-1], second) == ("a", "b", "c")


# Stopping


def test_stop_interrupts_as_ctrl_c_would_so_that_the_job_can_clean_up(
    backend: Backend, tmp_path: Path
) -> None:
    witness = tmp_path / "cleaned"
    backend.submit(
        python(
            "one",
            _HEARS_INTERRUPTS + "import sys, time\ntry:\n    print('begun'); time.sleep(60)\n"
            f"except KeyboardInterrupt:\n    open({str(witness)!r}, 'w').close(); sys.exit(130)\n",
        )
    )
    wait_for_line(backend, "one", "begun")
    status = backend.stop("one")
    assert (status.state, status.exit_code) == (JobState.STOPPED, 130)
    assert witness.exists()
    assert backend.status("one") == status
    assert backend.stop("one") == status, "stopping again changes nothing"


def test_stop_waits_for_a_job_that_takes_its_time(backend: Backend) -> None:
    backend.submit(
        python(
            "one",
            _HEARS_INTERRUPTS + "import sys, time\ntry:\n    print('begun'); time.sleep(60)\n"
            "except KeyboardInterrupt:\n    time.sleep(0.5); print('saved'); sys.exit(0)\n",
        )
    )
    wait_for_line(backend, "one", "begun")
    assert backend.stop("one", grace=20).exit_code == 0
    assert list(backend.logs("one")) == ["begun", "saved"]


def test_stop_insists_on_a_job_that_does_not_hear_interrupts(backend: Backend) -> None:
    backend.submit(shell("one", "trap '' INT; echo begun; sleep 60"))
    wait_for_line(backend, "one", "begun")
    status = backend.stop("one", grace=0.2)
    assert status.state is JobState.STOPPED


def test_stop_ends_even_a_job_that_hears_nothing(local: LocalBackend) -> None:
    local.submit(
        shell("one", "trap '' INT TERM; echo begun $$; for i in $(seq 150); do sleep 0.2; done")
    )
    while not (lines := list(local.logs("one"))):
        time.sleep(0.01)
    command = int(lines[0].split()[1])
    status = local.stop("one", grace=0.1)
    assert status.state is not JobState.RUNNING
    deadline = time.monotonic() + 5
    while is_alive(command):
        assert time.monotonic() < deadline, "the job is still there"
        time.sleep(0.02)
    local.submit(shell("one", "echo again"))
    assert wait(local, "one") is JobState.SUCCEEDED


def test_a_stopped_job_can_be_resumed(backend: Backend, tmp_path: Path) -> None:
    mark = shlex.quote(str(tmp_path / "mark"))
    backend.submit(shell("one", f"[ -e {mark} ] && exit 0; : > {mark}; echo begun; exec sleep 60"))
    wait_for_line(backend, "one", "begun")
    assert backend.stop("one", grace=0.2).state is JobState.STOPPED
    backend.resume("one")
    assert wait(backend, "one") is JobState.SUCCEEDED


# Names and rendering


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_leave_the_folder_is_refused_everywhere(
    backend: Backend, name: str, tmp_path: Path
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: Job(name, ("true",)),
        lambda: backend.status(name),
        lambda: list(backend.logs(name)),
        lambda: backend.stop(name),
        lambda: backend.resume(name),
    ]
    for call in calls:
        with pytest.raises(JobError, match="cannot name a job"):
            call()
    assert list(tmp_path.rglob("*")) == []


@given(st.text(max_size=8) | st.from_regex(r"[a-z0-9./_-]{1,6}", fullmatch=True))
def test_a_name_that_is_accepted_is_a_folder_of_the_root(name: str) -> None:
    base = Path("/base")
    try:
        check_name(name)
    except JobError:
        return
    assert Path(os.path.normpath(base / name)).parent == base
    assert name == name.lower()
    assert name.isascii()


def test_a_job_without_a_command_is_refused() -> None:
    with pytest.raises(JobError, match="one has no command"):
        Job("one", ())


words = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=8
)
variables = st.dictionaries(
    st.from_regex(r"[A-Z][A-Z0-9_]{3,8}", fullmatch=True), words, max_size=2
)


@settings(max_examples=15, deadline=None)
@given(st.lists(words, max_size=4), variables)
def test_what_is_rendered_is_what_would_run(arguments: list[str], values: dict[str, str]) -> None:
    """The shell reads the rendered line as the same command with the same variables."""
    environment = {f"R_{name}": value for name, value in values.items()}
    probe = (
        "import os, sys; print(ascii((sys.argv[1:], "
        "{k: v for k, v in sorted(os.environ.items()) if k.startswith('R_')})))"
    )
    job = Job(
        "one", (sys.executable, "-I", "-S", "-X", "utf8", "-c", probe, *arguments), environment
    )
    for make in BACKENDS:
        rendered = make(Path("nowhere")).render(job)
        done = subprocess.run(
            ["/bin/sh", "-c", rendered], capture_output=True, check=True, encoding="utf-8"
        )
        assert done.stdout.strip() == ascii((arguments, dict(sorted(environment.items()))))


def test_rendering_starts_and_writes_nothing(backend: Backend, root: Path) -> None:
    text = backend.render(shell("one", "echo a", NAME="two words"))
    assert "two words" in text
    assert not list(root.glob("*"))
    assert backend.status("one").state is JobState.UNKNOWN


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


def test_a_damaged_run_file_is_a_lost_job(local: LocalBackend) -> None:
    local.submit(shell("one", "true"))
    wait(local, "one")
    (local.folder("one") / "run.json").write_text('{"pid": 1')
    assert local.status("one").state is JobState.LOST


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
