"""The losses of teacher, reward model and student, as the paper writes them.

Each returns ``(loss, info)``: a scalar to minimize and flat metrics (detached scalars). ``x0`` are
normalized windows (batch, horizon, dims), ``cond`` what they are conditioned on: a plan's first and
last state or the observations before an action (batch, context · obs_dim).
Equation numbers are those of arXiv 2506.07822 unless another source is named.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ractd_core.config import Distance, StudentConfig, Times
from ractd_core.diffusion.denoiser import ConsistencyTrajectory, Denoiser, column
from ractd_core.diffusion.samplers import heun_step, initial_noise
from ractd_core.diffusion.schedule import grid, karras_weight, training_times
from ractd_core.draws import Draws

Info = dict[str, Tensor]

_HUBER = 0.00054
"""Pseudo-Huber's δ is 0.00054 √d for d dimensions (Song and Dhariwal 2023, section 3.3)."""


def distance(prediction: Tensor, target: Tensor, kind: Distance) -> Tensor:
    """Distance of plans (batch, horizon, dims), averaged to (batch,).

    ``squared_pseudo_huber`` applies pseudo-Huber to the squared error, as the released code does:
    quartic for small errors, quadratic for large ones.
    """
    error = prediction - target
    if kind == "mse":
        return error.square().flatten(1).mean(1)
    delta = _HUBER * error[0].numel() ** 0.5
    argument = error.square() if kind == "squared_pseudo_huber" else error
    return ((argument.square() + delta**2).sqrt() - delta).flatten(1).mean(1)


def diffuse(x0: Tensor, t: Tensor, draws: Draws) -> Tensor:
    """x_t = x_0 + t·ε."""
    return x0 + column(t, x0) * draws.normal(*x0.shape[1:])


def teacher_loss(
    denoiser: Denoiser,
    x0: Tensor,
    cond: Tensor,
    draws: Draws,
    times: Times,
    kind: Distance,
    reward_loss: RewardLoss | None = None,
    reward_weight: float = 0.0,
) -> tuple[Tensor, Info]:
    """EDM denoising: E_t λ(t) d(D(x_t, t), x_0) (equation 2; Karras et al. 2022, equation 8).

    With a ``reward_loss``, ``reward_weight`` times that term of D(x_t, t) is added (Table 5).
    """
    t = training_times(denoiser.noise, times, draws)
    clean = denoiser(diffuse(x0, t, draws), t, cond)
    loss = (karras_weight(denoiser.noise, t) * distance(clean, x0, kind)).mean()
    if reward_loss is None:
        return loss, {"loss": loss.detach()}
    reward = reward_loss(clean, cond, draws)
    loss = loss + reward_weight * reward
    return loss, {"loss": loss.detach(), "reward": reward.detach()}


def value_loss(value: nn.Module, inputs: Tensor, target: Tensor) -> tuple[Tensor, Info]:
    """Mean squared error of every member's R to the target of the first steps (equation 8).

    ``inputs`` (batch, length, dims), ``target`` (batch, scored), of at most ``length`` steps.
    """
    said: Tensor = value(inputs)[..., : target.shape[1]]
    loss = (said - target).square().mean()
    variance = target.var(correction=0).clamp_min(1e-12)
    return loss, {"loss": loss.detach(), "unexplained": loss.detach() / variance}


def reward_inputs(actions: Tensor, cond: Tensor) -> Tensor:
    """R(a, s)'s inputs (batch, length, A + O): each action beside the newest observation.

    ``cond`` ends with that observation; the action comes first, as released.
    """
    return torch.cat([actions, cond[:, None].expand(-1, actions.shape[1], -1)], dim=2)


def regression_loss(network: nn.Module, x0: Tensor, cond: Tensor) -> tuple[Tensor, Info]:
    """Mean squared error of the window predicted from its conditioning alone."""
    nothing = torch.zeros_like(x0)
    loss = (network(nothing, nothing[:, 0, 0], None, cond) - x0).square().mean()
    return loss, {"loss": loss.detach()}


def ctm_loss(
    student: ConsistencyTrajectory,
    target: ConsistencyTrajectory,
    teacher: Denoiser,
    x0: Tensor,
    cond: Tensor,
    draws: Draws,
    kind: Distance,
    solver_steps: int = 1,
) -> Tensor:
    """Consistency along the teacher's trajectory (equation 6; Kim et al. 2024, equation 9).

    The student's jump t→s must land where the teacher's Heun steps t→u followed by the target's
    jump u→s land; both are carried on to clean data by the frozen target, through whose input the
    gradient flows. u is 1 to ``solver_steps`` bins below t and not below s.
    """
    sigmas = grid(student.noise, x0.device)
    last = len(sigmas) - 1
    t_bin = draws.integers(last)
    s_bin = t_bin + 1 + (draws.uniform() * (last - t_bin)).long()
    u_bin = t_bin + 1 + (draws.uniform() * (s_bin - t_bin).clamp(max=solver_steps)).long()
    t, s, u = sigmas[t_bin], sigmas[s_bin], sigmas[u_bin]
    x_t = diffuse(x0, t, draws)

    with torch.no_grad():
        x_u = x_t
        for step in range(solver_steps):
            here = sigmas[torch.minimum(t_bin + step, u_bin)]
            there = sigmas[torch.minimum(t_bin + step + 1, u_bin)]
            x_u = heun_step(teacher, x_u, here, there, cond)
        expected = target.to_data(target(x_u, u, s, cond), s, cond)

    reached = target.to_data(student(x_t, t, s, cond), s, cond)
    return distance(reached, expected, kind).mean()


