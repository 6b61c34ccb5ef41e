"""Flat rows, one per environment step as D4RL stores them, and how they are cut into episodes.

::

    row           0   1   2  ...  T-1 | T ...               one row per step, episodes end to end
    observations  s0  s1  s2 ... sT-1 | s0
    actions       a0  a1  a2 ... aT-1 | a0
    rewards       r0  r1  r2 ... rT-1 | r0
    terminals     0   0   0  ...  0/1 | 0                   the task itself ended
    timeouts      0   0   0  ...  0/1 | 0                   only the clock (or a new target) did
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ractd_core.data.flat import ACTION_TOLERANCE, DataError, FlatDataset, Floats
from ractd_core.tasks import DatasetName

_log = logging.getLogger(__name__)

_SHUFFLED_SHARE = 0.01
_MAZE_CELLS = {"umaze": (5, 5), "medium": (8, 8), "large": (9, 12)}
"""Rows (length) and columns (width) of each maze, walls included, of one metre each."""
_CELL_CORNER = 0.7
"""D4RL's "position" of a cell lies 0.7 from its outer corner: 0.5, and walls set back by 0.2."""
_REMEDY = "download a published file again; in data of your own, correct the arrays named here"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """N steps in the order they were taken, episodes end to end; checked when it is made.

    Any numeric type is accepted and kept as float32 (flags as bool); (N, 1) rewards and flags are
    kept as (N,). ``timeouts`` is None where episodes end by ``terminals`` or the task's step limit
    only, ``next_observations`` is None where they were not stored. ``where`` names the origin in
    messages. ``frame`` matters for maze2d only: "d4rl" is the coordinate frame of D4RL's own files,
    "gymnasium" that of the evaluation environment (PointMaze).

    Raises :class:`DataError`, with all that is wrong, for no rows, arrays of another kind or shape
    or of unequal lengths, values that are not finite, and flags other than 0 and 1.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[Any]
    terminals: NDArray[Any]
    timeouts: NDArray[Any] | None
    next_observations: NDArray[Any] | None
    where: str
    frame: Literal["d4rl", "gymnasium"] = "d4rl"

    def __post_init__(self) -> None:
        problems: list[str] = []
        for key in ("observations", "actions", "next_observations"):
            self._keep(key, 2, problems)
        for key in ("rewards", "terminals", "timeouts"):
            self._keep(key, 1, problems)
        if not problems:
            problems = self._unequal() or self._bad_values()
        if problems:
            raise DataError(f"{self.where}: {'; '.join(problems)}; {_REMEDY}")

    def __len__(self) -> int:
        return len(self.observations)

    def _keep(self, key: str, dimensions: int, problems: list[str]) -> None:
        """Replace a field by its array in the agreed type and number of dimensions."""
        if getattr(self, key) is None:
            return
        values = np.asarray(getattr(self, key))
        if values.dtype.kind not in "biuf":
            problems.append(f"{key} holds values of type {values.dtype}, expected numbers")
            return
        if dimensions == 1 and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != dimensions:
            shape = "(rows, width)" if dimensions == 2 else "(rows,)"
            problems.append(f"{key} has shape {values.shape}, expected {shape}")
            return
        if key not in ("terminals", "timeouts"):
            # What overflows is reported below as not finite.
            with np.errstate(over="ignore"):
                values = values.astype(np.float32, copy=False)
        object.__setattr__(self, key, values)

    def _unequal(self) -> list[str]:
        rows = len(self)
        if rows == 0:
            return ["observations holds 0 rows, expected one or more"]
        problems = [
            f"{key} has {len(getattr(self, key))} rows, expected {rows} as in observations"
            for key in ("actions", "rewards", "terminals", "timeouts", "next_observations")
            if getattr(self, key) is not None and len(getattr(self, key)) != rows
        ]
        following, width = self.next_observations, self.observations.shape[1]
        if following is not None and following.shape[1] != width:
            problems.append(
                f"next_observations are {following.shape[1]} wide, expected {width} as in "
                "observations"
            )
        return problems

    def _bad_values(self) -> list[str]:
        problems = []
        for key in ("observations", "actions", "rewards", "next_observations"):
            values = getattr(self, key)
            if values is not None and not np.isfinite(values).all():
                cells = np.argwhere(~np.isfinite(values))
                problems.append(
                    f"{key} holds {len(cells)} values that are not finite in 32 bits, first in row "
                    f"{cells[0, 0]}, expected finite numbers"
                )
        for key in ("terminals", "timeouts"):
            flags = getattr(self, key)
            if flags is None:
                continue
            bad = np.flatnonzero((flags != 0) & (flags != 1))
            if len(bad):
                problems.append(
                    f"{key} holds {len(bad)} flags other than 0 and 1, first {flags[bad[0]]} in "
                    f"row {bad[0]}, expected 0 and 1 (or booleans)"
                )
            object.__setattr__(self, key, flags.astype(np.bool_, copy=False))
        return problems


def from_rows(name: DatasetName, rows: Rows, *, clip_actions: bool = False) -> FlatDataset:
    """Cut rows into the episodes of a dataset; the entry for arrays of one's own.

    The arrays are, for N steps in the order they were taken:

    - ``observations`` (N, ``task.obs_dim``): the state before each step, in the order and units in
      which the task's environment in :mod:`ractd_core.envs` gives it (for maze2d, with
      ``frame="gymnasium"``, x and y in metres, then their velocities);
    - ``actions`` (N, ``task.act_dim``): what was done there, in [-1, 1]; up to 1e-3 beyond is
      clipped, more is an error unless ``clip_actions``;
    - ``rewards`` (N,): the environment's own reward of each step, not scaled, not summed;
    - ``terminals`` (N,): 1 where the task itself ended the episode (fell over, succeeded), so
      nothing can be earned after it;
    - ``timeouts`` (N,): 1 on the last row of an episode that was only cut short; None if rows are
      cut at ``task.max_episode_steps``, counted anew after each end;
    - ``next_observations`` (N, ``task.obs_dim``): the state after each step; None loses one step
      of each episode.

    An episode ends with a row where either flag is set; where both are, it terminated. With
    ``next_observations`` its final state is that of its last row and all transitions are kept.
    Without, its last row supplies the final state only and a one-row episode is dropped; the
    dropped reward of a row that terminates moves to the step before, since D4RL pays a row for
    what is seen at it. Rows after the last end are dropped with a warning, as D4RL's
    ``sequence_dataset`` does. D4RL's maze2d coordinates become PointMaze's.

    Raises :class:`DataError` for widths other than the task's, actions out of bounds, rows that
    are not in time order, no complete episode, and positions outside of the task's maze.
    """
    task = name.task
    _check_widths(name, rows)
    ends = _ends(rows, task.max_episode_steps)
    _check_order(rows, ends)
    first, last = _complete(name, rows, ends)
    steps = last - first + (rows.next_observations is not None)
    bounds = np.concatenate([[0], np.cumsum(steps + 1)]).astype(np.int64)
    final = bounds[1:] - 1
    source = np.arange(bounds[-1]) - np.repeat(bounds[:-1] - first, steps + 1)
    source[final] = last
    observations = np.take(rows.observations, source, axis=0)
    actions = np.take(_bounded(rows, clip_actions), source, axis=0)
    rewards = np.take(rows.rewards, source)
    terminated = rows.terminals[last]
    if rows.next_observations is not None:
        observations[final] = rows.next_observations[last]
    else:
        rewards[final[terminated] - 1] = rows.rewards[last[terminated]]
    if task.domain == "maze2d":
        length, width = _MAZE_CELLS[task.name.split("-")[1]]
        if rows.frame == "d4rl":
            observations, actions = _to_pointmaze(observations, actions, length, width)
        _check_positions(name, rows, observations, length, width)
    actions[final], rewards[final] = 0, 0
    return FlatDataset(
        name=name,
        observations=observations,
        actions=actions,
        rewards=rewards,
        bounds=bounds,
        terminated=terminated,
    )


def _check_widths(name: DatasetName, rows: Rows) -> None:
    expected = {"observations": name.task.obs_dim, "actions": name.task.act_dim}
    wrong = [
        f"{key} are {getattr(rows, key).shape[1]} wide, expected {width}"
        for key, width in expected.items()
        if getattr(rows, key).shape[1] != width
    ]
    if wrong:
        raise DataError(
            f"{rows.where}: {' and '.join(wrong)} for {name.task.name}; these are another task's "
            f"data (D4RL's own file is {name.task.hdf5_file}), so name that task or use its file"
        )


def _bounded(rows: Rows, clip_actions: bool) -> Floats:
    """The actions in [-1, 1]."""
    beyond = np.abs(rows.actions) > 1 + ACTION_TOLERANCE
    if beyond.any() and not clip_actions:
        row = int(np.argmax(np.abs(rows.actions).max(axis=1)))
        raise DataError(
            f"{rows.where}: {np.count_nonzero(beyond)} action values lie outside of [-1, 1], the "
            f"largest is {np.abs(rows.actions[row]).max():.4g} in size in row {row}, expected "
            "actions in [-1, 1]; pass clip_actions=True (--clip-actions) if the environment clips "
            "them too, or scale them if they have another unit"
        )
    return np.clip(rows.actions, -1, 1)


def _ends(rows: Rows, limit: int) -> NDArray[np.bool_]:
    """Whether an episode ends with a row, shape (N,)."""
    if rows.timeouts is not None:
        return rows.terminals | rows.timeouts
    # The old layout: the first row after the latest termination, carried on to the rows after it.
    origin = np.zeros(len(rows), dtype=np.int64)
    starts = np.flatnonzero(rows.terminals[:-1]) + 1
    origin[starts] = starts
    step = np.arange(len(rows)) - np.maximum.accumulate(origin)
    return rows.terminals | ((step + 1) % limit == 0)


def _check_order(rows: Rows, ends: NDArray[np.bool_]) -> None:
    """Inside an episode the state after a step is the state before the next one."""
    if rows.next_observations is None:
        return
    jumps = (rows.next_observations[:-1] != rows.observations[1:]).any(axis=1) & ~ends[:-1]
    inside = np.count_nonzero(~ends[:-1])
    if np.count_nonzero(jumps) > _SHUFFLED_SHARE * inside:
        raise DataError(
            f"{rows.where}: in {np.count_nonzero(jumps)} of {inside} rows within episodes "
            f"next_observations is not the next row's observation (first in row "
            f"{np.flatnonzero(jumps)[0]}), expected at most {_SHUFFLED_SHARE:.0%}; the rows are "
            "not in time order (shuffled, or from several environments in turn) or ends of "
            "episodes are not marked: store whole episodes one after the other"
        )


def _complete(
    name: DatasetName, rows: Rows, ends: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last row of every complete episode with a transition."""
    last = np.flatnonzero(ends)
    tail = len(rows) - (last[-1] + 1 if len(last) else 0)
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    if rows.next_observations is None:
        first, last = first[last > first], last[last > first]
    if len(last) == 0:
        raise DataError(
            f"{rows.where}: {len(rows)} rows hold no complete episode of {name.task.name}, "
            "expected a terminal or time-out after one step or more; set terminals or timeouts on "
            "the last row of each episode"
        )
    if tail:
        _log.warning(
            "%s: the last %d of %d rows neither terminate nor time out; they are dropped",
            rows.where,
            tail,
            len(rows),
        )
    return first, last


