"""What a frozen reward model says of windows: a term of a stage's loss, or a pull on samples."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ractd_core.diffusion.samplers import Gradient
from ractd_core.draws import Draws
from ractd_core.losses import RewardLoss, action_reward_loss, plan_reward_loss
from ractd_core.models.value import RewardModel


def make_reward_loss(
    about: dict[str, Any],
    model: nn.Module,
    reward_states: int | None,
    *,
    pessimism: float = 0.0,
    unit: float = 1.0,
) -> RewardLoss:
    """The reward term for windows of ``about``: of a plan's states, or of the action executed.

    R is the mean of the ``model``'s members less ``pessimism`` of their standard deviations, in
    multiples of ``unit``. ``reward_states`` states of each plan are drawn, null scores them all,
    and so does a model that reads whole windows.
    """
    assert isinstance(model, RewardModel)

    def value(x: Tensor) -> Tensor:
        return model.lower(x, pessimism) / unit

    if about["modelled"] == "states":
        return partial(plan_reward_loss, value, states=None if model.whole else reward_states)
    return partial(
        action_reward_loss, value, observation_dims=about["observation_dims"], whole=model.whole
    )


def reward_gradient(about: dict[str, Any], value: nn.Module) -> Gradient:
    """The gradient of each window's reward, R summed over a plan's states or of the first action.

    It can be called where gradients are off, even in inference mode.
    """
    reward_loss = make_reward_loss(about, value, reward_states=None)

    def gradient(window: Tensor, cond: Tensor) -> Tensor:
        # Only tensors made outside of inference mode take part in a gradient.
        with torch.inference_mode(False), torch.enable_grad():
            at = window.clone().requires_grad_()
            # Nothing is drawn: every state counts.
            nothing = Draws(0, 0, len(at), at.device)
            [slope] = torch.autograd.grad(reward_loss(at, cond.clone(), nothing), at)
        # The loss is the negative mean over windows.
        return -len(window) * slope

    return gradient
