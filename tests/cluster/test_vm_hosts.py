"""A sweep on two hosts that Ray's cluster launcher prepares over SSH."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster import JobError, JobState, parse_place
from sweeps.cli_cluster import job_of
from sweeps.ledger import RECORD
from sweeps.spec import load_spec
from tests.cluster.hosts import Hosts, missing
from tests.cluster.jobs import wait
from tests.sweeps.conftest import TINY

PROJECT = Path(__file__).parents[2]
SSHD = "/usr/sbin/sshd"

_absent = missing("rsync", "ssh", "ssh-keygen", "sshd")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.failures,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(_absent is not None, reason=f"hosts to log in to: {_absent}"),
]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts that the key in ``tmp_path`` opens, each with a home of its own."""
    found = Hosts("vm", 2, tmp_path / "hosts.log")
    for key in ("key", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key)]
        subprocess.run(command, check=True)
    Path("/run/sshd").mkdir(exist_ok=True)

    def service(name: str) -> str:
        # What is written to the home is the host's alone.
        upper, work = tmp_path / f"home-{name}", tmp_path / f"work-{name}"
        upper.mkdir()
        work.mkdir()
        home = f"lowerdir=/root,upperdir={upper},workdir={work}"
        options = {
            "HostKey": tmp_path / "host",
            "AuthorizedKeysFile": tmp_path / "key.pub",
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "no",
            "PidFile": "none",
            "UsePAM": "no",
        }
        told = " ".join(f"-o {key}={value}" for key, value in options.items())
        server = f"exec {SSHD} -D -e -f /dev/null {told}"
        return f"{{ mount -t overlay -o {home} overlay /root && {server}; }}"

    try:
        found.start(service, {})
        yield found
    finally:
        found.stop()


def test_a_sweep_on_two_hosts_is_stopped_resumed_and_ends_well(
    hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The token and Ray's own files are the test's, not the user's.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{PROJECT}/.venv/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    head, worker = map(hosts.address, hosts.names)
    place = parse_place(
        {
            "backend": "vm",
            "name": f"test-{secrets.token_hex(4)}",
            "root": str(tmp_path / "jobs"),
            "provider": {"type": "local", "head": head, "workers": [worker]},
            "ssh": {"user": "root", "key": str(tmp_path / "key")},
            "python": str(PROJECT / ".venv" / "bin" / "python"),
            "environment": {"PYTHONPATH": str(PROJECT), "RACTD_HOME": str(tmp_path / "ractd")},
        },
        "cluster.yaml",
    )
    spec, storage = tmp_path / "tiny.yaml", tmp_path / "storage"
    spec.write_text(yaml.safe_dump(TINY))
    job = job_of(load_spec(str(spec)), str(storage))
    backend = place.open()
    backend.submit(job)
    with pytest.raises(JobError, match="tiny is already running"):
        backend.submit(job)
    deadline = time.monotonic() + 400
    while not any("trials at once" in line for line in backend.logs("tiny")):
        assert backend.status("tiny").state is JobState.RUNNING, list(backend.logs("tiny"))
        assert time.monotonic() < deadline, list(backend.logs("tiny"))
        time.sleep(2)
    assert "preflight passed: 2 nodes" in "\n".join(backend.logs("tiny"))
    assert backend.stop("tiny").state is JobState.STOPPED
    backend.resume("tiny")
    assert wait(backend, "tiny", 500) is JobState.SUCCEEDED, list(backend.logs("tiny"))
    assert len(list(storage.glob(f"sweeps/tiny/trials/*/{RECORD}"))) == TINY["trials"]
    assert (tmp_path / "home" / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
