"""A stand-in for ``kubectl``, KubeRay and a Ray cluster on one machine: it is no Kubernetes.

Objects are JSON files in a folder. A RayJob's submitter runs the line that KubeRay makes of the
entry point, over a stand-in for ``ray job``. What it shows is that the backend handles every state
and refusal that Kubernetes and KubeRay have.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

_ADDRESS = "http://head:8265"
# KubeRay pastes the entry point into a line for the submitter's bash as it is.
_SUBMIT = (
    "if ! ray job status --address {address} {id} >/dev/null 2>&1 ; then "
    "ray job submit --address {address} --no-wait --submission-id {id} -- {entry} ; fi ; "
    "ray job logs --address {address} --follow {id}"
)


def install(folder: Path) -> Path:
    """Put ``kubectl`` into ``folder/bin`` and return that; the submitter's ``ray`` lies apart."""
    objects = folder / "objects"
    # It reads YAML, so it needs the environment's packages.
    kubectl = _tool(folder / "bin" / "kubectl", f"-I {__file__} {objects}")
    ray = Path(__file__).with_name("ray_job_stand_in.py")
    _tool(folder / "submitter" / "ray", f"-IS {ray} {objects / 'rayjob'}")
    return kubectl.parent


def _tool(path: Path, called: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {called} "$@"\n')
    path.chmod(0o755)
    return path


class RefusalError(Exception):
    """What Kubernetes says no with."""


def main(state: Path, *arguments: str) -> None:
    words = list(arguments)
    for option in ("--context", "--namespace"):
        if option in words:
            at = words.index(option)
            del words[at : at + 2]
    verb, *words = words
    if verb in ("apply", "create"):
        import yaml

        for manifest in yaml.safe_load_all(sys.stdin.read()):
            put(state, manifest, again=verb == "apply")
    elif verb == "get" and words[0] == "rayjob":
        path = state / "rayjob" / words[1]
        if path.exists():
            print(json.dumps(observed(path)))
        elif "--ignore-not-found" not in words:
            raise RefusalError(f'(NotFound): rayjobs.ray.io "{words[1]}" not found')
    elif verb == "get" and words[0] == "pods":
        cluster = words[words.index("-l") + 1].split(",")[0].partition("=")[2]
        print(f"pod/{cluster}-head")
    elif verb == "delete":
        path = state / "rayjob" / Path(words[words.index("--raw") + 1]).name
        uid = json.loads(sys.stdin.read())["preconditions"]["uid"]
        if not path.exists():
            raise RefusalError("(NotFound): not found")
        if observed(path)["metadata"]["uid"] != uid:
            raise RefusalError("(Conflict): the UID in the precondition does not match")
        end(path, signal.SIGKILL)
        path.rename(path.with_name(f".{uid}"))
    elif verb == "patch":
        path = state / "rayjob" / words[1]
        suspend(path, json.loads(words[words.index("-p") + 1])["spec"]["suspend"])
    elif verb == "exec":
        end(state / "rayjob" / words[0].removeprefix("pod/").removesuffix("-head"), signal.SIGTERM)
    elif verb == "logs":
        log(state / "rayjob" / words[-1].partition("/")[2], "--follow" in words)


def put(state: Path, manifest: dict[str, Any], *, again: bool) -> None:
    kind, name = manifest["kind"].lower(), manifest["metadata"]["name"]
    folder = state / kind
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if kind == "configmap":
        path.write_text(json.dumps(manifest))
        return
    manifest["metadata"]["uid"] = str(uuid.uuid4())
    made = folder / f".new-{uuid.uuid4().hex}"
    made.mkdir()
    (made / "object").write_text(json.dumps(manifest))
    try:
        # Of two at once one is first: a folder is not renamed onto another that holds something.
        made.rename(path)
    except OSError as error:
        raise RefusalError(f'(AlreadyExists): rayjobs.ray.io "{name}" already exists') from error
    start(path, manifest)


def start(path: Path, manifest: dict[str, Any]) -> None:
    """What KubeRay does: a head with its files and variables, and a submitter that has neither."""
    pod = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    container = pod["containers"][0]
    named = next(v["configMap"]["name"] for v in pod["volumes"] if v["name"] == "job")
    files = json.loads((path.parent.parent / "configmap" / named).read_text())["data"]
    folder = path / "files"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    variables = {each["name"]: each["value"] for each in container["env"]}
    (path / "environment").write_text(json.dumps(variables))
    for name in ("exit", "pid", "submitted"):
        (path / name).unlink(missing_ok=True)
    entry = manifest["spec"]["entrypoint"]
    line = _SUBMIT.format(address=_ADDRESS, id=f"{path.name}-x", entry=entry)
    with (path / "log").open("wb") as out:
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'bash -ec "$1"; : > "$2"', "sh", line, path / "submitted"],
            env={**os.environ, "PATH": f"{path.parents[2] / 'submitter'}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    (path / "submitter").write_text(str(process.pid))


def observed(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "object").read_text())
    found["status"] = {"jobId": f"{path.name}-x", "rayClusterName": path.name}
    status = found["status"]
    if (invalid := path.parents[1] / "invalid").exists():
        told = {"reason": "ValidationFailed", "message": invalid.read_text()}
        status |= {"jobDeploymentStatus": "ValidationFailed", "jobStatus": "", **told}
    elif found["spec"]["suspend"]:
        status["jobDeploymentStatus"] = "Suspended"
    elif not (path / "submitter").exists():
        status["jobDeploymentStatus"] = "Initializing"
    elif not (path / "submitted").exists():
        status |= {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    elif not (path / "exit").exists():
        status |= {"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed"}
    elif (path / "told").exists():
        status |= {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}
    elif (code := int((path / "exit").read_text())) == 0:
        status |= {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
    else:
        # Ray runs the entry point itself and says a signal as a negative code.
        code = 128 - code if code - 128 in signal.valid_signals() else code
        message = f"Job entrypoint command failed with exit code {code}, last available logs"
        status |= {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": message}
        status["reason"] = "AppFailed"
    if status["jobDeploymentStatus"] == "Failed" and retried(path, found):
        status["jobDeploymentStatus"] = "Retrying"
    return found


def retried(path: Path, manifest: dict[str, Any]) -> bool:
    """KubeRay builds another cluster for whatever has failed, as often as the RayJob allows."""
    failures = path / "failures"
    failed = 1 + (int(failures.read_text()) if failures.exists() else 0)
    if failed > manifest["spec"].get("backoffLimit", 0):
        return False
    failures.write_text(str(failed))
    start(path, manifest)
    return True


def end(path: Path, number: int) -> None:
    if not (path / "pid").exists() or (path / "exit").exists():
        return
    (path / "told").touch()
    os.killpg(int((path / "pid").read_text()), number)
    if number == signal.SIGKILL:
        # The whole cluster goes, and the submitter with it.
        os.killpg(int((path / "submitter").read_text()), number)


def suspend(path: Path, value: bool) -> None:
    found = json.loads((path / "object").read_text())
    if value:
        end(path, signal.SIGKILL)
    else:
        (path / "told").unlink(missing_ok=True)
        start(path, found)
    found["spec"]["suspend"] = value
    (path / "object").write_text(json.dumps(found))


def log(path: Path, follow: bool) -> None:
    if not (path / "log").exists():
        raise RefusalError("(NotFound): jobs.batch not found")
    with (path / "log").open(encoding="utf-8", errors="replace") as file:
        while True:
            over = observed(path)["status"]["jobDeploymentStatus"] != "Running"
            print(file.read(), end="", flush=True)
            if over or not follow:
                return
            time.sleep(0.05)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except RefusalError as refusal:
        sys.exit(f"Error from server {refusal}")
