"""What a cluster file says about machines that Ray's cluster launcher prepares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cluster.settings import (
    AbsolutePath,
    Environment,
    Group,
    Label,
    Machine,
    Nfs,
    Place,
    Settings,
    Variable,
    Word,
    check_mounted,
    distinct,
)

Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$")]


class Hosts(Settings):
    """Machines that are there: their names or addresses."""

    needs: ClassVar[str] = ", rsync and ssh"
    type: Literal["local"] = "local"
    head: Host
    workers: Annotated[tuple[Host, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        distinct([self.head, *self.workers], "hosts")
        return self


class Aws(Settings):
    """Machines of EC2."""

    needs: ClassVar[str] = ", boto3 with credentials for EC2, rsync and ssh"
    type: Literal["aws"] = "aws"
    region: Word
    zones: Annotated[tuple[Word, ...], Field(min_length=1)]


class Gcp(Settings):
    """Machines of Google's Compute Engine."""

    needs: ClassVar[str] = ", google-api-python-client with credentials, rsync and ssh"
    type: Literal["gcp"] = "gcp"
    project: Word
    region: Word
    zone: Word


class Ssh(Settings):
    """Who logs in, and with which key of this machine; clouds can make one."""

    user: Word
    key: Path | None = None


class VmMachine(Machine):
    """A machine of the cloud's type ``instance``, with its disk made from ``system``.

    ``system`` is an AMI on AWS, an image's path on GCP.
    """

    instance: Word
    system: Word
    disk_gb: Annotated[int, Field(ge=20)] = 200


class VmGroup(VmMachine, Group):
    """Worker machines alike."""


class Mount(Settings):
    """An exported folder that every machine mounts at ``mount``."""

    mount: AbsolutePath
    nfs: Nfs


class VmSettings(Place):
    """Machines of one's own, of AWS or of GCP, which Ray's cluster launcher makes one cluster of.

    The project is installed in ``image`` (the machines have Docker then) or in the environment of
    ``python``. ``head`` and ``workers`` are for clouds; one's own hosts are what they are.
    ``secrets`` are variables that the machines' login shells set. What jobs consist of is
    remembered under ``root``, on this machine.
    """

    backend: Literal["vm"] = "vm"
    name: Label
    root: Path
    provider: Annotated[Hosts | Aws | Gcp, Field(discriminator="type")]
    ssh: Ssh
    image: Word | None = None
    python: AbsolutePath | None = None
    head: VmMachine | None = None
    workers: tuple[VmGroup, ...] = ()
    idle_minutes: Annotated[int, Field(ge=1)] = 10
    volumes: tuple[Mount, ...] = ()
    environment: Environment = Field(default_factory=dict)
    secrets: tuple[Variable, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if (self.image is None) == (self.python is None):
            problems.append("expected one of image and python")
        hosts = isinstance(self.provider, Hosts)
        if hosts and (self.head or self.workers):
            problems.append("provider local lists its hosts: expected neither head nor workers")
        if hosts and self.ssh.key is None:
            problems.append("provider local needs ssh.key")
        if not hosts and not (self.head and self.workers):
            problems.append(f"provider {self.provider.type} needs head and workers")
        if problems:
            raise ValueError("; ".join(problems))
        distinct([group.name for group in self.workers], "workers: name")
        distinct([volume.mount for volume in self.volumes], "volumes: mount")
        return self

    def check_storage(self, storage: str) -> None:
        """JobError for a folder of no volume; hosts of one's own may mount what they like."""
        if not isinstance(self.provider, Hosts):
            check_mounted(storage, [volume.mount for volume in self.volumes])
