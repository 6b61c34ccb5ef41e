"""Reward networks: what they read, how many weights they have, and what an ensemble says."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ractd_core.draws import Draws
from ractd_core.losses import action_reward_loss, plan_reward_loss, within
from ractd_core.models.value import RewardModel, ValueConv
from ractd_core.stages.reward_term import make_reward_loss

CPU = torch.device("cpu")
ACTIONS = {"modelled": "actions", "observation_dims": 3}
STATES = {"modelled": "states", "observation_dims": 5}


def model(network: str, members: int = 1, dims: int = 5) -> RewardModel:
    torch.manual_seed(0)
    return RewardModel(dims, network, [8, 16], members)


def draws(rows: int) -> Draws:
    return Draws(0, 0, rows, CPU)


@settings(max_examples=15)
@given(
    st.integers(1, 6),
    st.lists(st.sampled_from([8, 16, 24]), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(2, 40),
)
def test_convolutions_score_every_step_and_have_the_weights_of_their_blocks(
    dims: int, widths: list[int], batch: int, length: int
) -> None:
    network = ValueConv(dims, widths)
    assert network(torch.randn(batch, length, dims)).shape == (batch, length)
    inputs = [dims, *widths[:-1]]
    # A kernel of 5 with its bias, a scale and a shift per channel; then one number of the last.
    expected = sum(5 * a * b + b + 2 * b for a, b in zip(inputs, widths, strict=True))
    assert sum(p.numel() for p in network.parameters()) == expected + widths[-1] + 1


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_only_convolutions_read_the_other_steps_of_a_window(network: str) -> None:
    reward = model(network)
    window = torch.rand(2, 12, 5)
    later = window.clone()
    later[:, 7] += 1
    before, after = reward(window)[0], reward(later)[0]
    other = torch.arange(12) != 7
    assert not torch.isclose(before[:, 7], after[:, 7]).any()
    if network == "mlp":
        assert torch.equal(before[:, other], after[:, other])
    else:
        # Through the statistics of the window, even beyond the reach of two kernels of 5.
        assert not torch.isclose(before, after, atol=1e-7).any()
    # Windows do not read each other.
    torch.testing.assert_close(reward(window[1:])[0], before[1:])


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_the_pull_reaches_the_executed_action_or_all_that_the_model_reads(network: str) -> None:
    loss = make_reward_loss(ACTIONS, model(network), reward_states=None)
    actions = (torch.rand(4, 12, 2) - 0.5).requires_grad_()
    cond = torch.randn(4, 6)
    [pull] = torch.autograd.grad(loss(actions, cond, draws(4)), actions)
    assert bool((pull[:, 0] != 0).all())
    assert bool((pull[:, 1:] != 0).all()) == (network == "conv")
    assert bool(pull[:, 1:].any()) == (network == "conv")


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("about", [STATES, ACTIONS], ids=["states", "actions"])
def test_the_reward_term_is_the_members_mean_of_what_is_scored(
    network: str, about: dict[str, object]
) -> None:
    reward = model(network, members=3)
    window, cond = torch.rand(4, 12, 5) - 0.5, torch.randn(4, 6)
    if about is ACTIONS:
        window = window[..., :2]
        seen = torch.cat([window, cond[:, None, 3:].expand(-1, 12, -1)], dim=2)
        expected = -reward(seen)[:, :, 0].mean()
    else:
        # Convolutions are never shown a plan with states left out.
        expected = -reward(window).mean(0).sum(1).mean()
    states = 4 if network == "conv" else None
    found = make_reward_loss(about, reward, states)(window, cond, draws(4))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pessimism", [0.0, 0.5, 2.0])
def test_a_pessimists_reward_is_the_mean_less_so_many_standard_deviations(
    pessimism: float,
) -> None:
    reward = model("mlp", members=4)
    x = torch.randn(3, 7, 5)
    each = torch.stack([member(x) for member in reward.members]).detach()
    torch.testing.assert_close(reward(x).detach(), each)
    assert len({float(member[0, 0]) for member in each}) == 4
    mean = each.sum(0) / 4
    deviation = ((each - mean).square().sum(0) / 3).sqrt()
    torch.testing.assert_close(reward.lower(x, pessimism).detach(), mean - pessimism * deviation)
    loss = make_reward_loss(STATES, reward, None, pessimism=pessimism, unit=0.25)
    inside = x.clamp(-1, 1)
    expected = -reward.lower(inside, pessimism).sum(1).mean() / 0.25
    torch.testing.assert_close(loss(x, x.new_zeros(3, 0), draws(3)), expected)


def test_members_that_agree_to_the_last_bit_still_have_a_gradient() -> None:
    reward = model("mlp", members=2)
    reward.members[1].load_state_dict(reward.members[0].state_dict())
    x = torch.randn(3, 7, 5, requires_grad=True)
    [careful] = torch.autograd.grad(reward.lower(x, 2.0).sum(), x)
    [plain] = torch.autograd.grad(reward.lower(x).sum(), x)
    torch.testing.assert_close(careful, plain)


# The trust region


@given(st.floats(0.01, 2), st.integers(0, 99))
def test_beyond_the_radius_nothing_pulls_and_within_it_all_does(radius: float, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(50, generator=source, dtype=torch.float64).requires_grad_()
    anchor = torch.randn(50, generator=source, dtype=torch.float64)
    found = within(x, anchor, radius)
    weights = torch.randn(50, generator=source, dtype=torch.float64)
    [pull] = torch.autograd.grad((weights * found).sum(), x)
    near = (x.detach() - anchor).abs() <= radius
    torch.testing.assert_close(found[near], x[near])
    assert torch.equal(pull[near], weights[near])
    assert not pull[~near].any()
    assert float((found - anchor).abs().max().detach()) <= radius + 1e-9
    assert torch.equal((found - anchor).sign()[~near], (x - anchor).sign()[~near])


def linear(x: Tensor) -> Tensor:
    return x.sum(-1)


@pytest.mark.parametrize(
    ("loss", "reached"),
    [
        (partial(plan_reward_loss, linear, states=None), 12),
        (partial(action_reward_loss, linear, observation_dims=3), 1),
        (partial(action_reward_loss, linear, observation_dims=3, whole=True), 1),
    ],
)
def test_rewards_are_summed_over_states_and_of_one_action(
    loss: partial[Tensor], reached: int
) -> None:
    window = torch.zeros(4, 12, 2, requires_grad=True)
    [pull] = torch.autograd.grad(loss(window, torch.zeros(4, 6), draws(4)), window)
    assert pull[:, :reached].tolist() == [[[-0.25, -0.25]] * reached] * 4
    assert not pull[:, reached:].any()
