"""The methods of a table: their order, what a reader is told of them, and their colours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """``label`` says in a few words what it is; ``colour`` is its own in every figure."""

    label: str
    colour: str


METHODS = {
    "regression": Method("plan regressed on its ends, no diffusion", "#9a7b4f"),
    "bc": Method("behaviour cloning, no diffusion", "#9a7b4f"),
    "teacher": Method("diffusion teacher", "#4f7fd6"),
    "teacher-guided": Method("teacher pulled by the reward's gradient as it samples", "#2fa39a"),
    "ctm": Method("student by consistency alone", "#8f6fd0"),
    "ctd": Method("student by consistency and denoising, no reward", "#c75f9e"),
    "reward-in-teacher": Method("reward in the teacher's training alone", "#5f9e4f"),
    "reward-in-both": Method("reward in the teacher's and the student's training", "#a8a03a"),
    "joint": Method("teacher, reward model and student trained at once", "#d65f5f"),
    "ractd": Method("student by consistency, denoising and reward", "#d9822b"),
}
"""By the word that a row begins with, in the order of the table."""


def method_of(row: str) -> str:
    """The method of a row, which may also say how it samples: teacher of teacher:ddim-20."""
    return row.partition(":")[0]
