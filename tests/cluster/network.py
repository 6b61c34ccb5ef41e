"""Hosts of a network of their own, as namespaces of this machine; needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid


class Network:
    """Namespaces with addresses of their own, joined by a bridge that this machine is not on."""

    def __init__(self, *names: str) -> None:
        self._tag = uuid.uuid4().hex[:6]
        self._names = names
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("link", "set", self._bridge, "up")
            for number, name in enumerate(names, start=1):
                self._add(name, number)
        except BaseException:
            self.end()
            raise

    @property
    def _bridge(self) -> str:
        return f"br{self._tag}"

    def _space(self, name: str) -> str:
        return f"ractd-{self._tag}-{name}"

    def _plug(self, name: str) -> str:
        """The end of the host's cable that is in the bridge."""
        return f"p{self._tag}{self._names.index(name)}"

    def _add(self, name: str, number: int) -> None:
        space = self._space(name)
        _ip("netns", "add", space)
        inner = f"h{self._tag}{number}"
        _ip("link", "add", self._plug(name), "type", "veth", "peer", "name", inner)
        _ip("link", "set", inner, "netns", space)
        _ip("link", "set", self._plug(name), "master", self._bridge, "up")
        _ip("-n", space, "address", "add", f"{self.address(name)}/24", "dev", inner)
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "link", "set", inner, "up")
        # Programs find their own address by asking where everything else goes.
        _ip("-n", space, "route", "add", "default", "dev", inner)

    def address(self, name: str) -> str:
        return f"10.213.77.{1 + self._names.index(name)}"

    def inside(self, name: str) -> list[str]:
        """What to put before a command that is to run on the host."""
        return ["ip", "netns", "exec", self._space(name)]

    def cut(self, name: str) -> None:
        """Pull the host's cable: nothing arrives any more, and nobody is told."""
        _ip("link", "set", self._plug(name), "down")

    def end(self) -> None:
        for name in self._names:
            for what in (("link", self._plug(name)), ("netns", self._space(name))):
                subprocess.run(["ip", what[0], "del", what[1]], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)


def refused() -> str:
    """Why this machine cannot have such a network; empty if it can."""
    if os.name != "posix" or not shutil.which("ip"):
        return "needs the ip command of Linux"
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    try:
        Network("probe").end()
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted here: {error.stderr.strip()}"
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
