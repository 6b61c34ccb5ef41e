"""The reward term of a stage's loss: what a frozen reward model says of the stage's windows."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from ractd_core.losses import RewardLoss, action_reward_loss, plan_reward_loss


def make_reward_loss(
    about: dict[str, Any], value: nn.Module, reward_states: int | None
) -> RewardLoss:
    """The reward term for windows of ``about``: of a plan's states, or of the action executed.

    ``reward_states`` states of each plan are drawn, null scores them all.
    """
    if about["modelled"] == "states":
        return partial(plan_reward_loss, value, states=reward_states)
    return partial(action_reward_loss, value, observation_dims=about["observation_dims"])