def _to_pointmaze(
    observations: Floats, actions: Floats, length: int, width: int
) -> tuple[Floats, Floats]:
    """From D4RL's (row, column) axes, origin at a corner, to x right and y up from the centre."""
    x = observations[:, 1] + _CELL_CORNER - width / 2
    y = length / 2 - observations[:, 0] - _CELL_CORNER
    turned = np.stack([x, y, observations[:, 3], -observations[:, 2]], axis=1)
    return turned, np.stack([actions[:, 1], -actions[:, 0]], axis=1)


def _check_positions(
    name: DatasetName, rows: Rows, observations: Floats, length: int, width: int
) -> None:
    outside = np.flatnonzero((np.abs(observations[:, :2]) > [width / 2, length / 2]).any(axis=1))
    if len(outside):
        x, y = observations[outside[0], :2]
        raise DataError(
            f"{rows.where}: {len(outside)} positions lie outside of {name.task.name}'s maze, first "
            f"x={x:.2f}, y={y:.2f}, expected |x| <= {width / 2} and |y| <= {length / 2} in metres "
            f"from its centre (read in the {rows.frame} frame); the data are of a larger maze or "
            "in another frame: name the right task, or give arrays of your own in the evaluation "
            "environment's coordinates (as .npz, or with frame='gymnasium')"
        )
