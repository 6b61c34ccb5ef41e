"""D4RL's waypoint controller for mazes: shortest path on the grid, PD control between cells.

D4RL finds the path by tabular value iteration, which on a deterministic grid is the shortest one.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ractd_core.envs import Array, Maze2d

_GAINS = (10.0, -1.0)
_REACHED = 0.1
_WAYPOINT_NOISE = 0.2
_MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))

Cell = tuple[int, int]


def distances_to(goal: Cell, free: set[Cell]) -> dict[Cell, int]:
    """Steps from every reachable free cell to ``goal``, by breadth-first search."""
    distance = {goal: 0}
    queue = deque([goal])
    while queue:
        cell = queue.popleft()
        for row, column in _MOVES:
            neighbour = (cell[0] + row, cell[1] + column)
            if neighbour in free and neighbour not in distance:
                distance[neighbour] = distance[cell] + 1
                queue.append(neighbour)
    return distance


class WaypointController:
    """Drives the ball to a target through the cells of a shortest path.

    Each waypoint but the last is moved by U(0, 0.2) per axis, as in D4RL's ``waypoint_controller``.
    """

    def __init__(self, env: Maze2d, rng: np.random.Generator) -> None:
        self._env = env
        self._rng = rng
        self._distances = {cell: distances_to(cell, set(env.free_cells)) for cell in env.free_cells}
        self._waypoints: list[Array] = []
        self._previous = np.zeros(2)

    def set_target(self, position: Array, target: Array) -> None:
        """Plan from ``position`` (2,) to the cell of ``target`` (2,)."""
        cell, goal = self._env.cell_at(position), self._env.cell_at(target)
        distances = self._distances[goal]
        self._waypoints = []
        while True:
            if cell != goal:
                neighbours = [(cell[0] + row, cell[1] + column) for row, column in _MOVES]
                cell = min((n for n in neighbours if n in distances), key=distances.__getitem__)
            waypoint = self._env.cell_position(cell)
            if cell == goal:
                self._waypoints.append(waypoint)
                break
            # -U(0, 0.2) along D4RL's axes is (-y, +x) in PointMaze's turned frame.
            noise = self._rng.uniform(0, _WAYPOINT_NOISE, 2)
            self._waypoints.append(waypoint + np.array([-1.0, 1.0]) * noise)
        self._waypoints.reverse()
        self._previous = position

    def act(self, observation: Array) -> tuple[Array, bool]:
        """The force (2,) in [-1, 1] for ``observation`` (4,), and whether the target is reached."""
        position, velocity = observation[:2], observation[2:]
        slow = np.hypot(*(self._previous - position)) < _REACHED
        self._previous = position
        goal, waypoint = self._waypoints[0], self._waypoints[-1]
        arrived = bool(slow and np.hypot(*(position - goal)) < _REACHED)
        aim = goal if arrived else waypoint
        if slow and len(self._waypoints) > 1 and np.hypot(*(position - waypoint)) < _REACHED:
            self._waypoints.pop()
        return np.clip(_GAINS[0] * (aim - position) + _GAINS[1] * velocity, -1, 1), arrived
