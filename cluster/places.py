"""Where a backend's jobs run, as typed settings: a flag or two, or a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cluster.local import LocalBackend
from cluster.protocol import Backend, JobError
from cluster.ray_jobs import RayBackend


class Place(BaseModel):
    """What all places have in common. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LocalPlace(Place):
    """Processes of this machine; their files lie under ``root``."""

    backend: Literal["local"] = "local"
    root: Path

    def open(self) -> Backend:
        """The backend."""
        return LocalBackend(self.root)


class RayPlace(Place):
    """A Ray cluster that runs already; ``address`` is its dashboard's, ``http://HOST:8265``."""

    backend: Literal["ray"] = "ray"
    address: str

    def open(self) -> Backend:
        """The backend."""
        return RayBackend(self.address)


AnyPlace = Annotated[LocalPlace | RayPlace, Field(discriminator="backend")]
_PLACE: TypeAdapter[LocalPlace | RayPlace] = TypeAdapter(AnyPlace)


def parse_place(raw: object, source: str) -> LocalPlace | RayPlace:
    """The place that ``raw`` describes; JobError with every mistake, naming ``source``."""
    try:
        return _PLACE.validate_python(raw)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, each['loc'])) or 'backend'}: {each['msg']}"
            for each in error.errors()
        ]
        raise JobError("\n".join([f"{source}: {len(lines)} mistakes", *lines])) from error
