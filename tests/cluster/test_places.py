"""Cluster files: the examples, and every mistake at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import AnyPlace, Job, JobError, Registry, parse_place

EXAMPLES = sorted((Path(__file__).parents[2] / "cluster" / "examples").glob("*.yaml"))
JOB = Job(
    "one",
    ("python", "-u", "-m", "sweeps.launch", "spec.yaml", "/mnt/ractd/storage"),
    files={"spec.yaml": "name: one\n"},
    metadata={"ractd": "0.1.0"},
)


def example(name: str) -> dict[str, Any]:
    path = next(path for path in EXAMPLES if path.stem == name)
    raw: dict[str, Any] = yaml.safe_load(path.read_text())
    return {"root": "/home/me/jobs", **raw} if raw["backend"] == "vm" else raw


def place(name: str, **changes: Any) -> AnyPlace:
    return parse_place({**example(name), **changes}, name)


def mistakes(raw: object) -> list[str]:
    with pytest.raises(JobError) as caught:
        parse_place(raw, "cluster.yaml")
    first, *lines = str(caught.value).split("\n  ")
    assert first.startswith("cluster.yaml: ")
    return lines


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads_renders_and_is_remembered(path: Path, tmp_path: Path) -> None:
    found = place(path.stem)
    assert found.storage is not None
    found.check_storage(found.storage)
    files = found.rendered(JOB)
    text = files["README.md"]
    assert all(f"| {what} | `" in text for what in ("start", "watch", "stop"))
    assert set(files) - {"README.md", "spec.yaml"} <= {"job.sh", "job.yaml", "cluster.yaml"}
    assert "one" in text
    registry = Registry(tmp_path)
    registry.put("one", found, found.storage)
    assert registry.get("one") == (found, found.storage)


def test_all_mistakes_are_told_at_once_with_path_found_and_expected() -> None:
    assert mistakes(
        {
            "backend": "kuberay",
            "image": "",
            "namespce": "x",
            "workers": [{"name": "GPU", "min": 3, "max": 2, "cpus": 0, "memory_gib": 4}],
            "environment": {"WANDB_API_KEY": "abc"},
            "volumes": [{"mount": "mnt"}],
        }
    ) == [
        "image: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$', found ''",
        "workers.0.cpus: Input should be greater than or equal to 1, found 0",
        "workers.0.name: String should match pattern '^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$', "
        "found 'GPU'",
        "volumes.0.mount: expected an absolute path without '..', as the nodes see it",
        "environment: WANDB_API_KEY looks like a secret, which must not lie in a file: name it "
        "under 'secrets' where the place has that, or set it where the nodes are started",
        "namespce: unknown key; did you mean namespace?",
    ]


def test_mistakes_of_one_member_of_a_union_name_no_other() -> None:
    raw = example("vm-aws-spot")
    raw["provider"] = {"type": "aws", "regoin": "us-east-1", "zones": []}
    assert mistakes(raw) == [
        "provider.region: missing",
        "provider.zones: Tuple should have at least 1 item after validation, not 0, found []",
        "provider.regoin: unknown key; did you mean region?",
    ]
    raw["provider"] = {"type": "azure"}
    assert mistakes(raw) == ["provider.type: expected one of 'local', 'aws', 'gcp', found 'azure'"]


@pytest.mark.parametrize("raw", [None, [], "slurm", 7, {}])
def test_a_file_that_is_no_place_says_what_is_expected(raw: object) -> None:
    (line,) = mistakes(raw)
    assert line.startswith("backend: expected one of 'local', 'ray', 'slurm', 'kuberay', 'vm'") or (
        line.startswith("file: ")
    )


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("kuberay", {"platform": "plain", "workers": [{"spot": True}]}, "no label for it"),
        ("vm-hosts", {"image": "x"}, "expected one of image and python"),
        ("vm-hosts", {"ssh": {"user": "me"}}, "provider local needs ssh.key"),
        ("vm-aws-spot", {"workers": []}, "provider aws needs head and workers"),
        ("slurm", {"nodes": {"cpus": 1, "gpu_type": "a100"}}, "gpu_type is given, but gpus is 0"),
    ],
)
def test_keys_that_do_not_go_together(name: str, changes: dict[str, Any], message: str) -> None:
    raw = example(name)
    workers = [
        {**group, **change}
        for group, change in zip(raw.get("workers", []), changes.pop("workers", []), strict=False)
    ]
    if raw["backend"] != "slurm" and (workers or name == "vm-aws-spot"):
        raw["workers"] = workers
    assert message in "\n".join(mistakes({**raw, **changes}))


@pytest.mark.parametrize("name", ["kuberay", "kuberay-gke-spot", "vm-gcp", "vm-aws-spot"])
def test_storage_on_no_volume_is_refused_before_anything_is_submitted(name: str) -> None:
    for storage in ("/root/.ractd/storage", "/mnt/ractd-other"):
        with pytest.raises(JobError, match=f"storage {storage} would be lost with the node"):
            place(name).check_storage(storage)
    place(name).check_storage("s3://bucket/x")


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["backend", "root", "image", "workers", "provider", "nodes", "head", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(
                    st.sampled_from(["type", "name", "cpus", "min"]), inner, max_size=2
                )
            ),
            max_leaves=5,
        ),
    ),
    st.sampled_from(["slurm", "kuberay", "vm", "local", "ray"]),
)
def test_no_file_whatever_is_in_it_is_a_traceback(raw: dict[str, Any], backend: str) -> None:
    with suppress(JobError):
        parse_place({**raw, "backend": backend}, "cluster.yaml")
