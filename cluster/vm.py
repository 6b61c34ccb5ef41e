"""Jobs on machines that Ray's cluster launcher prepares: hosts of one's own, AWS or GCP."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import shlex
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import yaml

from cluster.protocol import Backend, Job, JobError, JobStatus
from cluster.ray_jobs import RayBackend
from cluster.readme import readme
from cluster.tools import run
from cluster.vm_launcher import AUTH_FILE, DASHBOARD_PORT, environment, launcher_config
from cluster.vm_settings import Hosts, VmSettings

_TUNNEL_SECONDS = 60.0
_UP_SECONDS = 3600.0
_JOIN_SECONDS, _LOOK = 120.0, 1.0
_log = logging.getLogger(__name__)


class VmPlace(VmSettings):
    """Machines for one cluster, which sweeps may share."""

    def open(self) -> Backend:
        """The backend."""
        return VmBackend(self)

    def rendered(self, job: Job) -> Mapping[str, str]:
        """The launcher's file, the job's files, and how to use them."""
        where = "http://127.0.0.1:8265"
        project = f"in the image `{self.image}`" if self.image else f"for `{self.python}`"
        text = readme(
            job,
            install=(
                "`pip install 'ray[default]'` of the version that the machines have"
                f"{self.provider.needs}; ractd {job.metadata.get('ractd', '')} on the machines, "
                f"{project}; a token that all share, which `ray get-auth-token --generate` writes "
                f"to `{AUTH_FILE}`"
            ),
            start="ray up -y cluster.yaml",
            watch="ray dashboard cluster.yaml",
            stop="ray down -y cluster.yaml",
            resume=(
                f"While `ray dashboard` runs, `RAY_AUTH_MODE=token ractd cluster submit spec.yaml "
                f"--address {where} --storage {shlex.quote(job.command[-1])}` submits or resumes "
                "the sweep. `ray down` ends the machines, which cost until then."
            ),
        )
        return {"cluster.yaml": self.open().render(job), **job.files, "README.md": text}


class VmBackend:
    """Brings the machines up, and leaves the job to the Ray job server of the first."""

    def __init__(self, place: VmSettings) -> None:
        self.place = place
        self._tunnel: tuple[subprocess.Popen[bytes], RayBackend] | None = None

    def submit(self, job: Job) -> str:
        """Bring the machines up if they are not, and submit. The project is there already."""
        _make_token()
        with self._file() as file:
            command = ("ray", "up", "--yes", "--no-restart", "--disable-usage-stats", str(file))
            run(*command, seconds=_UP_SECONDS)
        return self._complete().submit(dataclasses.replace(job, code=()))

    def status(self, name: str) -> JobStatus:
        """As the job server knows it."""
        return self._jobs().status(name)

    def logs(self, name: str, *, follow: bool = False) -> Iterator[str]:
        """The job's output."""
        yield from self._jobs().logs(name, follow=follow)

    def stop(self, name: str, *, grace: float = 20.0) -> JobStatus:
        """End the job; the machines stay up."""
        return self._jobs().stop(name, grace=grace)

    def resume(self, name: str) -> str:
        """Submit the same job again."""
        return self._complete().resume(name)

    def render(self, job: Job) -> str:
        """The launcher's file as YAML."""
        return yaml.safe_dump(launcher_config(self.place), sort_keys=False)

    @contextmanager
    def _file(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "cluster.yaml"
            file.write_text(yaml.safe_dump(launcher_config(self.place), sort_keys=False))
            yield file

    def _jobs(self) -> RayBackend:
        """The job server, which listens on the head's loopback, through a tunnel of SSH's.

        The tunnel lasts as long as this object, or this process.
        """
        if self._tunnel is None or self._tunnel[0].poll() is not None:
            port = _free_port()
            options = ("--port", str(port), "--remote-port", str(DASHBOARD_PORT))
            with self._file() as file, tempfile.TemporaryFile("w+") as said:
                tunnel = subprocess.Popen(
                    ["ray", "dashboard", *options, str(file)],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                weakref.finalize(self, _end, tunnel)
                _wait_for(port, tunnel, said)
            jobs = RayBackend(f"http://127.0.0.1:{port}", self.place.root, environment(self.place))
            self._tunnel = (tunnel, jobs)
        return self._tunnel[1]

    def _complete(self) -> RayBackend:
        """The job server once all hosts are there: the launcher returns when it has the first one.

        Those that have not come in two minutes are told of, and the rest works without them.
        """
        jobs = self._jobs()
        provider = self.place.provider
        hosts = (provider.head, *provider.workers) if isinstance(provider, Hosts) else ()
        end = time.monotonic() + _JOIN_SECONDS
        while len(joined := jobs.dashboard.nodes()) < len(hosts):
            if time.monotonic() > end:
                absent = [host for host in hosts if _address(host) not in joined]
                _log.warning(
                    "%d of %d hosts have joined the cluster, without %s: monitor.out in Ray's logs "
                    "on the first says why; those that join later are used too",
                    len(joined),
                    len(hosts),
                    ", ".join(absent),
                )
                break
            time.sleep(_LOOK)
        return jobs


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _address(host: str) -> str:
    with contextlib.suppress(OSError):
        return socket.gethostbyname(host)
    return host


def _end(tunnel: subprocess.Popen[bytes]) -> None:
    """End SSH and what Ray put around it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(tunnel.pid, signal.SIGTERM)
    tunnel.wait()


def _make_token() -> None:
    """What all machines and whoever submits share; one that is there is used."""
    path = Path(AUTH_FILE).expanduser()
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))


def _wait_for(port: int, tunnel: subprocess.Popen[bytes], said: IO[str]) -> None:
    """Until the tunnel takes connections; JobError with what it said if it does not."""
    end = time.monotonic() + _TUNNEL_SECONDS
    while time.monotonic() < end and tunnel.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    said.seek(0)
    words = said.read().strip().splitlines() or ["nothing was said"]
    raise JobError(f"no way to the cluster's head: {words[-1]}")
