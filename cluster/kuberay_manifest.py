"""The objects that a RayJob takes: one ``ConfigMap`` with the job's files, one ``RayJob``."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from cluster.kuberay_settings import GPU_LABELS, SPOT_LABELS, KubeGroup, KubeRaySettings, Volume
from cluster.protocol import Job
from cluster.settings import CAPACITY, Machine, capacity

Manifest = dict[str, Any]

_FILES = "/etc/ractd/job"
_GRACE_SECONDS = 120
_LONGEST = 47
"""KubeRay makes longer names of a RayJob's."""
_DNS_LABEL = re.compile(rf"[a-z]([-a-z0-9]{{0,{_LONGEST - 2}}}[a-z0-9])?")


def resource_name(name: str) -> str:
    """What Kubernetes calls a job: its name, or a like one that Kubernetes accepts, and a hash."""
    if _DNS_LABEL.fullmatch(name):
        return name
    slug = re.sub(r"[^a-z0-9]+", "-", name)[:32].strip("-")
    return f"ractd-{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".replace("--", "-")


def config_map(place: KubeRaySettings, job: Job) -> Manifest:
    """The job's files. Its name holds their hash, so that no other submission changes them."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": _config_name(job),
            "namespace": place.namespace,
            "labels": _labels(job),
        },
        "immutable": True,
        "data": dict(job.files),
    }


def ray_job(place: KubeRaySettings, job: Job) -> Manifest:
    """The RayJob: a cluster whose head does no work of the sweep's, and the job's command."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": resource_name(job.name),
            "namespace": place.namespace,
            "labels": _labels(job),
            "annotations": {"ractd/job": job.name} | _annotations(job),
        },
        "spec": {
            # KubeRay pastes it into a line of the submitter's shell, which must see one command.
            "entrypoint": shlex.join(["exec", "env", "-C", _FILES, *job.command]),
            "submissionMode": "K8sJobMode",
            # KubeRay would also build anew for a driver that refused its spec or its cluster.
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 60,
            "suspend": False,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"},
                "enableInTreeAutoscaling": any(group.min < group.max for group in place.workers),
                "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 300},
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
                    "template": _pod(place, job, place.head, {}, []),
                },
                "workerGroupSpecs": [_group(place, job, group) for group in place.workers],
            },
        },
    }


def _group(place: KubeRaySettings, job: Job, group: KubeGroup) -> Manifest:
    selector = dict(group.node_selector)
    tolerations = []
    if group.gpus:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    if group.gpu_type:
        selector[GPU_LABELS[place.platform]] = group.gpu_type
    if group.spot:
        key, value = SPOT_LABELS[place.platform]
        selector[key] = value
        tolerations.append(
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
        )
    return {
        "groupName": group.name,
        "replicas": group.min,
        "minReplicas": group.min,
        "maxReplicas": group.max,
        "rayStartParams": {},
        "template": _pod(place, job, group, selector, tolerations),
    }


def _pod(
    place: KubeRaySettings,
    job: Job,
    machine: Machine,
    selector: Mapping[str, str],
    tolerations: list[dict[str, str]],
) -> Manifest:
    resources: dict[str, str | int] = {"cpu": str(machine.cpus)}
    if machine.memory_gib:
        resources["memory"] = f"{int(machine.memory_gib * 1024)}Mi"
    if machine.gpus:
        resources["nvidia.com/gpu"] = machine.gpus
    grace = max(_GRACE_SECONDS, math.ceil(job.grace))
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # How long a driver has between being told to end and being ended.
        "RAY_JOB_STOP_WAIT_TIME_S": str(grace),
        CAPACITY: capacity(place.workers),
        **job.environment,
        **place.environment,
    }
    container: Manifest = {
        "name": "ray",
        "image": place.image,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "env": [
            *({"name": key, "value": value} for key, value in environment.items()),
            *(
                {
                    "name": key,
                    "valueFrom": {"secretKeyRef": {"name": each.secret, "key": each.key}},
                }
                for key, each in place.secret_environment.items()
            ),
        ],
        "envFrom": [{"secretRef": {"name": name}} for name in place.secrets],
        "volumeMounts": [
            {"name": "job", "mountPath": _FILES, "readOnly": True},
            *(
                {"name": f"volume-{index}", "mountPath": volume.mount}
                for index, volume in enumerate(place.volumes)
            ),
        ],
    }
    pod: Manifest = {
        "terminationGracePeriodSeconds": grace,
        "containers": [container],
        "volumes": [
            {"name": "job", "configMap": {"name": _config_name(job)}},
            *(_volume(index, volume) for index, volume in enumerate(place.volumes)),
        ],
        "nodeSelector": dict(selector),
        "tolerations": tolerations,
        "imagePullSecrets": [{"name": name} for name in place.image_pull_secrets],
    }
    if place.service_account:
        pod["serviceAccountName"] = place.service_account
    return {"metadata": {"labels": _labels(job)}, "spec": {k: v for k, v in pod.items() if v}}


def _volume(index: int, volume: Volume) -> Manifest:
    source: Manifest
    if volume.claim is not None:
        source = {"persistentVolumeClaim": {"claimName": volume.claim}}
    else:
        assert volume.nfs is not None
        source = {"nfs": {"server": volume.nfs.server, "path": volume.nfs.path}}
    return {"name": f"volume-{index}", **source}


def _config_name(job: Job) -> str:
    content = json.dumps(dict(job.files), sort_keys=True)
    return f"{resource_name(job.name)}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def _labels(job: Job) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "ractd", "ractd/job": resource_name(job.name)}


def _annotations(job: Job) -> dict[str, str]:
    return {f"ractd/{key.replace('_', '-')}": value for key, value in job.metadata.items()}
