"""Hosts on one machine, each with an address, a name and processes of its own.

A host is a process in network, process, name and mount namespaces of its own, so that what runs on
it, and what ends there, is its own. It needs root and ``iproute2``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

_HOST = """\
hostname {name}
mount -t tmpfs tmpfs /tmp/ray
ip link set lo up
until ip link show {name} >/dev/null 2>&1; do sleep 0.1; done
ip address add {address}/24 dev {name}
ip link set {name} up
# Ray takes the address that leads out of a host for the host's own, else 127.0.0.1.
ip route add default via {here}
{service} &
# As the host's first process the shell also reaps what others leave behind.
while :; do wait; sleep 1; done
"""


def missing(*tools: str) -> str | None:
    """Why there can be no such hosts here; None if there can."""
    absent = [tool for tool in ("unshare", "ip", *tools) if shutil.which(tool, path=PATH) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    return "needs root, to make namespaces" if os.geteuid() else None


class Hosts:
    """Hosts ``PREFIX1``, ``PREFIX2``, ... and this machine, on a network of their own."""

    def __init__(self, prefix: str, count: int, log: Path) -> None:
        self.names = [f"{prefix}{index}" for index in range(1, count + 1)]
        self.log = log
        self._bridge = f"br{secrets.token_hex(4)}"
        self._net = f"10.{100 + secrets.randbelow(100)}.{secrets.randbelow(250)}"
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def here(self) -> str:
        """This machine's address."""
        return f"{self._net}.1"

    def address(self, name: str) -> str:
        """A host's address."""
        return f"{self._net}.{11 + self.names.index(name)}"

    def start(self, service: Callable[[str], str], environment: Mapping[str, str]) -> None:
        """Bring the hosts up, each with the shell command that ``service`` gives for its name."""
        Path("/tmp/ray").mkdir(exist_ok=True)
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.here}/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")
        for index, name in enumerate(self.names):
            script = _HOST.format(
                name=name, address=self.address(name), here=self.here, service=service(name)
            )
            spaces = ("--net", "--pid", "--mount", "--uts", "--fork", "--kill-child")
            process = self.daemon(
                environment, "unshare", *spaces, "--mount-proc", "sh", "-ec", script
            )
            outer = f"{self._bridge}{index}"
            run("ip", "link", "add", outer, "type", "veth", "peer", "name", name)
            run("ip", "link", "set", outer, "master", self._bridge, "up")
            until(partial(_has_left, process.pid), f"{name} has no network of its own")
            run("ip", "link", "set", name, "netns", str(process.pid))

    def daemon(self, environment: Mapping[str, str], *command: str) -> subprocess.Popen[bytes]:
        """A process of this machine that ends with the hosts."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """End every daemon, and with a host everything that ran on it."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        subprocess.run(["ip", "link", "delete", self._bridge], env={"PATH": PATH}, check=False)


def _has_left(pid: int) -> bool:
    """Whether a process has a network other than ours."""
    return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()


def run(*command: str) -> None:
    subprocess.run(command, env={"PATH": PATH}, check=True, capture_output=True)


def until(moment: Callable[[], bool], problem: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < deadline, problem
        time.sleep(0.1)
