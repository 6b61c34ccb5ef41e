"""What a cluster file says about Kubernetes with KubeRay."""

from __future__ import annotations

from typing import Annotated, Literal, Self

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

GPU_LABELS = {
    "plain": "nvidia.com/gpu.product",
    "gke": "cloud.google.com/gke-accelerator",
    "eks": "karpenter.k8s.aws/instance-gpu-name",
    "aks": "kubernetes.azure.com/accelerator",
}
"""The label of nodes that says which GPUs they have, by kind of Kubernetes."""

SPOT_LABELS = {
    "gke": ("cloud.google.com/gke-spot", "true"),
    "eks": ("karpenter.sh/capacity-type", "spot"),
    "aks": ("kubernetes.azure.com/scalesetpriority", "spot"),
}
"""The label, and the taint where there is one, of nodes that may be taken away."""


class SecretKey(Settings):
    """One key of a Kubernetes secret."""

    secret: Word
    key: Word


class Volume(Settings):
    """A volume that every pod mounts at ``mount``: a claim that many nodes may write, or NFS."""

    mount: AbsolutePath
    claim: Word | None = None
    nfs: Nfs | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.claim is None) == (self.nfs is None):
            raise ValueError("expected one of claim and nfs")
        return self


class KubeGroup(Group):
    """Worker pods alike; ``node_selector`` are labels of the nodes that may run them."""

    memory_gib: Annotated[float, Field(gt=0)]
    node_selector: dict[str, str] = Field(default_factory=dict)


class Head(Machine):
    """The head's pod: the driver and Ray's own services, and no work of the sweep's."""

    cpus: Annotated[int, Field(ge=1)] = 2
    memory_gib: Annotated[float, Field(gt=0)] = 8
    gpus: Literal[0] = 0


class KubeRaySettings(Place):
    """A Kubernetes with KubeRay 1.5.1 or later. ``image`` has the project installed.

    ``platform`` says by which labels nodes tell their GPUs and whether they are spot. ``secrets``
    are names of Kubernetes secrets whose keys become variables; ``secret_environment`` takes
    single keys of secrets.
    """

    backend: Literal["kuberay"] = "kuberay"
    context: Word | None = None
    namespace: Label = "default"
    image: Word
    platform: Literal["plain", "gke", "eks", "aks"] = "plain"
    head: Head = Head()
    workers: Annotated[tuple[KubeGroup, ...], Field(min_length=1)]
    volumes: tuple[Volume, ...] = ()
    environment: Environment = Field(default_factory=dict)
    secrets: tuple[Word, ...] = ()
    secret_environment: dict[Variable, SecretKey] = Field(default_factory=dict)
    service_account: Word | None = None
    image_pull_secrets: tuple[Word, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        distinct([group.name for group in self.workers], "workers: name")
        distinct([volume.mount for volume in self.volumes], "volumes: mount")
        spots = [group.name for group in self.workers if group.spot]
        if spots and self.platform not in SPOT_LABELS:
            raise ValueError(
                f"workers {', '.join(spots)} are spot, and platform is {self.platform}, which has "
                f"no label for it; expected platform {', '.join(SPOT_LABELS)}, or node_selector "
                "in place of spot"
            )
        return self

    def check_storage(self, storage: str) -> None:
        """JobError for a folder of no volume: it would be lost with its pod."""
        check_mounted(storage, [volume.mount for volume in self.volumes])
