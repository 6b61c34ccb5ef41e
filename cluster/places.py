"""Where a backend's jobs run, as typed settings: a flag or two, or a YAML file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from cluster.kuberay import KubeRayPlace
from cluster.local import LocalBackend
from cluster.mistakes import mistakes
from cluster.protocol import Backend, JobError
from cluster.ray_jobs import RayBackend
from cluster.settings import CAPACITY, Environment, Place
from cluster.slurm import SlurmPlace
from cluster.vm import VmPlace

_ADDRESS = re.compile(r"https?://[A-Za-z0-9._-]+(:\d+)?/?|https?://\[[0-9a-fA-F:]+\](:\d+)?/?")


class LocalPlace(Place):
    """Processes of this machine; their files lie under ``root``."""

    backend: Literal["local"] = "local"
    root: Path

    def open(self) -> Backend:
        """The backend."""
        return LocalBackend(self.root)


class RayPlace(Place):
    """A Ray cluster that runs already; ``address`` is its dashboard's, ``http://HOST:8265``.

    What jobs consist of is remembered under ``root``, on this machine. ``environment`` is the
    jobs', on every node; Ray shows it, so it holds no secrets. ``driver_cpus`` are held for a job's
    own process, 0 to 8; 0 puts it on the head node. ``grows_to`` is what an autoscaler can bring
    the whole cluster to, by resource (``{CPU: 64, GPU: 8}``).
    """

    backend: Literal["ray"] = "ray"
    address: str
    root: Path
    environment: Environment = Field(default_factory=dict)
    driver_cpus: float = Field(default=0.0, ge=0, le=8)
    grows_to: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str) -> str:
        if not _ADDRESS.fullmatch(address):
            # Not repeated: what does not fit may hold a password.
            raise ValueError("expected the dashboard's http://HOST:8265, and no credentials")
        return address

    def open(self) -> Backend:
        """The backend."""
        grows = {CAPACITY: json.dumps(self.grows_to)} if self.grows_to else {}
        return RayBackend(self.address, self.root, {**self.environment, **grows}, self.driver_cpus)


_Places = LocalPlace | RayPlace | SlurmPlace | KubeRayPlace | VmPlace
AnyPlace = Annotated[_Places, Field(discriminator="backend")]
_PLACE: TypeAdapter[_Places] = TypeAdapter(AnyPlace)


def parse_place(raw: object, source: str) -> AnyPlace:
    """The place that ``raw`` describes; JobError with every mistake, naming ``source``."""
    try:
        return _PLACE.validate_python(raw)
    except ValidationError as error:
        lines = mistakes(error, AnyPlace, raw)
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise JobError("\n  ".join([f"{source}: {count}", *lines])) from error
