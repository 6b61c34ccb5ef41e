"""The files for Ray's cluster launcher, read by Ray's own code."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster import JobError, JobState
from cluster.vm import VmBackend, VmPlace, _make_token
from tests.cluster.test_places import EXAMPLES, JOB, place

VMS = [path.stem for path in EXAMPLES if path.stem.startswith("vm-")]
values = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
lines = values.filter(str.isprintable)


def launcher(name: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(place(name, **changes).open().render(JOB))
    return found


@pytest.mark.parametrize("name", VMS)
def test_rays_own_validator_takes_every_example(name: str) -> None:
    validate_config(prepare_config(launcher(name)))


@pytest.mark.parametrize("name", VMS)
def test_ray_starts_with_a_token_and_its_dashboard_on_loopback(name: str) -> None:
    config = launcher(name)
    assert list(config["file_mounts"]) == ["~/.ray/auth_token"]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        *_, start = config[key]
        assert "export RAY_AUTH_MODE=token" in start.split(" && ")[-3]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "cluster.yaml" not in str(config)


def test_a_clouds_head_offers_nothing_and_groups_keep_their_bounds() -> None:
    config = launcher("vm-aws-spot")
    head, worker = (config["available_node_types"][key] for key in ("head", "worker-l4"))
    assert head["resources"] == {"CPU": 0}
    assert (head["min_workers"], head["max_workers"]) == (0, 0)
    assert worker["resources"] == {"CPU": 8, "GPU": 1}
    assert (worker["min_workers"], worker["max_workers"]) == (0, 8)
    assert "InstanceMarketOptions" not in head["node_config"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["max_workers"] == 8


def test_a_spot_machine_of_gcp_with_a_gpu_may_be_taken_away_and_is_not_moved() -> None:
    raw = yaml.safe_load(next(p for p in EXAMPLES if p.stem == "vm-gcp").read_text())
    config = launcher("vm-gcp", workers=[{**raw["workers"][0], "spot": True}])
    (scheduling,) = config["available_node_types"]["worker-l4"]["node_config"]["scheduling"]
    assert scheduling == {"onHostMaintenance": "TERMINATE", "preemptible": True}


@settings(max_examples=20)
@given(lines, lines.map(lambda text: "/f" + text.replace("/", "")))
def test_nothing_from_a_file_breaks_out_of_its_quotes(value: str, folder: str) -> None:
    config = launcher("vm-hosts", environment={"A": value}, python=f"{folder}/bin/python")
    stop, start = config["worker_start_ray_commands"]
    assert stop.startswith("export PATH=")
    assert stop.endswith('" && ray stop')
    probe = f"""ray() {{ printf '%s\\0' "$A" "$PATH" "$@"; }}; ulimit() {{ :; }}; {start}"""
    told = {"RAY_HEAD_IP": "1.2.3.4", "PATH": os.environ["PATH"]}
    done = subprocess.run(["bash", "-c", probe], env=told, capture_output=True, check=True)
    found = done.stdout.decode().split("\0")
    assert found[0] == value
    assert found[1].startswith(f"{folder}/bin:")
    assert found[2:] == ["start", "--address=1.2.3.4:6379", ""]


def test_a_folder_is_mounted_once_whatever_it_is_called() -> None:
    volume = {"mount": "/a b", "nfs": {"server": "files", "path": "/x'y"}}
    (command,) = launcher("vm-gcp", volumes=[volume], storage="/a b/c")["initialization_commands"]
    probe = f"""mountpoint() {{ false; }}; sudo() {{ printf '%s\\0' "$@"; }}; {command}"""
    done = subprocess.run(["bash", "-c", probe], capture_output=True, check=True, text=True)
    expected = ["mkdir", "-p", "/a b", "mount", "-t", "nfs", "files:/x'y", "/a b", ""]
    assert done.stdout.split("\0") == expected


def test_a_token_that_is_there_is_kept_and_a_new_one_is_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _make_token()
    path = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_text()
    assert len(first) == 64
    _make_token()
    assert path.read_text() == first


def test_a_head_that_cannot_be_reached_is_told_in_rays_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray").write_text("#!/bin/sh\necho 'no head node found'\nexit 1\n")
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = place("vm-hosts")
    assert isinstance(found, VmPlace)
    with pytest.raises(JobError, match="no way to the cluster's head: no head node found"):
        found.open().status("one")


_RAY = """\
import http.server, json, sys
told = {
    "/api/version": {"ray_version": "2.60.0"},
    "/api/jobs/": [],
    "/nodes?view=summary": {"data": {"summary": [
        {"raylet": {"nodeManagerAddress": "10.0.0.11", "state": "ALIVE"}}
    ]}},
}
class Dashboard(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told[self.path]).encode())
print("tunnel", file=open(sys.argv[1], "a"))
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Dashboard).serve_forever()
"""


@pytest.fixture
def tunnels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each tunnel to a head that is there, whose workers are not."""
    opened = tmp_path / "opened"
    (tmp_path / "head.py").write_text(_RAY)
    (tmp_path / "ray").write_text(
        f'#!/bin/sh\nexec {sys.executable} {tmp_path / "head.py"} {opened} "$@"\n'
    )
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return opened


def test_one_tunnel_serves_many_questions_and_ends_with_who_asked(tunnels: Path) -> None:
    backend = place("vm-hosts").open()
    assert isinstance(backend, VmBackend)
    for _ in range(3):
        assert backend.status("one").state is JobState.UNKNOWN
    assert tunnels.read_text().split() == ["tunnel"]
    assert backend._tunnel is not None
    process, _ = backend._tunnel
    assert process.poll() is None
    # One that breaks is opened again.
    process.kill()
    process.wait()
    assert backend.status("one").state is JobState.UNKNOWN
    process, _ = backend._tunnel
    del backend
    assert process.poll() is not None


def test_hosts_that_do_not_come_are_named_and_not_waited_for_for_ever(
    tunnels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("cluster.vm._JOIN_SECONDS", 0.2)
    monkeypatch.setattr("cluster.vm._LOOK", 0.05)
    provider = {"type": "local", "head": "10.0.0.11", "workers": ["10.0.0.12", "10.0.0.13"]}
    found = place("vm-hosts", provider=provider, root=str(tmp_path / "jobs"))
    with pytest.raises(JobError, match="no job one was submitted"):
        found.open().resume("one")
    assert "1 of 3 hosts have joined the cluster, without 10.0.0.12, 10.0.0.13" in caplog.text


def test_the_autoscaler_that_never_begins_workers_on_listed_hosts_is_off() -> None:
    assert "RAY_enable_autoscaler_v2=0" in launcher("vm-hosts")["head_start_ray_commands"][-1]
    assert "autoscaler_v2" not in str(launcher("vm-gcp"))
