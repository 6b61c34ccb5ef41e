"""A stand-in for ``kubectl``, KubeRay and a Ray cluster on one machine: it is no Kubernetes.

Objects are JSON files in a folder; a RayJob's entry point runs as a process. What it shows is that
the backend handles every state and refusal that Kubernetes and KubeRay have.
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

FILES = "/etc/ractd/job"
_SUPERVISE = (
    'exec 3>&2 2>/dev/null; out=$1; shift; (exec "$@" 2>&3); echo $? > "$out.part"; '
    'mv "$out.part" "$out"'
)


def install(folder: Path) -> Path:
    """Put ``kubectl`` into ``folder/bin`` and return that."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    path = binaries / "kubectl"
    # It reads YAML, so it needs the environment's packages.
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I {__file__} {folder}/objects "$@"\n')
    path.chmod(0o755)
    return binaries


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
    """What KubeRay does: a pod of the head's, with its files, and the entry point in it."""
    pod = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    container = pod["containers"][0]
    named = next(v["configMap"]["name"] for v in pod["volumes"] if v["name"] == "job")
    files = json.loads((path.parent.parent / "configmap" / named).read_text())["data"]
    folder = path / "files"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    entry = manifest["spec"]["entrypoint"].replace(f"cd {FILES} ", f"cd {folder} ", 1)
    (path / "exit").unlink(missing_ok=True)
    with (path / "log").open("wb") as out:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"trap : TERM; {_SUPERVISE}", "sh", path / "exit", "sh", "-c", entry],
            env={**os.environ, **{e["name"]: e["value"] for e in container["env"]}},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    (path / "pid").write_text(str(process.pid))


def observed(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "object").read_text())
    found["status"] = {"jobId": f"{path.name}-x", "rayClusterName": path.name}
    status = found["status"]
    if found["spec"]["suspend"]:
        status["jobDeploymentStatus"] = "Suspended"
    elif not (path / "pid").exists():
        status["jobDeploymentStatus"] = "Initializing"
    elif not (path / "exit").exists():
        status |= {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
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
    return found


def end(path: Path, number: int) -> None:
    if not (path / "pid").exists() or (path / "exit").exists():
        return
    (path / "told").touch()
    os.killpg(int((path / "pid").read_text()), number)


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