def dsm_loss(
    student: ConsistencyTrajectory,
    x0: Tensor,
    x_t: Tensor,
    t: Tensor,
    cond: Tensor,
    kind: Distance,
) -> tuple[Tensor, Tensor]:
    """Denoising of the data by the jump to clean data (equation 7).

    Returns the loss and the prediction G(x_t, t, 0) (batch, horizon, dims), on which the reward
    term is taken.
    """
    clean = student.to_data(x_t, t, cond)
    loss = (karras_weight(student.noise, t) * distance(clean, x0, kind)).mean()
    return loss, clean


Value = Callable[[Tensor], Tensor]
"""R of windows (batch, length, dims): what each step is worth, (batch, length)."""

RewardLoss = Callable[[Tensor, Tensor, Draws], Tensor]
"""A reward term of (window, cond, draws): :func:`plan_reward_loss` or its like for actions."""


def plan_reward_loss(
    value: Value, plan: Tensor, cond: Tensor, draws: Draws, *, states: int | None
) -> Tensor:
    """-E Σ_h R(plan_h): the predicted return-to-go of every state of the plan (equation 8).

    ``states`` positions are drawn per plan and scaled up to the sum.
    """
    horizon = plan.shape[1]
    if states is not None and states < horizon:
        chosen = draws.integers(horizon, states)
        plan = plan.gather(1, chosen[..., None].expand(-1, -1, plan.shape[2]))
    return -horizon * value(inside(plan)).mean()


def action_reward_loss(
    value: Value,
    actions: Tensor,
    cond: Tensor,
    draws: Draws,
    *,
    observation_dims: int,
    whole: bool = False,
) -> Tensor:
    """-E R(a_0, s_0): the predicted return-to-go of the action that is executed (equation 8).

    s_0 is the newest observation of ``cond``, its last ``observation_dims`` entries. ``whole``
    shows R the actions that follow too.
    """
    read = actions if whole else actions[:, :1]
    return -value(reward_inputs(inside(read), cond[:, -observation_dims:]))[:, 0].mean()


def inside(x: Tensor) -> Tensor:
    """Clamp to [-1, 1], the normalized data's range, while the gradient passes straight through.

    R has never seen anything beyond it.
    """
    # Exact: x - x.detach() is 0, while x + (clamped - x) rounds, for large x to any value at all.
    return x.clamp(-1, 1).detach() + (x - x.detach())


def within(x: Tensor, anchor: Tensor, radius: float) -> Tensor:
    """``x`` no further than ``radius`` from ``anchor``; where it was, no gradient passes."""
    return anchor + (x - anchor).clamp(-radius, radius)


def student_loss(
    student: ConsistencyTrajectory,
    target: ConsistencyTrajectory,
    teacher: Denoiser,
    reward_loss: RewardLoss,
    x0: Tensor,
    cond: Tensor,
    draws: Draws,
    config: StudentConfig,
    *,
    executed: int | None = None,
) -> tuple[Tensor, Info]:
    """L = α·CTM + β·DSM + σ·reward (equation 9).

    The reward is taken on DSM's G(x_t, t, 0), as released, or on G(x_T, T, 0), as the paper writes.
    A term of weight 0 is not computed, but for DSM where the reward needs it. Beside the terms the
    metrics have ``saturated``, the share of G's entries beyond the data's range less the data's
    own, over the first ``executed`` steps of the windows (default: all), and with a reward its
    ``gain``, the reward of G less that of the data.
    """
    ctm = dsm = reward = x0.new_zeros(())
    info: Info = {}
    if config.ctm_weight:
        ctm = ctm_loss(
            student, target, teacher, x0, cond, draws, config.distance, config.solver_steps
        )
    t = training_times(student.noise, config.times, draws)
    x_t = diffuse(x0, t, draws)
    on_dsm = config.reward_at == "dsm"
    if config.dsm_weight or (config.reward_weight and on_dsm):
        dsm, clean = dsm_loss(student, x0, x_t, t, cond, config.distance)
        info["saturated"] = beyond(clean[:, :executed]) - beyond(x0[:, :executed])
    if config.reward_weight:
        if not on_dsm:
            x_t = initial_noise(student.noise, draws.normal(*x0.shape[1:]))
            t = torch.full_like(t, student.noise.sigma_max)
            clean = student.to_data(x_t, t, cond)
        pulled = clean
        if config.trust_radius is not None:
            with torch.no_grad():
                anchor = teacher(x_t, t, cond)
            pulled = within(clean, anchor, config.trust_radius)
        reward = reward_loss(pulled, cond, draws)
        with torch.no_grad():
            own = reward if pulled is clean else reward_loss(clean, cond, draws)
            info["gain"] = reward_loss(x0, cond, draws) - own
            info["saturated"] = beyond(clean[:, :executed]) - beyond(x0[:, :executed])
    loss = config.ctm_weight * ctm + config.dsm_weight * dsm + config.reward_weight * reward
    parts = {"loss": loss, "ctm": ctm, "dsm": dsm, "reward": reward}
    return loss, {key: part.detach() for key, part in parts.items()} | info


def beyond(x: Tensor) -> Tensor:
    """The share of entries at or beyond ±1, the ends of the normalized data's range."""
    return (x.detach().abs() > 1 - 1e-3).float().mean()
