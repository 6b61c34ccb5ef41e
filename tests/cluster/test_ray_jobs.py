"""What is decided about a Ray job before a cluster sees it, and how Ray's answers are read."""

from __future__ import annotations

import http.server
import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import Job, JobError, JobState, RayPlace, parse_place
from cluster.dashboard import Dashboard
from cluster.packing import pack
from cluster.ray_jobs import RayBackend, _attempt, _grace, _lines, _status, _without


class _Server:
    """A server of our own words, and what it was asked with."""

    def __init__(self, answer: Callable[[dict[str, str]], tuple[int, str]]) -> None:
        self.seen: list[str | None] = []
        seen = self.seen

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.headers.get("Authorization"))
                code, text = answer(dict(self.headers))
                self.send_response(code)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., _Server]]:
    started: list[_Server] = []

    def start(answer: Callable[[dict[str, str]], tuple[int, str]]) -> _Server:
        started.append(_Server(answer))
        return started[-1]

    yield start
    for server in started:
        server.end()


# The dashboard


def test_a_token_goes_only_to_a_cluster_that_asks_for_one(
    serve: Callable[..., _Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-secret")
    version = json.dumps({"ray_version": "2.60.0"})
    open_to_all = serve(lambda headers: (200, version))
    dashboard = Dashboard(open_to_all.address)
    assert (dashboard.auth_mode, dashboard.ray_version()) == ("disabled", "2.60.0")
    assert set(open_to_all.seen) == {None}

    closed = serve(lambda headers: (200, version) if "Authorization" in headers else (401, ""))
    dashboard = Dashboard(closed.address)
    assert (dashboard.auth_mode, dashboard.ray_version()) == ("token", "2.60.0")
    assert closed.seen[0] is None
    assert set(closed.seen[1:]) == {"Bearer a-secret"}


def test_the_token_may_lie_in_a_file(
    serve: Callable[..., _Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = serve(lambda headers: (200, "{}") if "Authorization" in headers else (401, ""))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(JobError, match=re.escape(f"{tmp_path / 'token'} has none")):
        _ = Dashboard(closed.address).headers
    (tmp_path / "token").write_text("from-a-file\n")
    assert Dashboard(closed.address).headers == {"Authorization": "Bearer from-a-file"}


@pytest.mark.parametrize("words", ["<html>welcome</html>", "[]", "{}", "null"])
def test_what_is_no_dashboard_is_said_to_be_none(serve: Callable[..., _Server], words: str) -> None:
    page = serve(lambda headers: (200, words))
    with pytest.raises(JobError, match="is no Ray dashboard"):
        Dashboard(page.address).ray_version()


def test_another_version_of_ray_is_refused_before_anything_is_sent(
    serve: Callable[..., _Server], tmp_path: Path
) -> None:
    old = serve(lambda headers: (200, json.dumps({"ray_version": "2.9.0"})))
    with pytest.raises(JobError, match=r"runs Ray 2\.9\.0, this machine has 2\."):
        RayBackend(old.address, tmp_path).submit(Job("one", ("true",)))
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_on_the_network_that_lets_in_anybody_must_be_meant(
    serve: Callable[..., _Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda headers: (200, "{}"))
    # A name for this machine that is not known to stay on it.
    monkeypatch.setattr("cluster.dashboard._is_loopback", lambda address: False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(JobError, match="runs what anybody sends"):
        _ = Dashboard(server.address).auth_mode
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert Dashboard(server.address).auth_mode == "disabled"


# What travels


def test_only_code_and_files_travel(tmp_path: Path) -> None:
    package = tmp_path / "code" / "package"
    for name in ("a.py", "data/b.py", "table.csv", ".git/config", "__pycache__/a.pyc", "m.pt"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(name)
    (package / "data" / "model.safetensors").write_bytes(b"0" * 100)
    (tmp_path / "elsewhere.py").write_text("shared")
    (package / "linked.py").symlink_to(tmp_path / "elsewhere.py")
    there = tmp_path / "there"
    there.mkdir()
    pack(Job("one", ("true",), files={"spec.yaml": "ä"}, code=(package,)), there)
    found = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    expected = {"package/a.py", "package/data/b.py", "package/table.csv", "spec.yaml"}
    assert found == {*expected, "package/linked.py"}
    assert (there / "spec.yaml").read_text(encoding="utf-8") == "ä"
    assert (there / "package" / "linked.py").read_text() == "shared"
    assert not (there / "package" / "linked.py").is_symlink()


def test_too_much_is_refused_with_the_largest_files(tmp_path: Path) -> None:
    package, there = tmp_path / "package", tmp_path / "there"
    package.mkdir()
    there.mkdir()
    for name, size in (("small.bin", 10), ("big.bin", 3 * 2**20), ("bigger.bin", 4 * 2**20)):
        (package / name).write_bytes(b"\0" * size)
    with pytest.raises(JobError) as caught:
        pack(Job("one", ("true",), code=(package,)), there, limit=2**20)
    lines = str(caught.value).splitlines()
    assert "would send 7.0 MB of code, more than 1 MB" in lines[0]
    assert lines[1:3] == ["  4.0 MB  package/bigger.bin", "  3.0 MB  package/big.bin"]


# Ray's answers


@pytest.mark.parametrize(
    ("answer", "state", "code"),
    [
        ({"status": "PENDING"}, JobState.RUNNING, None),
        ({"status": "RUNNING"}, JobState.RUNNING, None),
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, JobState.SUCCEEDED, 0),
        ({"status": "STOPPED"}, JobState.STOPPED, None),
        ({"status": "FAILED", "driver_exit_code": 2}, JobState.FAILED, 2),
        ({"status": "FAILED", "driver_exit_code": -9}, JobState.FAILED, 137),
        ({"status": "FAILED", "driver_exit_code": 130}, JobState.STOPPED, 130),
        ({"status": "FAILED", "driver_exit_code": -15}, JobState.STOPPED, 143),
        ({"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_DIED"}, JobState.LOST, None),
        ({"status": "FAILED", "error_type": "RUNTIME_ENV_SETUP_FAILURE"}, JobState.FAILED, None),
    ],
)
def test_a_state_of_ray_is_one_of_ours(
    answer: dict[str, Any], state: JobState, code: int | None
) -> None:
    status = _status({"submission_id": "one-1", "message": "first\nsecond", **answer})
    assert (status.state, status.exit_code) == (state, code)
    assert "\n" not in status.detail


def test_attempts_of_one_name_are_not_those_of_another() -> None:
    ids = ["a-1", "a-2", "a-10", "a-1-3", "a-0", "a-01", "a.b-4", "ab-5", "raysubmit_x", None]
    of = {each: _attempt("a", {"submission_id": each}) for each in ids}
    assert {each: number for each, number in of.items() if number} == {
        "a-1": 1,
        "a-2": 2,
        "a-10": 10,
    }
    assert _attempt("a-1", {"submission_id": "a-1-3"}) == 3
    assert _attempt("a.b", {"submission_id": "aXb-4"}) == 0


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_output_is_whole_lines_without_what_ray_says_in_between(size: int) -> None:
    """Ray's line about the command has been seen after the first output of a quick one."""
    set_up = "2026-11-22 02:00:00,1\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
    text = f"{set_up}one\n\nRunning entrypoint for job a-1: exec 'x\ny'\ntwo\ny\nthree"
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    said = ["Running entrypoint for job a-1: exec 'x", "y'"]
    assert list(_without(said, _lines(iter(chunks)))) == ["one", "", "two", "y", "three"]
    assert list(_without(said, _lines(iter(["could not start\nthe job"])))) == [
        "could not start",
        "the job",
    ]


# Places


def test_a_place_names_every_mistake() -> None:
    raw = {
        "backend": "ray",
        "address": "http://user:password@host:8265",
        "root": "/here",
        "environment": {"MINARI_DATASETS_PATH": "data"},
        "driver_cpus": -1,
        "grows_to": {"GPU": 0},
        "addres": "x",
    }
    with pytest.raises(JobError) as caught:
        parse_place(raw, "my.yaml")
    text = str(caught.value)
    assert text.startswith("my.yaml: 5 mistakes")
    for key in ("address", "environment", "driver_cpus", "grows_to.GPU", "addres"):
        assert f"  {key}: " in text
    assert "expected an absolute path on the nodes" in text
    assert "expected the dashboard's http://HOST:8265" in text
    assert "password" not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "hunter2") for name in ("AWS_ACCESS_KEY_ID", "WANDB_API_KEY", "RAY_AUTH_TOKEN")),
        *((name, "hunter2") for name in ("my_secret", "DB_PASSWORD", "APIKEY", "OPENAI_APIKEY")),
        *((name, "hunter2") for name in ("GITHUB_PAT", "PROXY_AUTH")),
        ("DB_URL", "postgresql://me:hunter2@host/db"),
        ("DB_URL", "postgresql://host/db?user=me&password=hunter2"),
    ],
)
def test_a_secret_is_not_taken_into_a_jobs_environment(name: str, value: str) -> None:
    raw = {"backend": "ray", "address": "http://h:1", "root": "/here", "environment": {name: value}}
    with pytest.raises(JobError, match=f"{name} looks like a secret") as caught:
        parse_place(raw, "my.yaml")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("PATH", "/bin:/usr/bin"), ("RAY_AUTH_MODE", "token"), ("AUTHOR", "me")),
        *(("DB_URL", "postgresql://me@host:5432/db"), ("MIRROR", "http://host:80/p?a=b")),
    ],
)
def test_what_is_no_secret_is_taken(name: str, value: str) -> None:
    raw = {"backend": "ray", "address": "http://h:1", "root": "/here", "environment": {name: value}}
    place = parse_place(raw, "my.yaml")
    assert isinstance(place, RayPlace)
    assert place.environment == {name: value}


def test_rendering_is_the_request_and_asks_nobody() -> None:
    place = RayPlace(
        address="http://127.0.0.1:1",
        root=Path("/here"),
        environment={"MOOD": "it's fine"},
        driver_cpus=0.5,
        grows_to={"GPU": 8},
    )
    job = Job(
        "one",
        ("python", "-c", "a b"),
        {"A": "$HOME"},
        {"spec.yaml": ""},
        metadata={"m": "1"},
        grace=74.5,
    )
    request = json.loads(place.open().render(job))
    assert shlex.split(request["entrypoint"]) == ["exec", "env", "A=$HOME", *job.command]
    environment = request["runtime_env"]["env_vars"]
    assert environment["MOOD"] == "it's fine"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_JOB_STOP_WAIT_TIME_S"] == "75"
    assert _grace({"runtime_env": {"env_vars": environment}}) == 75.0
    assert json.loads(environment["RACTD_CLUSTER_CAPACITY"]) == {"GPU": 8}
    assert request["working_dir"] == ["spec.yaml"]
    assert request["entrypoint_num_cpus"] == 0.5
