"""What a job finds out about its cluster, from what the nodes say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.settings import CAPACITY
from sweeps import preflight
from sweeps.nodes import View, look
from sweeps.preflight import PreflightError
from sweeps.shared_storage import unshared
from sweeps.spec_parts import Resources
from sweeps.versions import differences, versions

HERE = versions()


def test_only_differences_that_matter_are_told() -> None:
    assert differences(HERE, HERE) == []
    torch = HERE["torch"].partition("+")[0]
    python = HERE["python"].rpartition(".")[0]
    assert differences(HERE, {**HERE, "torch": f"{torch}+cu128", "python": f"{python}.99"}) == []
    other = {**HERE, "python": "3.9.1", "torch": "2.0.0+cpu", "ractd": "not installed"}
    assert differences(HERE, other) == [
        f"python 3.9.1 instead of {HERE['python']}",
        f"ractd not installed instead of {HERE['ractd']}",
        f"torch 2.0.0+cpu instead of {HERE['torch']}",
    ]
    del other["ray"]
    assert f"ray not known instead of {HERE['ray']}" in differences(HERE, other)


def test_a_job_on_a_node_with_other_versions_does_not_even_join() -> None:
    with pytest.raises(PreflightError) as caught:
        preflight.preflight(Resources(), Path("/nowhere"), {**HERE, "ray": "2.0.0"})
    text = str(caught.value)
    assert f"the job's own node has ray {HERE['ray']} instead of 2.0.0" in text
    assert "pip install -c constraints.txt ." in text


def test_a_node_says_what_it_has_and_sees(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    assert look(str(marker)) == View(HERE, sees=False, writes=True)
    marker.touch()
    assert look(str(marker)) == View(HERE, sees=True, writes=True)
    assert list(tmp_path.iterdir()) == [marker]
    assert look(str(tmp_path / "gone" / "marker")) == View(HERE, sees=False, writes=False)


def test_every_node_that_is_wrong_about_the_storage_is_named() -> None:
    good, blind, barred = View(HERE, True, True), View(HERE, False, True), View(HERE, True, False)
    assert unshared(Path("/s"), [("a", good), ("a", good)]) == []
    problems = unshared(
        Path("/s"), [("a", good), ("d", blind), ("c", blind), ("b", barred), ("e", None)]
    )
    assert len(problems) == 3
    assert problems[0].startswith("no answer from e")
    assert "/s is not the same on every node of the cluster: c, d do not see" in problems[1]
    assert "/s cannot be written on b" in problems[2]


def test_a_worker_that_fits_on_no_single_node_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"CPU": 2.0, "GPU": 1.0}
    monkeypatch.setattr(preflight, "reachable", lambda: {"CPU": 8.0, "GPU": 4.0})
    monkeypatch.delenv(CAPACITY, raising=False)
    wide = Resources.model_validate({"student": {"cpus": 4, "gpus": 1}, "teacher": {"workers": 4}})
    [problem] = preflight._unplaceable(wide, [small] * 4)
    assert problem.startswith("resources.student: no node has 4 CPUs and 1 GPUs")
    assert preflight._unplaceable(wide, [small] * 3 + [{"CPU": 4.0, "GPU": 1.0}]) == []
    # Who can say what nodes an autoscaler brings?
    monkeypatch.setenv(CAPACITY, json.dumps({"CPU": 8}))
    assert preflight._unplaceable(wide, [small] * 4) == []


def test_what_nobody_can_ever_have_is_told_and_what_is_busy_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = {"CPU": 8.0, "GPU": 2.0}
    monkeypatch.setattr(preflight, "reachable", lambda: now)
    needs = Resources.model_validate({"teacher": {"workers": 2, "gpus": 2}})
    [problem] = preflight._unplaceable(needs, [now])
    assert problem.startswith("resources.teacher: 2 workers with 1 CPUs and 2 GPUs each do not fit")
    needs = Resources.model_validate({"teacher": {"workers": 2, "gpus": 1}})
    assert preflight._unplaceable(needs, [now]) == []
    assert preflight._waits(needs, now, now) == []
    [line] = preflight._waits(needs, {"CPU": 8.0, "GPU": 1.0}, now)
    assert "is full (8 CPUs and 1 GPUs free of 8 CPUs and 2 GPUs)" in line
    assert "waits until a teacher fits, 2 workers with 1 CPUs and 1 GPUs each" in line
    [line] = preflight._waits(needs, {"CPU": 1.0}, {"CPU": 1.0})
    assert "is too small yet" in line
