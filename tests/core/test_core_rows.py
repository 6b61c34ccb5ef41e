"""Rows into episodes: by hand, against a slow twin, on real files, and maze2d's two frames."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ractd_core.data.d4rl_files import read_rows
from ractd_core.data.flat import DataError, FlatDataset
from ractd_core.data.rows import Rows, from_rows
from ractd_core.envs import Maze2d
from ractd_core.tasks import DatasetName, get_task, parse_dataset_name

_DATA = Path(__file__).parents[2].parent / "shared" / "data"
_GOALS = {"umaze": (1, 1), "medium": (6, 6), "large": (7, 9)}

Array = NDArray[Any]


def _name(limit: int = 1000) -> DatasetName:
    """A task with one-number states and actions and its own step limit."""
    hopper = get_task("hopper-medium-v2")
    return DatasetName("own", replace(hopper, obs_dim=1, act_dim=1, max_episode_steps=limit))


def _rows(terminals: str, timeouts: str | None = None, *, follow: bool = False) -> Rows:
    """Row t has state t, action t / 1000, reward 10 t; flags as strings such as "0010".

    With ``follow`` the state after an end is the row's own plus 0.5.
    """
    count = len(terminals)
    states = np.arange(count, dtype=np.float64)[:, None]
    flags = [np.array([int(c) for c in text]) for text in (terminals, timeouts) if text is not None]
    following = None
    if follow:
        ended = np.maximum.reduce(flags)[:, None] == 1
        following = states + np.where(ended, 0.5, 1.0)
    return Rows(
        observations=states,
        actions=states / 1000,
        rewards=10 * states,
        terminals=flags[0],
        timeouts=flags[1] if len(flags) > 1 else None,
        next_observations=following,
        where="by hand",
    )


def _listed(data: FlatDataset) -> list[tuple[list[float], list[float], bool]]:
    """States, rewards (without the padding) and termination of every episode."""
    episodes = []
    for index in range(data.episodes):
        first, end = data.bounds[index : index + 2]
        assert data.actions[end - 1] == 0
        assert data.rewards[end - 1] == 0
        states = [float(s) for s in data.observations[first:end, 0]]
        rewards = [float(r) for r in data.rewards[first : end - 1]]
        episodes.append((states, rewards, bool(data.terminated[index])))
    return episodes


@pytest.mark.parametrize(
    ("rows", "limit", "expected"),
    [
        (_rows("001", "000", follow=True), 9, [([0, 1, 2, 2.5], [0, 10, 20], True)]),
        (_rows("00100", "00001"), 9, [([0, 1, 2], [0, 20], True), ([3, 4], [30], False)]),
        (
            _rows("0011", "0101", follow=True),
            9,
            [([0, 1, 1.5], [0, 10], False), ([2, 2.5], [20], True), ([3, 3.5], [30], True)],
        ),
        (_rows("101001"), 9, [([1, 2], [20], True), ([3, 4, 5], [30, 50], True)]),
        (
            _rows("00001000"),
            3,
            [([0, 1, 2], [0, 10], False), ([3, 4], [40], True), ([5, 6, 7], [50, 60], False)],
        ),
        (_rows("001001"), 3, [([0, 1, 2], [0, 20], True), ([3, 4, 5], [30, 50], True)]),
    ],
    ids=[
        "all transitions are kept",
        "last rows are final states",
        "terminal wins over time-out, one-row episodes stay",
        "one-row episodes go, terminal rewards move (kitchen)",
        "step limit, counted anew after each end",
        "terminal at the step limit",
    ],
)
def test_by_hand(rows: Rows, limit: int, expected: list[Any]) -> None:
    assert _listed(from_rows(_name(limit), rows)) == expected


def test_actions_types_and_that_nothing_given_is_changed() -> None:
    rows = _rows("00100001", "0" * 8)
    data = from_rows(_name(), rows)
    np.testing.assert_allclose(
        data.actions[:, 0], [0, 0.001, 0, 0.003, 0.004, 0.005, 0.006, 0], rtol=1e-6
    )
    for values in (data.observations, data.actions, data.rewards):
        assert values.dtype == np.float32
        assert values.flags.c_contiguous
    assert data.bounds.dtype == np.int64
    assert data.terminated.dtype == np.bool_
    np.testing.assert_array_equal(rows.rewards, 10 * np.arange(8))
    np.testing.assert_allclose(rows.actions[:, 0], np.arange(8) / 1000)


def test_an_unfinished_tail_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = from_rows(_name(), _rows("00100", "00000", follow=True))
    assert data.transitions == 3
    assert "by hand: the last 2 of 5 rows neither terminate nor time out" in caplog.text
    caplog.clear()
    from_rows(_name(), _rows("00101", "00000", follow=True))
    assert not caplog.records


@pytest.mark.parametrize("rows", [_rows("000", "000"), _rows("111", "000"), _rows("000")])
def test_no_complete_episode(rows: Rows) -> None:
    with pytest.raises(DataError, match=r"3 rows hold no complete episode of hopper-medium-v2"):
        from_rows(_name(), rows)


def test_actions_a_little_beyond_the_bounds_are_clipped_silently() -> None:
    rows = replace(_rows("001"), actions=np.array([[1.0009], [-1.0009], [0.5]]))
    np.testing.assert_array_equal(from_rows(_name(), rows).actions[:, 0], [1, -1, 0])
    far = replace(rows, actions=np.array([[1.2], [-7.5], [0.5]]))
    with pytest.raises(DataError, match=r"2 action values lie outside.*7\.5 in size in row 1"):
        from_rows(_name(), far)
    clipped = from_rows(_name(), far, clip_actions=True)
    np.testing.assert_array_equal(clipped.actions[:, 0], [1, -1, 0])


def test_one_row_out_of_order_in_a_hundred_is_let_pass() -> None:
    rows = _rows("0" * 200 + "1", "0" * 201)
    following = np.arange(1.0, 202)[:, None]
    following[[20, 40]] = -1
    assert from_rows(_name(), replace(rows, next_observations=following)).transitions == 201
    following[60] = -1
    with pytest.raises(DataError, match=r"in 3 of 200 rows.*first in row 20.*not in time order"):
        from_rows(_name(), replace(rows, next_observations=following))


def _slow(rows: Rows, limit: int) -> list[tuple[list[float], list[float], bool]]:
    """Row by row, as one would tell it."""
    episodes = []
    current: list[int] = []
    for t in range(len(rows)):
        current.append(t)
        terminal = bool(rows.terminals[t])
        cut = len(current) == limit if rows.timeouts is None else bool(rows.timeouts[t])
        if not terminal and not cut:
            continue
        states = [float(rows.observations[i, 0]) for i in current]
        rewards = [float(rows.rewards[i]) for i in current]
        if rows.next_observations is not None:
            states.append(float(rows.next_observations[t, 0]))
        else:
            dropped = rewards.pop()
            if terminal and rewards:
                rewards[-1] = dropped
        if rewards:
            episodes.append((states, rewards, terminal))
        current = []
    return episodes


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["00", "00", "00", "01", "10", "11"]), min_size=1, max_size=40),
    st.booleans(),
    st.booleans(),
    st.integers(1, 9),
)
def test_against_a_slow_twin(flags: list[str], clock: bool, follow: bool, limit: int) -> None:
    terminals, timeouts = ("".join(pair[i] for pair in flags) for i in (0, 1))
    rows = _rows(terminals, timeouts if clock else None, follow=follow and clock)
    if follow and not clock:
        # Cuts at the step limit go through the stream, so states simply follow each other.
        rows = replace(rows, next_observations=rows.observations + 1)
    expected = _slow(rows, limit)
    if expected:
        assert _listed(from_rows(_name(limit), rows)) == expected
    else:
        with pytest.raises(DataError, match="no complete episode"):
            from_rows(_name(limit), rows)


@pytest.fixture(scope="module", params=["umaze", "medium", "large"])
def maze(request: pytest.FixtureRequest) -> Maze2d:
    return Maze2d(get_task(f"maze2d-{request.param}-v1"))


def _drive(states: Array, forces: Array, frame: Any = "d4rl") -> Rows:
    """One episode that times out on its last row."""
    rows = _rows("0" * len(states), "0" * (len(states) - 1) + "1")
    return replace(rows, observations=states, actions=forces, frame=frame)


def test_maze_cells_lie_where_the_environment_has_them(maze: Maze2d) -> None:
    cells = np.array(maze.free_cells)
    rng = np.random.default_rng(0)
    forces = rng.uniform(-1, 1, (len(cells), 2))
    rows = _drive(np.concatenate([cells, forces], axis=1), forces)
    data = from_rows(DatasetName("own", maze.task), rows)
    expected = [maze.cell_position(cell) for cell in maze.free_cells]
    np.testing.assert_allclose(data.observations[:, :2], expected, atol=1e-6)
    turned = np.stack([forces[:, 1], -forces[:, 0]], axis=1)
    np.testing.assert_allclose(data.observations[:, 2:], turned, atol=1e-6)
    np.testing.assert_allclose(data.actions[:-1], turned[:-1], atol=1e-6)
    np.testing.assert_array_equal(data.actions[-1], [0, 0])


def test_maze_rewards_agree_in_either_frame(maze: Maze2d) -> None:
    rng = np.random.default_rng(1)
    cells = np.array(maze.free_cells)[rng.integers(len(maze.free_cells), size=2000)]
    states = np.concatenate([cells + rng.uniform(-0.5, 0.5, (2000, 2)), np.zeros((2000, 2))], 1)
    data = from_rows(DatasetName("own", maze.task), _drive(states, np.zeros((2000, 2))))
    goal = _GOALS[maze.task.name.split("-")[1]]
    distance = np.linalg.norm(states[:, :2] - goal, axis=1)
    clear = np.abs(distance - 0.5) > 1e-4
    rewards = maze.reward(data.observations.astype(np.float64))
    np.testing.assert_array_equal(rewards[clear], distance[clear] <= 0.5)
    assert 0 < rewards.sum() < 2000


@pytest.mark.parametrize("frame", ["d4rl", "gymnasium"])
def test_a_drive_through_the_maze_given_in_either_frame(
    umaze: DatasetName, umaze_data: FlatDataset, frame: str
) -> None:
    states, forces = umaze_data.observations[:500], umaze_data.actions[:500]
    rows = _drive(states, forces, frame)
    if frame == "d4rl":
        x, y, vx, vy = states.T.astype(np.float64)
        turned = np.stack([2.5 - y - 0.7, x - 0.7 + 2.5, -vy, vx], axis=1)
        rows = _drive(turned, np.stack([-forces[:, 1], forces[:, 0]], axis=1))
    data = from_rows(umaze, rows)
    np.testing.assert_allclose(data.observations, states, atol=1e-6)
    np.testing.assert_allclose(data.actions[:-1], forces[:-1], atol=1e-6)


@pytest.mark.parametrize(
    ("frame", "position"),
    [("d4rl", (-1.0, 1.0)), ("d4rl", (6.0, 6.0)), ("gymnasium", (3.0, 1.0))],
)
def test_positions_outside_of_the_maze(
    umaze: DatasetName, frame: str, position: tuple[float, float]
) -> None:
    states = np.array([[1.0, 1.0, 0, 0], [*position, 0, 0], [1.0, 1.0, 0, 0]])
    with pytest.raises(DataError) as caught:
        from_rows(umaze, _drive(states, np.zeros((3, 2)), frame))
    message = str(caught.value)
    assert "by hand: 1 positions lie outside of maze2d-umaze-v1's maze" in message
    assert "expected |x| <= 2.5 and |y| <= 2.5" in message
    assert f"(read in the {frame} frame); the data are of a larger maze" in message


def _read_real(file: str) -> Rows:
    if not (_DATA / file).is_file():
        pytest.skip(f"the data file {file} is not beside this repository (shared/data)")
    return read_rows(_DATA / file)


@pytest.mark.parametrize(
    ("level", "count", "episodes", "score"),
    [
        ("medium_replay", 90_000, 757, 8.6),
        ("medium", 200_397, 498, 33.5),
        ("medium_expert", 199_340, 366, 50.8),
    ],
)
def test_hopper_files(level: str, count: int, episodes: int, score: float) -> None:
    rows = _read_real(f"hopper_{level}-local.hdf5")
    data = from_rows(parse_dataset_name(f"own/hopper-{level.replace('_', '-')}-v2"), rows)
    assert (len(rows), data.transitions, data.episodes) == (count, count, episodes)
    assert data.terminated[-1] == (level != "medium_replay")
    returns = np.add.reduceat(data.rewards.astype(np.float64), data.bounds[:-1])
    assert data.name.task.normalized_score(returns).mean() == pytest.approx(score, abs=0.05)


def test_human_door_demonstrations_must_be_clipped() -> None:
    name, rows = parse_dataset_name("own/door-human-v1"), _read_real("door-human-raw.hdf5")
    with pytest.raises(DataError, match=r"10452 action values.*1\.366.*--clip-actions"):
        from_rows(name, rows)
    data = from_rows(name, rows, clip_actions=True)
    assert (len(rows), data.episodes, data.transitions) == (6729, 25, 6729 - 25)
    assert np.abs(data.actions).max() == 1
    assert rows.rewards.sum() / 25 == pytest.approx(794.1, abs=0.1)
    assert not data.terminated.any()
