"""Jobs of KubeRay: a RayJob in Kubernetes, with a Ray cluster of its own, through ``kubectl``."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from cluster.job_folder import exited
from cluster.kuberay_manifest import Manifest, config_map, ray_job, resource_name
from cluster.kuberay_settings import KubeRaySettings
from cluster.protocol import Backend, Job, JobError, JobState, JobStatus, check_name
from cluster.readme import readme
from cluster.tools import ToolError, run

_POLL = 1.0
_END_SECONDS = 150.0
_INVALID = "ValidationFailed"
_OVER = ("Complete", "Failed", _INVALID)
_SUSPENDED = "Suspended"
_EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")


class KubeRayPlace(KubeRaySettings):
    """A Kubernetes with KubeRay."""

    def open(self) -> Backend:
        """The backend."""
        return KubeRayBackend(self)

    def rendered(self, job: Job) -> Mapping[str, str]:
        """The manifests and how to use them."""
        kubectl = (
            f"kubectl{f' --context {self.context}' if self.context else ''} -n {self.namespace}"
        )
        name = resource_name(job.name)
        suspend = f"{kubectl} patch rayjob {name} --type merge -p"
        text = readme(
            job,
            install=(
                "kubectl, KubeRay 1.5.1 or later in the cluster, and the volumes and secrets that "
                f"job.yaml names; the image `{self.image}` must hold ractd "
                f"{job.metadata.get('ractd', '')}"
            ),
            start=f"{kubectl} apply -f job.yaml",
            watch=f"{kubectl} logs --follow job/{name}",
            stop=f"""{suspend} '{{"spec":{{"suspend":true}}}}'""",
            resume=(
                f"""To resume a stopped one: `{suspend} '{{"spec":{{"suspend":false}}}}'`; one """
                f"that has ended: `{kubectl} delete rayjob {name}`, and start it again."
            ),
        )
        return {"job.yaml": self.open().render(job), "README.md": text}


class KubeRayBackend:
    """Runs each job as a RayJob of the job's name, or one like it."""

    def __init__(self, place: KubeRayPlace) -> None:
        self.place = place

    def submit(self, job: Job) -> str:
        """Create the RayJob, in place of one that is over; JobError if one is not."""
        there = self._get(job.name)
        if there is not None:
            self._check_over(job.name, there)
            self._delete(there)
        self._kubectl("apply", "-f", "-", stdin=yaml.safe_dump(config_map(self.place, job)))
        self._create(job.name, ray_job(self.place, job))
        return job.name

    def status(self, name: str) -> JobStatus:
        """As KubeRay knows it."""
        there = self._get(name)
        if there is None:
            return JobStatus(JobState.UNKNOWN, detail=f"no job {name} in {self.place.namespace}")
        return _status(there)

    def logs(self, name: str, *, follow: bool = False) -> Iterator[str]:
        """What the driver prints, which Kubernetes keeps until the job is stopped or removed."""
        if self.status(name).state is JobState.UNKNOWN:
            raise JobError(f"no job {name} in namespace {self.place.namespace}")
        target = f"job/{resource_name(name)}"
        while True:
            try:
                self._kubectl("logs", "--tail=1", target)
                break
            except ToolError as error:
                if self.status(name).state is not JobState.RUNNING:
                    raise JobError(f"{name} has no output any more: {error.said}") from error
                if not follow:
                    return
            time.sleep(_POLL)
        command = self._command("logs", *(["--follow"] if follow else []), target)
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    yield line.rstrip("\n")
            finally:
                process.terminate()

    def stop(self, name: str, *, grace: float = 20.0) -> JobStatus:
        """Tell the driver to end; after ``grace`` seconds take its cluster away."""
        there = self._get(name)
        if there is None or _status(there).state is not JobState.RUNNING:
            return self.status(name)
        self._tell_driver(there)
        self._wait(name, grace)
        if self.status(name).state is JobState.RUNNING:
            self._suspend(name, True)
            self._wait(name, _END_SECONDS)
        return self.status(name)

    def resume(self, name: str) -> str:
        """Start a suspended RayJob, or create one that is over again as it is."""
        there = self._get(name)
        if there is None:
            raise JobError(f"no job {name} in namespace {self.place.namespace} to resume")
        self._check_over(name, there)
        if _phase(there) == _SUSPENDED:
            self._suspend(name, False)
            return name
        self._delete(there)
        kept = {key: there["metadata"].get(key) for key in ("name", "labels", "annotations")}
        self._create(
            name,
            {
                "apiVersion": there["apiVersion"],
                "kind": there["kind"],
                "metadata": {**kept, "namespace": self.place.namespace},
                "spec": {**there["spec"], "suspend": False},
            },
        )
        return name

    def render(self, job: Job) -> str:
        """The manifests as YAML."""
        objects = [config_map(self.place, job), ray_job(self.place, job)]
        return yaml.safe_dump_all(objects, sort_keys=False)

    def _create(self, name: str, manifest: Manifest) -> None:
        try:
            self._kubectl("create", "-f", "-", stdin=yaml.safe_dump(manifest))
        except ToolError as error:
            if "AlreadyExists" in error.said:
                raise JobError(f"{name} is already running (submitted a moment ago)") from error
            raise

    def _delete(self, there: dict[str, Any]) -> None:
        """Remove this very object: not one that another submission has put in its place."""
        uid, name = there["metadata"]["uid"], there["metadata"]["name"]
        path = f"/apis/ray.io/v1/namespaces/{self.place.namespace}/rayjobs/{name}"
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        try:
            self._kubectl("delete", "--raw", path, "-f", "-", stdin=json.dumps(options))
        except ToolError as error:
            if "NotFound" not in error.said and "Conflict" not in error.said:
                raise
        end = time.monotonic() + _END_SECONDS
        while (found := self._find(name)) and found["metadata"]["uid"] == uid:
            if time.monotonic() > end:
                raise JobError(f"rayjob {name} is being removed and has not gone yet; try again")
            time.sleep(_POLL)

    def _tell_driver(self, there: dict[str, Any]) -> None:
        """SIGTERM by Ray's job server, where the cluster is up."""
        status = there.get("status", {})
        number, cluster = status.get("jobId"), status.get("rayClusterName")
        if not number or not cluster:
            return
        selector = f"ray.io/cluster={cluster},ray.io/node-type=head"
        head = self._kubectl("get", "pods", "-l", selector, "-o", "name").strip()
        if head:
            try:
                # In the pod it finds the token; the address is the dashboard's own.
                told = ("ray", "job", "stop", "--no-wait", "--address", "http://127.0.0.1:8265")
                self._kubectl("exec", head, "-c", "ray", "--", *told, number)
            except ToolError:
                return  # It ended meanwhile, or its pod does: the cluster is taken away next.

    def _suspend(self, name: str, value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        self._kubectl("patch", "rayjob", resource_name(name), "--type", "merge", "-p", patch)

    def _check_over(self, name: str, there: dict[str, Any]) -> None:
        status = _status(there)
        if status.state is JobState.RUNNING:
            raise JobError(f"{name} is already running ({status.detail})")

    def _get(self, name: str) -> dict[str, Any] | None:
        """The RayJob; JobError if it stands for a job of another name."""
        found = self._find(resource_name(check_name(name)))
        whose = found["metadata"].get("annotations", {}).get("ractd/job") if found else name
        if whose != name:
            raise JobError(
                f"rayjob {resource_name(name)} in {self.place.namespace} is not ractd's job {name}"
            )
        return found

    def _find(self, resource: str) -> dict[str, Any] | None:
        shown = self._kubectl("get", "rayjob", resource, "--ignore-not-found", "-o", "json")
        return json.loads(shown) if shown.strip() else None

    def _wait(self, name: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.status(name).state is JobState.RUNNING and time.monotonic() < end:
            time.sleep(min(_POLL, seconds))

    def _command(self, *arguments: str) -> tuple[str, ...]:
        context = ("--context", self.place.context) if self.place.context else ()
        return ("kubectl", *context, "--namespace", self.place.namespace, *arguments)

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return run(*self._command(*arguments), stdin=stdin)


def _phase(there: dict[str, Any]) -> str:
    return str(there.get("status", {}).get("jobDeploymentStatus", ""))


def _status(there: dict[str, Any]) -> JobStatus:
    status, phase = there.get("status", {}), _phase(there)
    outcome = status.get("jobStatus", "")
    told = " ".join(str(status.get(key, "")) for key in ("reason", "message")).strip()
    detail = f"rayjob {there['metadata']['name']} {phase or 'new'} {outcome}".strip()
    if phase == _SUSPENDED or (phase in _OVER and outcome == "STOPPED"):
        return JobStatus(JobState.STOPPED, detail="stopped on request")
    if phase not in _OVER:
        return JobStatus(JobState.RUNNING, detail=detail)
    if outcome == "SUCCEEDED":
        return JobStatus(JobState.SUCCEEDED, 0, detail)
    detail = f"{detail}: {told}" if told else detail
    if phase == _INVALID:
        return JobStatus(JobState.FAILED, detail=detail)
    if outcome != "FAILED":
        return JobStatus(JobState.LOST, detail=detail)
    found = _EXIT_CODE.search(told)
    if found is None:
        return JobStatus(JobState.FAILED, detail=detail)
    # Ray says a signal as a negative code.
    code = int(found[1])
    return exited(code if code >= 0 else 128 - code)
