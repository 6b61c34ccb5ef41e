"""What every backend promises, and how the local one keeps it when processes are killed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import Backend, Job, JobError, JobState, LocalBackend
from cluster.protocol import check_name
from tests.cluster.jobs import (
    _HEARS_INTERRUPTS,
    BACKENDS,
    is_alive,
    python,
    shell,
    wait,
    wait_for_line,
)

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
    assert status.state is JobState.STOPPED
    assert status.exit_code in (130, None), "of a job that it ended not every place knows the code"
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
    assert backend.stop("one", grace=20).exit_code in (0, None)
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


@settings(max_examples=15)
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
