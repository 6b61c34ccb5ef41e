"""The methods of a table: their order, what a reader is told of them, and their colours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """``label`` says in a few words what it is; ``colour`` is its own in every figure."""

    label: str
    colour: str


METHODS = {
    "regression": Method("plan regressed on its ends, no diffusion", "#7a4c1f"),
    "bc": Method("behaviour cloning, no diffusion", "#7a4c1f"),
    "teacher": Method("diffusion teacher", "#2f7fc1"),
    "teacher-guided": Method("teacher pulled by the reward's gradient as it samples", "#56b4e9"),
    "ctm": Method("student by consistency alone", "#3838fa"),
    "ctd": Method("student by consistency and denoising, no reward", "#cc79a7"),
    "reward-in-teacher": Method("reward in the teacher's training alone", "#009e73"),
    "reward-in-both": Method("reward in the teacher's and the student's training", "#acac53"),
    "joint": Method("teacher, reward model and student trained at once", "#e69f00"),
    "ractd": Method("student by consistency, denoising and reward", "#d55e00"),
}
"""By the word that a row begins with, in the order of the table."""


def method_of(row: str) -> str:
    """The method of a row, which may also say how it samples: teacher of teacher:ddim-20."""
    return row.partition(":")[0]
