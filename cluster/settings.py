"""What the settings of places are made of."""

from __future__ import annotations

import json
import re
import shlex
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from cluster.protocol import Backend, Job, JobError
from cluster.readme import readme

_SECRET = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|KEY|PWD|PAT)(_|$)|APIKEY|(^|_)AUTH$",
    re.IGNORECASE,
)
_HOLDS_PASSWORD = re.compile(r"://[^/\s@]*:[^/\s]*@|[?&;]\w*password=", re.IGNORECASE)
"""A URL that does: ``postgresql://me:word@host/db``."""

_FOLDERS = ("RACTD_HOME", "MINARI_DATASETS_PATH")
CAPACITY = "RACTD_CLUSTER_CAPACITY"
"""The variable that tells a job what its cluster can grow to, as JSON by resource."""


class Settings(BaseModel):
    """A table of a cluster file. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path or "\n" in path or ".." in path.split("/"):
        raise ValueError("expected an absolute path without '..', as the nodes see it")
    return path.rstrip("/") or "/"


def _not_secret(values: dict[str, str]) -> dict[str, str]:
    for name, value in values.items():
        if _SECRET.search(name) or _HOLDS_PASSWORD.search(value):
            raise ValueError(
                f"{name} looks like a secret, which must not lie in a file: name it under "
                "'secrets' where the place has that, or set it where the nodes are started"
            )
        if name in _FOLDERS and not value.startswith("/"):
            raise ValueError(f"{name} is {value!r}, expected an absolute path on the nodes")
    return values


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected one line of printable characters")
    return text


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
"""A path on the nodes, whatever machine reads the file."""

Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Environment = Annotated[dict[Variable, Text], AfterValidator(_not_secret)]
"""Variables of the job and of every node; secrets are refused."""

Label = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
"""A name of lower-case letters, digits and dashes."""

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$")]
"""What a scheduler or a cloud calls something."""


class Machine(Settings):
    """What one node offers to the sweep: whole CPUs, memory in GiB, whole GPUs of one type."""

    cpus: Annotated[int, Field(ge=1)]
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    gpus: Annotated[int, Field(ge=0)] = 0
    gpu_type: Word | None = None

    @model_validator(mode="after")
    def _type_of_something(self) -> Self:
        if self.gpu_type and not self.gpus:
            raise ValueError("gpu_type is given, but gpus is 0; expected gpus of 1 or more")
        return self


class Bounds(Settings):
    """How many nodes a group has: ``min`` always, up to ``max`` when there is work."""

    min: Annotated[int, Field(ge=0)] = 0
    max: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, above max {self.max}")
        return self


class Nfs(Settings):
    """A folder that a file server exports."""

    server: Word
    path: AbsolutePath


class Group(Bounds, Machine):
    """Worker nodes alike. ``spot`` ones are cheap and may be taken away at any time."""

    name: Label
    spot: bool = False


def capacity(groups: Sequence[Group]) -> str:
    """What a cluster can grow to, as :data:`CAPACITY` says it; its head works for no sweep."""
    cpus = sum(group.max * group.cpus for group in groups)
    gpus = sum(group.max * group.gpus for group in groups)
    return json.dumps({"CPU": cpus} | ({"GPU": gpus} if gpus else {}))


def distinct(names: list[str], what: str) -> None:
    """Raise ValueError for a name that is there twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} {', '.join(twice)} named more than once")


class Place(Settings):
    """What all places have in common.

    ``storage`` is where a sweep goes that neither the command nor its spec sends anywhere.
    """

    storage: Text | None = None

    @abstractmethod
    def open(self) -> Backend:
        """The backend."""

    def rendered(self, job: Job) -> Mapping[str, str]:
        """Files, by name, that run ``job`` here, and how to use them."""
        described = self.model_dump(mode="json", exclude_none=True)
        where = shlex.join(["--cluster", "cluster.yaml", "--storage", job.command[-1]])
        text = readme(
            job,
            install=f"ractd {job.metadata.get('ractd', '')} here and at the place",
            start=f"ractd cluster submit spec.yaml {where}",
            watch=f"ractd cluster logs {job.name} --follow",
            stop=f"ractd cluster stop {job.name}",
            resume=f"To resume: `ractd cluster resume {job.name}`.",
        )
        return {
            "command.txt": self.open().render(job),
            "cluster.yaml": yaml.safe_dump(described, sort_keys=False),
            **job.files,
            "README.md": text,
        }

    def check_storage(self, storage: str) -> None:
        """Raise JobError if jobs here cannot keep what they write to ``storage``."""


def check_mounted(storage: str, mounts: list[str]) -> None:
    """Raise JobError unless ``storage`` is a URI or lies in a folder that every node mounts."""
    if "://" in storage:
        return
    if not any(f"{storage}/".startswith(f"{mount.rstrip('/')}/") for mount in mounts):
        raise JobError(
            f"storage {storage} would be lost with the node that writes it: expected a folder "
            f"below {' or '.join(mounts) or 'a mounted volume (none in the cluster file)'}, or "
            "the URI of a bucket; give it with --storage or as 'storage' in the cluster file"
        )
