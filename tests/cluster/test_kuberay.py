"""The manifests for KubeRay, and how its backend talks to Kubernetes (a stand-in here)."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import Job, JobError, JobState
from cluster.kuberay import KubeRayBackend
from cluster.kuberay_manifest import resource_name
from tests.cluster.jobs import shell, wait, wait_for_line
from tests.cluster.test_places import JOB, place

CRDS = "KUBERAY_CRDS"
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)


def manifests(name: str, job: Job = JOB, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    config, ray_job = yaml.safe_load_all(place(name, **changes).open().render(job))
    return config, ray_job


def pods(ray_job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = ray_job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_head_works_for_no_sweep_and_workers_come_and_go_within_their_bounds() -> None:
    _, ray_job = manifests("kuberay")
    spec = ray_job["spec"]
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    bounds = ("groupName", "minReplicas", "replicas", "maxReplicas")
    assert [[group[key] for key in bounds] for group in cluster["workerGroupSpecs"]] == [
        ["cpu", 1, 1, 4],
        ["gpu", 0, 0, 8],
    ]
    head, cpu, gpu = pods(ray_job)
    assert head["containers"][0]["resources"]["limits"] == {"cpu": "4", "memory": "16384Mi"}
    assert "nodeSelector" not in cpu
    assert gpu["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_every_pod_has_the_jobs_files_the_volumes_and_the_secrets_by_name() -> None:
    config, ray_job = manifests("kuberay-gke-spot")
    assert config["data"] == JOB.files
    entry = shlex.split(ray_job["spec"]["entrypoint"])
    for pod in pods(ray_job):
        container = pod["containers"][0]
        mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert set(mounted) == set(volumes)
        assert entry == ["exec", "env", "-C", mounted["job"], *JOB.command]
        assert volumes["job"]["configMap"]["name"] == config["metadata"]["name"]
        assert volumes["volume-0"]["nfs"] == {
            "server": "files.example.org",
            "path": "/exports/d4rl",
        }
        assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
        assert {
            "name": "WANDB_API_KEY",
            "valueFrom": {"secretKeyRef": {"name": "trackers", "key": "wandb"}},
        } in container["env"]
        assert pod["serviceAccountName"] == "sweeps"
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
    _, spot = pods(ray_job)
    assert spot["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert any(each["key"] == "cloud.google.com/gke-spot" for each in spot["tolerations"])


def test_the_job_is_told_what_its_cluster_can_grow_to() -> None:
    _, ray_job = manifests("kuberay")
    told = {each["name"]: each.get("value") for each in pods(ray_job)[0]["containers"][0]["env"]}
    assert json.loads(told["RACTD_CLUSTER_CAPACITY"]) == {"CPU": 4 * 16 + 8 * 16, "GPU": 8}


def test_a_pod_has_the_time_that_its_job_takes_to_end() -> None:
    _, ray_job = manifests("kuberay", Job("one", JOB.command, grace=300))
    for pod in pods(ray_job):
        told = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        assert told["RAY_JOB_STOP_WAIT_TIME_S"] == "300"
        assert pod["terminationGracePeriodSeconds"] == 300


def test_other_files_are_another_config_map() -> None:
    changed = Job("one", JOB.command, files={"spec.yaml": "name: one\ntrials: 5\n"})
    assert manifests("kuberay", changed)[0]["metadata"] != manifests("kuberay")[0]["metadata"]


@given(names, names)
def test_names_are_kubernetes_names_and_no_two_are_the_same(one: str, other: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", resource_name(one))
    assert (resource_name(one) == resource_name(other)) == (one == other)


@settings(max_examples=25)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=3), names, st.text(max_size=20))
def test_the_entry_point_and_the_files_arrive_as_they_are(
    command: list[str], name: str, text: str
) -> None:
    text = "".join(c for c in text if c.isprintable() or c in "\n\t")
    words = ["".join(c for c in word if c.isprintable()) for word in command]
    config, ray_job = manifests("kuberay", Job(name, tuple(words), files={"spec.yaml": text}))
    # KubeRay pastes it into a line for bash: one command of these words, and nothing besides.
    line = f'show() {{ printf "%s\\0" "$@"; }}; show {ray_job["spec"]["entrypoint"]} ; show end'
    done = subprocess.run(["bash", "-ec", line], capture_output=True, check=True, text=True)
    _, _, _, _, *found, end, _ = done.stdout.split("\0")
    assert (found, end) == (words, "end")
    assert config["data"] == {"spec.yaml": text}
    assert ray_job["metadata"]["annotations"]["ractd/job"] == name


def schema(kind: str) -> dict[str, Any]:
    """The OpenAPI schema of a published CustomResourceDefinition."""
    folder = os.environ.get(CRDS)
    if folder is None:
        pytest.skip(f"{CRDS} names no folder with KubeRay's CustomResourceDefinitions")
    path = next(Path(folder).glob(f"ray.io_{kind}.yaml*"))
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    versions = yaml.load(data, Loader=yaml.CSafeLoader)["spec"]["versions"]
    served = next(version for version in versions if version["name"] == "v1")
    found: dict[str, Any] = served["schema"]["openAPIV3Schema"]
    return found


def unknown(value: Any, known: dict[str, Any], path: str = "") -> list[str]:
    """Fields that Kubernetes would drop without a word."""
    if isinstance(value, list):
        inner = known.get("items", {})
        return [each for item in value for each in unknown(item, inner, f"{path}[]")]
    if not isinstance(value, dict) or "properties" not in known:
        return []
    return [
        each
        for key, item in value.items()
        for each in (
            unknown(item, known["properties"][key], f"{path}.{key}")
            if key in known["properties"]
            else [f"{path}.{key}"]
        )
    ]


def test_the_manifests_fit_the_published_schema() -> None:
    known = schema("rayjobs")
    for name in ("kuberay", "kuberay-gke-spot"):
        _, ray_job = manifests(name)
        jsonschema.Draft7Validator(known).validate(ray_job)
        assert unknown(ray_job, known) == []


# Over the stand-in


def test_a_job_is_found_by_its_own_name_though_kubernetes_has_another(
    kuberay: KubeRayBackend,
) -> None:
    kuberay.submit(shell("1.some_sweep", "echo a"))
    assert wait(kuberay, "1.some_sweep") is JobState.SUCCEEDED
    assert list(kuberay.logs("1.some_sweep")) == ["a"]


def test_somebody_elses_rayjob_of_that_name_is_left_alone(
    kuberay: KubeRayBackend, tmp_path: Path
) -> None:
    kuberay.submit(shell("one", "true"))
    wait(kuberay, "one")
    (path,) = tmp_path.parent.glob(f"{tmp_path.name}-kube/objects/rayjob/one/object")
    path.write_text(path.read_text().replace("ractd/job", "other/job"))
    for call in (kuberay.status, kuberay.resume, kuberay.stop):
        with pytest.raises(JobError, match="rayjob one in default is not ractd's job one"):
            call("one")


def test_a_driver_that_does_not_end_loses_its_cluster_and_starts_anew_with_another(
    kuberay: KubeRayBackend, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    kuberay.submit(
        shell("one", f"[ -e {mark} ] && exit 0; touch {mark}; trap '' TERM; echo begun; sleep 60")
    )
    wait_for_line(kuberay, "one", "begun")
    status = kuberay.stop("one", grace=0.3)
    assert status.state is JobState.STOPPED
    kuberay.resume("one")
    assert wait(kuberay, "one") is JobState.SUCCEEDED


def test_a_rayjob_that_kuberay_finds_invalid_has_failed_and_is_replaced(
    kuberay: KubeRayBackend, tmp_path: Path
) -> None:
    kuberay.submit(shell("one", "true"))
    wait(kuberay, "one")
    invalid = tmp_path.with_name(f"{tmp_path.name}-kube") / "objects" / "invalid"
    invalid.write_text("authOptions need Ray 2.52 or later")
    status = kuberay.status("one")
    assert status.state is JobState.FAILED
    assert "ValidationFailed authOptions need Ray 2.52 or later" in status.detail
    invalid.unlink()
    kuberay.submit(shell("one", "true"))
    assert wait(kuberay, "one") is JobState.SUCCEEDED


def test_a_driver_that_refuses_its_cluster_is_not_given_another(
    kuberay: KubeRayBackend, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    kuberay.submit(shell("one", f"echo x >> {starts}; exit 2"))
    assert wait(kuberay, "one") is JobState.FAILED
    assert starts.read_text().split() == ["x"]


def test_two_that_replace_a_job_that_is_over_do_not_remove_each_others(
    kuberay: KubeRayBackend, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    job = shell("one", f"echo x >> {starts}; sleep 2")
    kuberay.submit(job)
    wait(kuberay, "one")
    starts.unlink()
    told: list[str] = []

    def submit() -> None:
        try:
            told.append(kuberay.submit(job))
        except JobError as error:
            told.append(str(error))

    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told)[0] == "one"
    assert "one is already running" in sorted(told)[1]
    assert wait(kuberay, "one") is JobState.SUCCEEDED
    assert starts.read_text().split() == ["x"]


def test_a_cluster_that_does_not_answer_is_told_in_kubectls_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubectl").write_text(
        "#!/bin/sh\necho 'Unable to connect to the server' >&2\nexit 1"
    )
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    backend = place("kuberay").open()
    with pytest.raises(JobError, match=r"kubectl .* failed: Unable to connect to the server"):
        backend.submit(JOB)
