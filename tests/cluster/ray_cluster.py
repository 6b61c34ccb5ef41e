"""Real Ray clusters for tests, started as an admin would: `ray start`, token authentication.

Linux only: their processes are found through ``/proc``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

_MARK = "RACTD_TEST_CLUSTER"
HEALTH = {
    # A node that is cut off is given up after about (2 + 1) x 3 seconds instead of a minute ...
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    # ... those who wait for its answer see that none comes, which takes minutes otherwise ...
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    # ... and it ends its own processes when it has not heard from the head for so long.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}


class RayNode:
    """One ``ray start`` and all processes that came of it."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.mark = uuid.uuid4().hex
        # Several nodes of one host each need their own: they would clean up each other's files.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        with (self.folder / "out.txt").open("wb") as out:
            self.process = subprocess.Popen(
                [*command, "--block", "--disable-usage-stats", "--temp-dir", str(self.folder)],
                env={**environment, _MARK: self.mark},
                cwd=self.folder,  # not where the code lies
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self, named: str = "") -> list[int]:
        """Its living processes, of those whose command line has ``named`` in it."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes()
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                dead = ") Z " in (folder / "stat").read_text()
            except OSError:
                continue
            if marked and not dead and named in line:
                found.append(int(folder.name))
        return found

    def said(self) -> str:
        return (self.folder / "out.txt").read_text()

    def kill(self, named: str = "") -> None:
        for pid in self.pids(named):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def end(self) -> None:
        deadline = time.monotonic() + 30
        while self.pids():  # those that were just being started too
            self.kill()
            assert time.monotonic() < deadline, "processes of the cluster are left"
            time.sleep(0.1)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class RayCluster:
    """A head node at ``host`` and nodes that join it; ``inside`` prefixes the head's command."""

    def __init__(self, host: str, *, cpus: int, inside: Sequence[str] = ()) -> None:
        self.host, self.token = host, secrets.token_hex(32)
        self.cpus, self.inside = cpus, inside
        self.port, self._dashboard, self._agent = free_ports(host, 3, inside)
        self.address = f"http://{host}:{self._dashboard}"
        self.nodes: list[RayNode] = []
        self.begin()

    def begin(self) -> None:
        """Start the head; again after :meth:`end` it has the same address and no memory."""
        self._start(
            self.inside,
            *("--head", "--node-ip-address", self.host, "--port", str(self.port)),
            *("--dashboard-host", self.host, "--dashboard-port", str(self._dashboard)),
            *("--dashboard-agent-listen-port", str(self._agent), "--num-cpus", str(self.cpus)),
        )

    def join(self, host: str, *, cpus: int, inside: Sequence[str] = ()) -> RayNode:
        """Start another node."""
        [agent] = free_ports(host, 1, inside)
        return self._start(
            inside,
            *("--address", f"{self.host}:{self.port}", "--node-ip-address", host),
            *("--dashboard-agent-listen-port", str(agent), "--num-cpus", str(cpus)),
        )

    def _start(self, inside: Sequence[str], *arguments: str) -> RayNode:
        environment = {
            name: value
            for name, value in os.environ.items()
            # The nodes know nothing of who tests them.
            if not name.startswith(("RAY_", "TUNE_", "RACTD_", "MINARI_", "PYTHON"))
        }
        environment |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "OMP_NUM_THREADS": "1",
            **HEALTH,
        }
        store = ["--object-store-memory", str(128 * 2**20)]
        node = RayNode([*inside, "ray", "start", *arguments, *store], environment)
        self.nodes.append(node)
        return node

    @property
    def environment(self) -> dict[str, str]:
        """What a user of the cluster sets."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def wait(self, nodes: int, inside: Sequence[str] = (), seconds: float = 90) -> None:
        """Until the dashboard has answered and so many nodes are alive."""
        script = (
            "import json, sys, urllib.request\n"
            "headers = {'Authorization': 'Bearer ' + sys.argv[2]}\n"
            "url = sys.argv[1] + '/nodes?view=summary'\n"
            "request = urllib.request.Request(url, headers=headers)\n"
            "found = json.load(urllib.request.urlopen(request, timeout=5))['data']['summary']\n"
            "print(sum(node['raylet'].get('state') == 'ALIVE' for node in found))"
        )
        command = [*inside, sys.executable, "-c", script, self.address, self.token]
        deadline = time.monotonic() + seconds
        while True:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0 and int(done.stdout) == nodes:
                return
            assert time.monotonic() < deadline, (done, [node.said() for node in self.nodes])
            time.sleep(0.3)

    def end(self) -> None:
        while self.nodes:
            self.nodes.pop().end()


def free_ports(host: str, count: int, inside: Sequence[str] = ()) -> list[int]:
    """Ports that nobody listens on there."""
    script = (
        "import socket, sys\n"
        "held = [socket.create_server((sys.argv[1], 0)) for _ in range(int(sys.argv[2]))]\n"
        "print(*(each.getsockname()[1] for each in held))"
    )
    done = subprocess.run(
        [*inside, sys.executable, "-c", script, host, str(count)],
        capture_output=True,
        check=True,
        text=True,
    )
    return [int(port) for port in done.stdout.split()]
