"""What differs between the stages, and nothing else: their data, networks and losses."""

from ractd_core.stages.base import StageModule
from ractd_core.stages.make import make_stage
from ractd_core.stages.model import KINDS, Model, load_model, window_dims
from ractd_core.stages.regression import RegressionStage
from ractd_core.stages.reward import RewardStage
from ractd_core.stages.student import StudentStage
from ractd_core.stages.teacher import TeacherStage

__all__ = [
    "KINDS",
    "Model",
    "RegressionStage",
    "RewardStage",
    "StageModule",
    "StudentStage",
    "TeacherStage",
    "load_model",
    "make_stage",
    "window_dims",
]
