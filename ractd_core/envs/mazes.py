"""What the ball's and the ant's mazes share: how a simulator is made and when a goal is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ractd_core.envs.base import make_simulator

GOAL_RADIUS = 0.5
"""D4RL's distance in metres, inclusive; Gymnasium-Robotics uses 0.45."""


def make_maze(env_id: str, **options: Any) -> Any:
    """The maze simulator ``env_id``, which leaves no file behind."""
    maze = make_simulator(env_id, **options)
    # The simulator has read its model by now; left alone, the file would stay for ever.
    Path(maze.tmp_xml_file_path).unlink(missing_ok=True)
    return maze
