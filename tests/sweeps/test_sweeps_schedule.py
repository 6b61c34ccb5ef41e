"""Schedules by hand, bounds that no schedule beats, and a plan's numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster import JobError
from ractd_core.config import Recipe
from ractd_core.tasks import Task
from sweeps.cli import app
from sweeps.gpu_rates import EFFICIENCY, LEAST_STEP, TFLOPS, GpuTimes, on_gpus
from sweeps.layout import SweepFolder
from sweeps.plan import Nodes, PlanError, Work, estimate, workload
from sweeps.schedule import Phase, bounds, simulate
from sweeps.spec import SweepSpec, load_spec
from sweeps.spec_parts import Resources, StageResources
from sweeps.stage_store import StageStore
from sweeps.step_times import Rate, StepTimes, step_gflop
from tests.sweeps.specs import parse

pytestmark = pytest.mark.usefixtures("project_home")

SECONDS = st.floats(0.01, 100)


@pytest.mark.parametrize(
    ("seconds", "slots", "overhead", "expected"),
    [
        ([], 3, 0.0, 0.0),
        ([4, 3, 2, 1], 1, 0.0, 10.0),
        # 4 and 3 begin; 2 follows the 3, and 1 the 4.
        ([4, 3, 2, 1], 2, 0.0, 5.0),
        # The last one is long: a straggler.
        ([1, 1, 1, 6], 3, 0.0, 7.0),
        # The driver starts one every second: at 1, 2 and 3.
        ([2, 2, 2], 3, 1.0, 5.0),
        # At 1 and 2; the third when the first has ended at 11, a second later.
        ([10, 10, 10], 2, 1.0, 22.0),
    ],
)
def test_a_schedule_by_hand(
    seconds: list[float], slots: int, overhead: float, expected: float
) -> None:
    assert simulate(Phase("search", seconds, slots, overhead)) == pytest.approx(expected)


@given(st.lists(SECONDS, max_size=30), st.integers(1, 9), st.floats(0, 5))
def test_no_schedule_beats_the_bounds(seconds: list[float], slots: int, overhead: float) -> None:
    phase = Phase("search", seconds, slots, overhead)
    taken, least = simulate(phase), bounds(phase).most
    assert taken >= least - 1e-6
    # Greedy schedules are at most twice as long as any; here the driver's time comes on top.
    assert taken <= 2 * least + len(seconds) * overhead + 1e-6


@given(st.lists(SECONDS, min_size=1, max_size=30), st.integers(1, 9))
def test_equal_jobs_gain_from_every_slot(seconds: list[float], slots: int) -> None:
    equal = [seconds[0]] * len(seconds)
    more, fewer = (simulate(Phase("search", equal, n)) for n in (slots + 1, slots))
    assert more <= fewer + 1e-9


@pytest.mark.parametrize(
    ("stage", "nodes", "slots", "workers"),
    [
        (StageResources(cpus=2), Nodes(3, cpus=5), 6, 6),
        (StageResources(gpus=1), Nodes(2, gpus=8), 16, 16),
        (StageResources(gpus=0.25), Nodes(1, gpus=1, cpus=2), 2, 2),
        (StageResources(workers=4, gpus=1), Nodes(3, gpus=2), 1, 6),
        # Elastic: one run also with fewer than it could use, several only with all.
        (StageResources(workers=(2, 8), gpus=1), Nodes(1, gpus=4), 1, 4),
        (StageResources(workers=(2, 8), gpus=1), Nodes(2, gpus=8), 2, 16),
        (StageResources(workers=(5, 8), gpus=1), Nodes(1, gpus=4), 0, 4),
    ],
)
def test_what_fits_on_nodes(stage: StageResources, nodes: Nodes, slots: int, workers: int) -> None:
    assert (nodes.slots(stage), nodes.workers(stage)) == (slots, workers)


class Known:
    """Costs that a test can count with."""

    def step(self, kind: str, recipe: Recipe, task: Task) -> Rate:
        return Rate({"teacher": 3.0, "reward": 2.0, "student": 5.0}[kind], "measured here")

    def episode(self, recipe: Recipe, task: Task) -> float:
        return 7.0


def test_the_work_of_a_spec_by_hand(tiny: Callable[..., Path], tmp_path: Path) -> None:
    spec = load_spec(str(tiny(rows=["regression", "teacher:ddim-20"])))
    work = workload(spec, SweepFolder(tmp_path, spec.name), Known(), pruned=0.5)
    assert (work.rewards, work.teachers) == ([30 * 2.0], [30 * 3.0] * 2)
    # 30 steps, three times three episodes on the way and four at the end; every other is pruned.
    trial = 30 * 5.0 + 13 * 7.0
    assert work.trials == pytest.approx([trial, 0.6 * trial, trial, 0.6 * trial])
    assert work.confirmations == [3 * 4 * 7.0]
    # The winner's episodes, regression with its training, and a teacher's at 20 calls.
    assert work.rows == [5 * 7.0 + (20 * 3.0 + 5 * 7.0) + 5 * 20 * 7.0]
    plan = estimate(spec, work, Nodes(1, cpus=2), "two")
    searched = simulate(Phase("search", work.trials, 2, 0.1))
    expected = 60 + 90 + searched + 84 + 830
    assert plan.hours == pytest.approx(expected / 3600)
    assert plan.at_least <= plan.hours
    assert plan.device_hours * 3600 == pytest.approx(60 + 180 + 3.2 * trial + 84 + 830)


def test_each_task_is_pruned_at_the_share_of_its_own_steps(tmp_path: Path) -> None:
    tasks = ("d4rl/hopper-medium-v2", "d4rl/maze2d-umaze-v1")
    spec = parse(*tasks, family="released", trials=2, pruner={"warmup_steps": 1000})
    work = workload(spec, SweepFolder(tmp_path, spec.name), Known(), pruned=0.5)
    steps = [spec.recipe_of(each).student.optim.steps for each in spec.datasets()]
    assert steps[0] != steps[1]
    shares = [work.trials[index + 1] / work.trials[index] for index in (0, 2)]
    assert shares == pytest.approx([1000 / each for each in steps])


@pytest.mark.parametrize(
    ("work", "nodes", "found"),
    [
        (Work([1], [9, 9], [5], [], [], 0.0), 8, "teachers: 2 distinct teachers on 8 slots"),
        (Work([1], [9], [5.0] * 800, [], [], 0.0), 8, "search: work, 800 jobs"),
        (Work([1], [9], [0.1] * 9000, [], [], 0.0), 1000, "search: the driver, 100 ms"),
        (Work([1], [9], [50.0] * 9, [], [], 0.0), 8, "search: stragglers, 9 jobs in 1.1 rounds"),
        (Work([1], [9], [50.0] * 9, [], [99.0], 0.0), 1000, "rows: 1 tasks on"),
        # Of equal jobs the last one also waits for the driver: 0.8 s of an hour.
        (Work([1], [9], [3600.0] * 8, [], [], 0.0), 8, "search: 8 trials on 8 slots"),
    ],
)
def test_the_bottleneck_is_named(
    tiny: Callable[..., Path], work: Work, nodes: int, found: str
) -> None:
    plan = estimate(load_spec(str(tiny())), work, Nodes(nodes, cpus=1), "some")
    assert plan.bottleneck.startswith(found)


@pytest.mark.parametrize(
    ("student", "nodes", "device_hours", "busy"),
    [
        ({"gpus": 0.25}, Nodes(1, gpus=8), 10.0, 10 / 16),  # 32 at once, so two hours
        ({"gpus": 2}, Nodes(1, gpus=8), 80.0, 1.0),
        ({"workers": 4, "gpus": 1}, Nodes(1, gpus=8), 40.0, 1.0),
        ({"cpus": 4}, Nodes(2, cpus=20), 160.0, 1.0),
    ],
)
def test_devices_are_counted_and_not_workers(
    tiny: Callable[..., Path],
    student: dict[str, float],
    nodes: Nodes,
    device_hours: float,
    busy: float,
) -> None:
    """Of 40 trials that take a worker an hour."""
    spec = load_spec(str(tiny(resources={"student": student})))
    if nodes.gpus:
        spec = spec.model_copy(update={"resources": on_gpus(spec.resources)})
    plan = estimate(spec, Work([], [], [3600.0] * 40, [], [], 0.0), nodes, "some")
    assert plan.device_hours == pytest.approx(device_hours)
    assert plan.busy == pytest.approx(busy, rel=1e-3)


def test_a_stage_that_fits_nowhere_is_refused(tiny: Callable[..., Path]) -> None:
    spec = load_spec(str(tiny(resources={"teacher": {"workers": 4}})))
    work = Work([1], [1], [1], [], [], 0.0)
    with pytest.raises(PlanError, match="teachers: 4 workers with 1 CPUs"):
        estimate(spec, work, Nodes(1, cpus=2), "small")


def test_a_gpu_that_is_not_here_is_assumed_and_a_finished_stage_is_not(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: SweepSpec = load_spec(str(tiny()))
    dataset = spec.datasets()[0]
    recipe, task = spec.recipe_of(dataset), dataset.task
    times = GpuTimes("A100", StageStore(tmp_path), Resources(), print)
    assert times.step("teacher", recipe, task) == Rate(LEAST_STEP, "assumed from the GPU's peak")
    monkeypatch.setattr("sweeps.gpu_rates.LEAST_STEP", 0.0)
    expected = step_gflop("teacher", recipe, task) / (1000 * TFLOPS["A100"][0] * EFFICIENCY)
    assert times.step("teacher", recipe, task).seconds == pytest.approx(expected)
    stored = Rate(0.5, "stages in the store")
    monkeypatch.setattr(
        StepTimes,
        "known",
        lambda self, kind, recipe, task, where: stored if where == "cuda" else None,
    )
    assert times.step("teacher", recipe, task) == stored
    with pytest.raises(JobError, match="--gpu Voodoo2: its peak is not known"):
        GpuTimes("Voodoo2", StageStore(tmp_path), Resources(), print)


def test_the_command_says_what_it_assumes(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepTimes, "episode", lambda *arguments: 0.1)
    arguments = ["cluster", "plan", str(tiny()), "--storage", str(tmp_path / "none")]
    gpus = ["--nodes", "2", "--gpu", "H100", "--gpus-per-node", "4"]
    shown = CliRunner().invoke(app, [*arguments, *gpus])
    assert shown.exit_code == 0, shown.output
    assert "8 H100 on 2 nodes" in shown.output
    assert "ASSUMPTION, not measured" in shown.output
    found: dict[str, Any] = json.loads(
        CliRunner().invoke(app, [*arguments, *gpus, "--json"]).stdout
    )
    # The same machines, as many as it takes.
    assert [(each["cluster"], each["devices"]) for each in found["estimates"]] == [
        ("8 H100 on 2 nodes", 8),
        ("12 H100 on 3 nodes", 12),
        ("100 H100 on 25 nodes", 100),
        ("1000 H100 on 250 nodes", 1000),
    ]
    assert all(each["at_least"] <= each["hours"] for each in found["estimates"])
    assert not (tmp_path / "none").exists(), "nothing is written"
    monkeypatch.setattr(StepTimes, "step", lambda *arguments: Rate(0.1, "measured here"))
    wide = str(tiny(resources={"teacher": {"cpus": 4}}))
    shown = CliRunner().invoke(app, ["cluster", "plan", wide, "--cpus-per-node", "16"])
    assert shown.exit_code == 0, shown.output
    assert "1008 CPU on 63 nodes" in shown.stdout
    assert "do not fit" not in shown.output
    refused = CliRunner().invoke(app, [*arguments, "--gpu", "Voodoo2"])
    assert refused.exit_code == 2
    assert "Voodoo2" in refused.output
