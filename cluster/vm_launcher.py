"""The file of Ray's cluster launcher (``ray up``) for a place."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from cluster.settings import CAPACITY, capacity
from cluster.vm_settings import Aws, Gcp, Hosts, VmMachine, VmSettings

Launcher = dict[str, Any]

DASHBOARD_PORT = 8265
AUTH_FILE = "~/.ray/auth_token"
_PORT = 6379
_HEAD = "head"


def launcher_config(place: VmSettings) -> Launcher:
    """What ``ray up`` reads. Ray listens with a token, its dashboard on the head's loopback."""
    config: Launcher = {
        "cluster_name": place.name,
        "provider": _provider(place),
        "auth": {"ssh_user": place.ssh.user}
        | ({"ssh_private_key": str(place.ssh.key)} if place.ssh.key else {}),
        "idle_timeout_minutes": place.idle_minutes,
        "file_mounts": {AUTH_FILE: AUTH_FILE},
        "initialization_commands": [_mount(each.mount, each.nfs) for each in place.volumes],
        "setup_commands": [f"chmod 600 {AUTH_FILE}"],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            f"{_path(place)}ray stop",
            _start(
                place,
                f"--head --port={_PORT} --autoscaling-config=~/ray_bootstrap_config.yaml"
                f" --dashboard-host=127.0.0.1 --dashboard-port={DASHBOARD_PORT}",
            ),
        ],
        "worker_start_ray_commands": [
            f"{_path(place)}ray stop",
            _start(place, f'--address="$RAY_HEAD_IP:{_PORT}"'),
        ],
    }
    if place.image:
        config["docker"] = {
            "image": place.image,
            "container_name": "ractd",
            "run_options": [
                "--ulimit nofile=65536:65536",
                *(f"-v {shlex.quote(f'{v.mount}:{v.mount}')}" for v in place.volumes),
            ],
        }
    if place.head:
        config["head_node_type"] = _HEAD
        config["max_workers"] = sum(group.max for group in place.workers)
        config["available_node_types"] = {
            # The head offers nothing, so that no work of a sweep's runs there.
            _HEAD: {
                "resources": {"CPU": 0},
                "node_config": _machine(place, place.head, spot=False),
                "min_workers": 0,
                "max_workers": 0,
            },
            **{
                f"worker-{group.name}": {
                    "resources": {"CPU": group.cpus} | ({"GPU": group.gpus} if group.gpus else {}),
                    "node_config": _machine(place, group, spot=group.spot),
                    "min_workers": group.min,
                    "max_workers": group.max,
                }
                for group in place.workers
            },
        }
    return config


def environment(place: VmSettings) -> Mapping[str, str]:
    """The job's variables, beside its own."""
    grows = {CAPACITY: capacity(place.workers)} if place.workers else {}
    return {**place.environment, **grows}


def _path(place: VmSettings) -> str:
    """A login shell's PATH may lead to another Python, or to none."""
    if place.python is None:
        return ""
    folder = PurePosixPath(place.python).parent
    return f'export PATH={shlex.quote(str(folder))}:"$PATH" && '


def _start(place: VmSettings, options: str) -> str:
    # Ray's second autoscaler, which the launcher turns on, never begins workers on listed hosts.
    scaler = " RAY_enable_autoscaler_v2=0" if isinstance(place.provider, Hosts) else ""
    return _path(place) + " && ".join(
        [
            *(f"export {key}={shlex.quote(value)}" for key, value in place.environment.items()),
            *(
                f': "${{{key}:?set it in the login shell of every machine}}"'
                for key in place.secrets
            ),
            "export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0" + scaler,
            # As many open files as the machine allows.
            '{ ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"; }',
            f"ray start {options}",
        ]
    )


def _provider(place: VmSettings) -> Launcher:
    provider = place.provider
    if isinstance(provider, Hosts):
        return {
            "type": provider.type,
            "head_ip": provider.head,
            "worker_ips": list(provider.workers),
        }
    if isinstance(provider, Aws):
        return {
            "type": provider.type,
            "region": provider.region,
            "availability_zone": ",".join(provider.zones),
            "cache_stopped_nodes": False,
        }
    return {
        "type": provider.type,
        "project_id": provider.project,
        "region": provider.region,
        "availability_zone": provider.zone,
        "cache_stopped_nodes": False,
    }


def _machine(place: VmSettings, machine: VmMachine, *, spot: bool) -> Launcher:
    """The cloud's own words for a machine."""
    if isinstance(place.provider, Gcp):
        described: Launcher = {
            "machineType": machine.instance,
            "disks": [
                {
                    "boot": True,
                    "autoDelete": True,
                    "type": "PERSISTENT",
                    "initializeParams": {
                        "diskSizeGb": machine.disk_gb,
                        "sourceImage": machine.system,
                    },
                }
            ],
        }
        # Types with GPUs of their own name none here.
        if machine.gpu_type:
            described["guestAccelerators"] = [
                {"acceleratorType": machine.gpu_type, "acceleratorCount": machine.gpus}
            ]
        # A machine with GPUs cannot be moved to another host.
        moved = {"onHostMaintenance": "TERMINATE"} if machine.gpus else {}
        scheduling = moved | ({"preemptible": True} if spot else {})
        return described | ({"scheduling": [scheduling]} if scheduling else {})
    return {
        "InstanceType": machine.instance,
        "ImageId": machine.system,
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/sda1",
                "Ebs": {"VolumeSize": machine.disk_gb, "VolumeType": "gp3"},
            }
        ],
    } | ({"InstanceMarketOptions": {"MarketType": "spot"}} if spot else {})


def _mount(mount: str, nfs: Any) -> str:
    point, source = shlex.quote(mount), shlex.quote(f"{nfs.server}:{nfs.path}")
    return f"mountpoint -q {point} || (sudo mkdir -p {point} && sudo mount -t nfs {source} {point})"
