"""What differs between the stages, and nothing else: their data, networks and losses."""

from ractd_core.stages.base import StageModule
from ractd_core.stages.joint import JointStage
from ractd_core.stages.make import STAGES, make_stage, parent_kinds
from ractd_core.stages.model import KINDS, Model, differences, load_model, window_dims
from ractd_core.stages.regression import RegressionStage
from ractd_core.stages.reward import RewardStage
from ractd_core.stages.reward_term import reward_gradient
from ractd_core.stages.student import StudentStage
from ractd_core.stages.teacher import TeacherStage

__all__ = [
    "KINDS",
    "STAGES",
    "JointStage",
    "Model",
    "RegressionStage",
    "RewardStage",
    "StageModule",
    "StudentStage",
    "TeacherStage",
    "differences",
    "load_model",
    "make_stage",
    "parent_kinds",
    "reward_gradient",
    "window_dims",
]
