"""A real SLURM on one machine: a controller here, and nodes that are hosts of their own.

It needs Debian's ``slurm-wlm`` and ``munge``, and what :mod:`tests.cluster.hosts` needs.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from pathlib import Path

from tests.cluster import hosts
from tests.cluster.hosts import Hosts, until

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}({here})
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=10
OverTimeLimit=0
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no such SLURM here; None if there can."""
    return hosts.missing("slurmctld", "slurmd", "munged", "sbatch")


class SlurmMachine:
    """Starts with :meth:`start` and ends whole with :meth:`stop`."""

    def __init__(self, root: Path, nodes: int = 1, cpus: int = 2) -> None:
        root.mkdir(parents=True)
        self.root = root
        self.hosts = Hosts("sn", nodes, root / "daemons.log")
        self.config = root / "slurm.conf"
        declared = [
            f"NodeName={name} NodeAddr={self.hosts.address(name)} CPUs={cpus} State=UNKNOWN"
            for name in self.hosts.names
        ]
        self.config.write_text(
            _CONFIG.format(
                host=socket.gethostname(),
                here=self.hosts.here,
                port=_free_port(),
                node_port=_free_port(),
                root=root,
                nodes="\n".join(declared),
            )
        )

    @property
    def environment(self) -> dict[str, str]:
        """What the commands of SLURM need to find it."""
        return {"SLURM_CONF": str(self.config), "PATH": hosts.PATH}

    def start(self) -> None:
        """All daemons, until every node is idle."""
        (self.root / "state").mkdir()
        key = self.root / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
        files |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        told = [f"--{option}={self.root / file}" for option, file in files.items()]
        self.hosts.daemon(self.environment, "munged", "-F", "-f", *told)
        until((self.root / "munge.socket").exists, "munged did not start")
        self.hosts.start(
            lambda name: f"exec slurmd -D -N {name} -f {self.config}", self.environment
        )
        self.hosts.daemon(self.environment, "slurmctld", "-D", "-f", str(self.config))
        idle = ["idle"] * len(self.hosts.names)
        until(lambda: self.states() == idle, "nodes did not come up", 60)

    def states(self) -> list[str]:
        """The state of every node that answers."""
        shown = self.run("sinfo", "-h", "-N", "-o", "%t", check=False).stdout
        return [state for state in shown.split() if not state.endswith("*")]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of SLURM."""
        return subprocess.run(
            command,
            env={**os.environ, **self.environment},
            check=check,
            capture_output=True,
            text=True,
        )

    def stop(self) -> None:
        """End every job and daemon."""
        self.run("scancel", "--state=PENDING,RUNNING", "--user=root", check=False)
        self.hosts.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
