"""Gym-MuJoCo data by D4RL's recipe: levels, one shared SAC run, exact resume after any end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from ractd_core.data import collect_locomotion as module
from ractd_core.data.collect_locomotion import Collected, SacRun, collect_locomotion
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.sac import Learner, Replay, SacSettings, actor_policy, join, play
from ractd_core.envs import make_env
from ractd_core.tasks import DatasetName, parse_dataset_name

pytest.importorskip("stable_baselines3")

TINY = SacSettings(
    evaluate_every=200,
    evaluation_episodes=1,
    warm_up=100,
    medium_score=-100.0,
    widths=(16,),
    batch_size=16,
)
STEPS = 800
HOPPER = parse_dataset_name("local/hopper-medium-v2")


def quiet(line: str) -> None:
    del line


def collect(
    level: str,
    transitions: int = 300,
    *,
    steps: int = STEPS,
    settings: SacSettings = TINY,
    progress: Callable[[str], None] = quiet,
) -> Collected:
    name = parse_dataset_name(f"local/hopper-{level}-v2")
    return collect_locomotion(
        name, transitions, training_steps=steps, seed=3, progress=progress, settings=settings
    )


def assert_same(one: FlatDataset, other: FlatDataset) -> None:
    assert one.fingerprint == other.fingerprint


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("this trains again")

    monkeypatch.setattr(module, "Learner", refuse)


def files(folder: Path) -> dict[str, bytes]:
    """What a run left, without its lock."""
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def whole_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a run of ``STEPS`` that nothing interrupted."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RACTD_HOME", str(home))
        collect("expert")
    return home


@pytest.fixture
def run(whole_home: Path, monkeypatch: pytest.MonkeyPatch) -> SacRun:
    """That run; asking for its levels finds it trained."""
    monkeypatch.setenv("RACTD_HOME", str(whole_home))
    return SacRun(HOPPER, 3, TINY)


# Random actions


@pytest.mark.parametrize("environment", ["halfcheetah", "hopper", "walker2d"])
def test_random_data_are_whole_episodes_of_uniform_actions(environment: str) -> None:
    name = parse_dataset_name(f"local/{environment}-random-v2")
    data = collect_locomotion(name, 2500, training_steps=1, seed=0, progress=quiet).data
    assert data.name == name
    assert data.observations.shape[1:] == (name.task.obs_dim,)
    assert data.actions.shape[1:] == (name.task.act_dim,)
    assert data.observations.dtype == data.actions.dtype == data.rewards.dtype == np.float32
    last = data.bounds[1:] - 1
    assert not data.actions[last].any()
    assert not data.rewards[last].any()
    played = np.delete(data.actions, last, axis=0)
    assert np.abs(played).max() <= 1
    assert np.abs(played.mean()) < 0.05
    assert played.std() == pytest.approx(1 / np.sqrt(3), abs=0.02)
    if environment == "halfcheetah":
        assert np.diff(data.bounds).tolist() == [1001, 1001]
        assert not data.terminated.any()
    else:
        assert 2300 < data.transitions <= 2500
        assert data.terminated.all()


@pytest.mark.parametrize("environment", ["hopper", "walker2d"])
def test_the_step_of_a_fall_pays_the_alive_bonus(environment: str) -> None:
    name = parse_dataset_name(f"local/{environment}-random-v2")
    data = collect_locomotion(name, 2500, training_steps=1, seed=0, progress=quiet).data
    fall, before = data.rewards[data.bounds[1:] - 2], data.rewards[data.bounds[1:] - 3]
    # Without it a fall would pay 1 less than the step before.
    assert np.abs(np.mean(fall - before)) < 0.5


def test_random_data_are_fixed_by_the_seed() -> None:
    name = parse_dataset_name("local/hopper-random-v2")

    def of(seed: int) -> FlatDataset:
        return collect_locomotion(name, 200, training_steps=1, seed=seed, progress=quiet).data

    assert_same(of(0), of(0))
    assert of(0).fingerprint != of(1).fingerprint
    assert not np.array_equal(of(0).observations[0], of(1).observations[0])


def test_one_episode_is_kept_even_if_it_is_longer() -> None:
    data = collect("random", 1).data
    assert data.episodes == 1
    assert data.transitions > 1


def test_long_collections_report_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ractd_core.data.sac._REPORT_EVERY", 100)
    lines: list[str] = []
    collect("random", 250, progress=lines.append)
    assert len(lines) == 2
    assert lines[0].startswith("local/hopper-random-v2: 1")
    assert lines[0].endswith(" of 250 transitions")


def test_an_end_in_the_step_of_the_time_limit_is_a_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = make_env(HOPPER.task)
    step, ends = env.step, [(False, False), (True, True)]

    def with_end(action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = step(action)
        return observation, reward, *ends.pop(0), info

    monkeypatch.setattr(env, "step", with_end)
    episode = play(HOPPER, env, lambda observation: np.zeros(3, dtype=np.float32), 0)
    assert episode.transitions == 2
    assert not episode.terminated.any()


# The levels of a SAC run


def test_sac_learns_from_transitions_and_only_falls_are_done(
    flat: Callable[..., FlatDataset],
) -> None:
    data = flat([5, 3, 2], terminated=[True, False, True])
    replay = Replay(4, 2, capacity=40)
    replay.extend(data)
    replay.extend(data)
    assert replay.size == 20
    batch = replay.sample(400)
    rows = [int(np.flatnonzero((data.observations == o).all(axis=1))[0]) for o in batch[0].numpy()]
    assert set(rows) == set(range(12)) - {5, 9}
    assert np.array_equal(batch.actions, data.actions[rows])
    assert np.array_equal(batch.next_observations, data.observations[np.array(rows) + 1])
    assert np.array_equal(batch.rewards[:, 0], data.rewards[rows])
    assert np.array_equal(batch.dones[:, 0], np.isin(rows, [4, 11]))


def test_medium_replay_is_all_that_was_played_until_medium(run: SacRun) -> None:
    collected = collect("medium-replay")
    learner = Learner(HOPPER, 3, TINY, capacity=2000)
    with torch.random.fork_rng(devices=[]):
        parts = [learner.advance(), learner.advance()]
    assert_same(collected.data, parts[0])
    assert_same(run.replay(run.evaluated()[1].step), join(HOPPER, parts))
    assert collected.about["medium_step"] == collected.data.transitions == parts[0].transitions
    # The time limit lies beyond these falls.
    assert collected.data.terminated.all()
    assert str(collected.data.name) == "local/hopper-medium-replay-v2"


def test_medium_is_sampled_from_the_first_policy_that_scores_enough(run: SacRun) -> None:
    collected = collect("medium")
    first = run.evaluated()[0]
    assert (collected.about["medium_step"], collected.about["medium_score"]) == (
        first.step,
        first.score,
    )
    data = collected.data
    assert 200 < data.transitions <= 300
    assert data.episodes > 1
    assert np.abs(data.actions).max() <= 1
    mode = actor_policy(run.actor(first.step), deterministic=True)
    assert not np.allclose(mode(data.observations[0]), data.actions[0])
    starts = data.observations[data.bounds[:-1]]
    assert len(np.unique(starts, axis=0)) == data.episodes


def test_expert_is_sampled_from_the_best_policy(run: SacRun) -> None:
    best = max(run.evaluated(), key=lambda one: one.score)
    about = collect("expert").about
    assert (about["expert_step"], about["expert_score"]) == (best.step, best.score)
    assert "medium_step" not in about
    assert str(about["policy"]).startswith("SAC, Stable-Baselines3 2.")


def test_medium_expert_is_half_medium_then_half_expert(run: SacRun) -> None:
    collected = collect("medium-expert", 600)
    halves = [collect(level, 300).data for level in ("medium", "expert")]
    assert_same(collected.data, join(HOPPER, halves))
    assert {"medium_score", "expert_score", "medium_step", "expert_step"} < set(collected.about)
    assert halves[0].fingerprint != halves[1].fingerprint


def test_all_levels_share_one_run(run: SacRun, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(run.folder)
    no_training(monkeypatch)
    for level in ("medium", "medium-replay", "medium-expert", "expert"):
        collect(level)
    assert files(run.folder) == before


def test_medium_trains_no_longer_than_it_takes(whole_home: Path) -> None:
    collect("medium")
    short = SacRun(HOPPER, 3, TINY)
    assert len(short.evaluated()) == 1
    long = SacRun(HOPPER, 3, TINY)
    long.folder = whole_home / "generators" / "hopper-seed3"
    assert short.evaluated() == long.evaluated()[:1]


def test_what_longer_training_found_makes_no_difference(
    run: SacRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    after = collect("expert", steps=300)
    monkeypatch.setenv("RACTD_HOME", str(tmp_path / "fresh"))
    assert_same(collect("expert", steps=300).data, after.data)
    steps = [one.step for one in SacRun(HOPPER, 3, TINY).evaluated()]
    assert len(steps) == 2
    assert steps[0] < 300 <= steps[1]


def test_evaluations_come_at_the_first_episode_end_after_every_interval(run: SacRun) -> None:
    steps = np.array([one.step for one in run.evaluated()])
    assert np.array_equal(steps // 200, [1, 2, 3, 4])
    ends = np.cumsum(np.diff(run.replay(int(steps[-1])).bounds) - 1)
    assert set(steps) <= set(ends)
    assert all(ends[ends < step].max() < 200 * (step // 200) for step in steps)


def test_medium_out_of_reach_says_what_was_reached_and_keeps_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = SacSettings(**{**vars(TINY), "medium_score": 1000.0})
    with pytest.raises(DataError, match=r"of 200 steps scored .* \(step 2\d\d\), medium is 1000.0"):
        collect("medium", steps=200, settings=settings)
    run = SacRun(HOPPER, 3, settings)
    before = files(run.folder)
    lines: list[str] = []
    with pytest.raises(DataError, match="raise --training-steps, and training goes on"):
        collect("medium-replay", steps=400, settings=settings, progress=lines.append)
    assert lines[0] == f"SAC on Hopper: training from step {run.evaluated()[0].step} of 400"
    assert len(lines) == 2
    assert lines[1].startswith(f"SAC on Hopper: step {run.evaluated()[1].step} of 400, score ")
    assert "(medium at 1000.0)" in lines[1]
    assert before.items() - files(run.folder).items() == {
        ("state.safetensors", before["state.safetensors"])
    }
    no_training(monkeypatch)
    with pytest.raises(DataError, match="the best SAC policy of 400 steps"):
        collect("medium-expert", steps=400, settings=settings)


# Interruptions and several processes


def test_a_killed_run_goes_on_to_the_same_bytes(whole_home: Path) -> None:
    script = (
        "import torch; torch.set_num_threads(1)\n"
        "from test_core_sac import collect\n"
        "collect('expert', steps=100_000)"
    )
    mine = SacRun(HOPPER, 3, TINY)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as process:
        try:
            deadline = time.monotonic() + 120
            while not mine.evaluated():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.05)
        finally:
            process.kill()
    assert 1 <= len(mine.evaluated()) < 4
    collect("expert")
    whole = files(whole_home / "generators" / "hopper-seed3")
    assert files(mine.folder) == whole
    scores = [one.score for one in mine.evaluated()]
    best = sum(score > max(scores[:index], default=-np.inf) for index, score in enumerate(scores))
    assert sorted(name.split("-")[0] for name in whole) == sorted(
        ["replay"] * 4 + ["policy"] * best + ["state.safetensors"]
    )


def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_bytes(whole_home: Path) -> None:
    def interrupt(line: str) -> None:
        if "score" in line:
            raise KeyboardInterrupt

    for evaluations in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            collect("expert", progress=interrupt)
        assert len(SacRun(HOPPER, 3, TINY).evaluated()) == evaluations
    collect("expert")
    mine = SacRun(HOPPER, 3, TINY).folder
    assert files(mine) == files(whole_home / "generators" / "hopper-seed3")


def test_a_run_in_training_elsewhere_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    folder = SacRun(HOPPER, 3, TINY).folder
    folder.mkdir(parents=True)
    theirs = FileLock(folder / "lock")
    lines: list[str] = []

    def until_waiting(line: str) -> None:
        lines.append(line)
        if "waiting" in line:
            theirs.release()

    theirs.acquire()
    collect("medium-replay", progress=until_waiting)
    assert lines[0] == "SAC on Hopper: waiting for the process that trains it"
    assert lines[1] == "SAC on Hopper: training from step 0 of 800"


def test_training_that_another_process_ended_meanwhile_is_used(
    whole_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SacRun(HOPPER, 3, TINY).folder
    acquire = FileLock.acquire

    def late(lock: FileLock, timeout: float) -> object:
        shutil.copytree(whole_home / "generators" / folder.name, folder, dirs_exist_ok=True)
        return acquire(lock, timeout)

    monkeypatch.setattr(FileLock, "acquire", late)
    no_training(monkeypatch)
    # They trained for longer than is needed here.
    assert collect("expert", steps=300).data.name.task.name == "hopper-expert-v2"


def test_global_random_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    collect("medium", steps=200)
    drawn = float(torch.rand(())), float(np.random.rand())
    torch.manual_seed(5)
    np.random.seed(5)
    assert drawn == (float(torch.rand(())), float(np.random.rand()))


# What cannot be done


def test_other_domains_are_refused(umaze: DatasetName) -> None:
    with pytest.raises(DataError, match="is a maze2d dataset, not a Gym-MuJoCo one"):
        collect_locomotion(umaze, 100, training_steps=1, seed=0, progress=quiet)


@pytest.mark.parametrize(("transitions", "steps"), [(0, 1), (1, 0)])
def test_numbers_below_one_are_refused(transitions: int, steps: int) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        collect("random", transitions, steps=steps)


def test_missing_stable_baselines_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    collect("random", 10)
    with pytest.raises(DataError, match=r"generating local/hopper-expert-v2 needs the extra 'gen"):
        collect("expert")


def test_a_run_with_other_settings_is_refused(run: SacRun) -> None:
    with pytest.raises(DataError, match=r"was made with .* delete that folder to train anew"):
        collect("medium", settings=SacSettings())


@pytest.mark.parametrize(
    ("pattern", "level"),
    [("state.safetensors", "medium"), ("replay-*", "medium-replay"), ("policy-*", "medium")],
)
def test_a_damaged_run_is_named(pattern: str, level: str) -> None:
    collect("medium")
    folder = SacRun(HOPPER, 3, TINY).folder
    [path] = folder.glob(pattern)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{path.name} is truncated .* delete .* to train anew"):
        collect(level)


def test_a_home_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RACTD_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set RACTD_HOME to a folder that can be written"):
        collect("medium")
