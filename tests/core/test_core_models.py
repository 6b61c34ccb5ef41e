"""Networks: shapes, sizes against the released ones, and what must be zero at the start."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ractd_core.config import UNetConfig
from ractd_core.models.conv import Conv1d, ConvTranspose1d, GroupNorm
from ractd_core.models.mish import Mish
from ractd_core.models.unet import FiLM, ResidualBlock, TemporalUNet, sinusoid
from ractd_core.models.value import ValueMLP


def millions(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@settings(max_examples=20)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_the_output_has_the_inputs_shape(
    dims: int, levels: int, patch: int, repeats: int, batch: int, stop_time: bool
) -> None:
    config = UNetConfig(widths=(4, 8, 12)[:levels], patch=patch, groups=2, embed_dim=4)
    network = TemporalUNet(dims, 3, config, stop_time=stop_time)
    horizon = repeats * config.horizon_multiple
    x = torch.randn(batch, horizon, dims)
    t = torch.linspace(-900, 900, batch)
    out = network(x, t, t if stop_time else None, torch.randn(batch, 3))
    assert out.shape == x.shape
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize(
    ("dims", "cond", "widths", "embed", "teacher", "student"),
    [
        (3, 11, (512, 1024, 2048), 128, 248, 252),
        (4, 8, (256, 512, 1024), 256, 65, 69),
        (4, 8, (512, 1024, 2048), 256, 252, 259),
        (4, 8, (256, 512, 1024, 2048), 256, 256, 264),
    ],
    ids=["gym", "umaze", "medium", "large"],
)
def test_networks_of_the_released_widths_have_their_known_sizes(
    dims: int, cond: int, widths: tuple[int, ...], embed: int, teacher: float, student: float
) -> None:
    config = UNetConfig(widths=widths, patch=1, groups=8, embed_dim=embed)
    with torch.device("meta"):
        plain = TemporalUNet(dims, cond, config)
        stopped = TemporalUNet(dims, cond, config, stop_time=True)
    # The released decoder joins the skip before it narrows, this one after: 4 % smaller.
    assert millions(plain) == pytest.approx(0.96 * teacher, rel=0.01)
    # What the stop time adds is the same.
    assert millions(stopped) - millions(plain) == pytest.approx(student - teacher, abs=0.5)


def test_every_row_is_computed_on_its_own() -> None:
    torch.manual_seed(0)
    network = TemporalUNet(4, 8, UNetConfig(widths=(8, 8), patch=4, groups=4, embed_dim=8))
    x, t, cond = torch.randn(6, 16, 4), torch.linspace(-5, 5, 6), torch.randn(6, 8)
    together = network(x, t, None, cond)
    for row in range(6):
        one = slice(row, row + 1)
        torch.testing.assert_close(network(x[one], t[one], None, cond[one]), together[one])


def test_every_input_matters() -> None:
    torch.manual_seed(0)
    config = UNetConfig(widths=(8, 8), patch=4, groups=4, embed_dim=8)
    network = TemporalUNet(4, 8, config, stop_time=True)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 32, 4, requires_grad=True)
    cond = torch.randn(1, 8, requires_grad=True)
    t, stop = torch.tensor([3.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    out = network(x, t, stop, cond)
    for wanted in (x, t, stop, cond):
        (gradient,) = torch.autograd.grad(out.square().sum(), wanted, retain_graph=True)
        assert bool((gradient != 0).all())
    # Every output state depends on the plan's far end, through the coarse level.
    (gradient,) = torch.autograd.grad(out[0, 0].sum(), x)
    assert bool((gradient[0, -1] != 0).any())


def test_the_stop_time_enters_through_weights_that_start_at_zero() -> None:
    torch.manual_seed(0)
    config = UNetConfig(widths=(8,), patch=4, groups=4, embed_dim=8)
    network = TemporalUNet(4, 8, config, stop_time=True)
    x, t, cond = torch.randn(3, 16, 4), torch.tensor([-900.0, 0.0, 900.0]), torch.randn(3, 8)
    stops = [module for module in network.modules() if isinstance(module, FiLM)]
    assert len(stops) == 4
    for film in stops:
        assert film.stop is not None
        assert not film.stop.weight.any()
    early = network(x, t, torch.full((3,), -978.0), cond)
    assert torch.equal(early, network(x, t, torch.full((3,), 1000.0), cond))
    network(x, t, t, cond).square().sum().backward()
    for film in stops:
        assert film.stop is not None
        assert film.stop.weight.grad is not None
        assert film.stop.weight.grad.any()
        nn.init.ones_(film.stop.weight)
    assert not torch.equal(
        network(x, t, torch.full((3,), -978.0), cond), network(x, t, torch.full((3,), 0.0), cond)
    )


def test_film_scales_and_shifts_channels() -> None:
    film = FiLM(2, 1, 3, stop_time=False)
    with torch.no_grad():
        film.linear.weight.zero_()
        film.linear.bias.copy_(torch.tensor([2.0, 3.0, 4.0, 0.5, 0.0, -0.5]))
    h = torch.ones(1, 3, 5)
    out = film(h, torch.zeros(1, 3), None)
    torch.testing.assert_close(out[0, :, 0], torch.tensor([2.5, 3.0, 3.5]))
    assert out.shape == h.shape


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    config = UNetConfig(widths=(8,), patch=4, groups=4, embed_dim=8)
    network = TemporalUNet(4, 8, config, dropout=0.3)
    args = (torch.randn(2, 16, 4), torch.zeros(2), None, torch.randn(2, 8))
    network.train()
    assert not torch.equal(network(*args), network(*args))
    network.eval()
    assert torch.equal(network(*args), network(*args))


def test_dropout_of_everything_leaves_the_skip_connection() -> None:
    torch.manual_seed(0)
    config = UNetConfig(widths=(8,), patch=4, groups=4, embed_dim=8)
    block = ResidualBlock(8, 12, 3, config, False, dropout=1.0)
    h, embedding = torch.randn(2, 8, 6), torch.randn(2, 11)
    assert torch.equal(block(h, embedding, None), block.skip(h))
    block.eval()
    assert not torch.equal(block(h, embedding, None), block.skip(h))


def test_a_block_drops_after_each_of_its_convolutions() -> None:
    torch.manual_seed(0)
    config = UNetConfig(widths=(8,), patch=4, groups=4, embed_dim=8)
    block = ResidualBlock(8, 12, 3, config, False, dropout=0.5).eval()
    h, embedding = torch.randn(2, 8, 6), torch.randn(2, 11)
    dropped: list[torch.Tensor] = []
    block.dropout.register_forward_hook(lambda module, args, out: dropped.append(args[0]))
    block(h, embedding, None)
    first = block.first(h)
    second = block.second(block.film(first, embedding, None))
    assert len(dropped) == 2
    assert torch.equal(dropped[0], first)
    assert torch.equal(dropped[1], second)


@given(st.floats(-1000, 1100), st.integers(2, 32))
def test_the_embedding_is_sines_and_cosines(value: float, half: int) -> None:
    found = sinusoid(torch.tensor([value]), 2 * half)
    assert found.shape == (1, 2 * half)
    for index in range(half):
        angle = value / 10_000 ** (index / (half - 1))
        assert float(found[0, index]) == pytest.approx(math.sin(angle), abs=1e-3)
        assert float(found[0, half + index]) == pytest.approx(math.cos(angle), abs=1e-3)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 7)])
def test_the_reward_model_maps_states_to_numbers(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    value = ValueMLP(4, [8, 6])
    x = torch.randn(*shape, 4)
    scores = value(x)
    assert scores.shape == shape
    flat = torch.stack([value(row) for row in x.reshape(-1, 4)])
    torch.testing.assert_close(scores.flatten(), flat)


def test_the_released_reward_model_has_its_known_size() -> None:
    # 344 thousand parameters in use, for actions and observations of a Gym task.
    assert 1000 * millions(ValueMLP(14, [64, 128, 256])) == pytest.approx(344, abs=3)


def same_as_torchs(
    ours: nn.Module, plain: nn.Module, x: Tensor, dtype: torch.dtype, tolerance: float
) -> None:
    """Output and all gradients agree with torch's in single precision.

    Each gets its ``x`` in an order in memory of its own.
    """
    plain.load_state_dict(ours.state_dict())
    innermost = x.transpose(1, 2).contiguous().transpose(1, 2)
    results = []
    for layer, source in ((ours, innermost.requires_grad_()), (plain, x.clone().requires_grad_())):
        half = layer is ours and dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = layer(source)
        assert out.dtype == (dtype if layer is ours else torch.float32)
        (out.float() ** 2).sum().backward()
        grads = [parameter.grad for parameter in layer.parameters()]
        results.append([out.detach().float(), source.grad, *grads])
    for mine, wanted in zip(*results, strict=True):
        scale = float(wanted.abs().max())
        torch.testing.assert_close(mine, wanted, rtol=0, atol=tolerance * scale)


precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)]
)


@precisions
@pytest.mark.parametrize("width", [6, 256])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2)])
def test_a_convolution_has_torchs_values_and_gradients(
    kernel: int, stride: int, length: int, width: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    ours = Conv1d(width, width, kernel, stride)
    plain = nn.Conv1d(width, width, kernel, stride, padding=kernel // 2)
    same_as_torchs(ours, plain, torch.randn(32, width, length), dtype, tolerance)
    own = type(ours(torch.randn(32, width, length)).grad_fn).__name__
    assert ("ShortConv" in own) == (width == 256)


@precisions
@pytest.mark.parametrize("width", [6, 256])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 8])
def test_a_transposed_convolution_has_torchs_values_and_gradients(
    length: int, width: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    ours = ConvTranspose1d(width, width)
    plain = nn.ConvTranspose1d(width, width, 4, stride=2, padding=1)
    same_as_torchs(ours, plain, torch.randn(32, width, length), dtype, tolerance)
    own = type(ours(torch.randn(32, width, length)).grad_fn).__name__
    assert ("ShortTranspose" in own) == (width == 256)


def test_layers_keep_the_channels_innermost_in_memory() -> None:
    x = torch.randn(32, 4, 8).transpose(1, 2)
    for layer in (Conv1d(8, 8, 5), ConvTranspose1d(8, 8), GroupNorm(2, 8), Mish()):
        assert layer(x).stride(1) == 1


def test_mish_in_bfloat16_is_mish_to_its_precision() -> None:
    x = torch.linspace(-40, 40, 4000).bfloat16().view(50, 20, 4)
    exact = x.double().requires_grad_()
    wanted = exact * exact.exp().log1p().tanh()
    (slope,) = torch.autograd.grad(wanted.sum(), exact)
    rounded = x.clone().requires_grad_()
    found = Mish()(rounded)
    assert found.dtype == torch.bfloat16
    (found_slope,) = torch.autograd.grad(found.float().sum(), rounded)
    # bfloat16 has 8 bits, so one rounding is 2^-8 at most.
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=1e-12)
    torch.testing.assert_close(found_slope.double(), slope, rtol=2**-8, atol=1e-12)


def test_mish_is_torchs_with_a_right_derivative() -> None:
    x = torch.linspace(-40, 40, 400).view(50, 2, 4)
    torch.testing.assert_close(Mish()(x), torch.nn.functional.mish(x), rtol=1e-6, atol=1e-12)
    assert torch.autograd.gradcheck(Mish(), x.double().requires_grad_())


def test_autocast_reaches_the_networks_fast_parts() -> None:
    config = UNetConfig(widths=(256,), patch=2, groups=8, embed_dim=8)
    block = ResidualBlock(256, 256, 3, config, False, dropout=0.0)
    seen: list[torch.dtype] = []
    for module in block.modules():
        if isinstance(module, Conv1d | Mish):
            module.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        block(torch.randn(32, 256, 4), torch.randn(32, 11), None)
    assert seen == [torch.bfloat16] * 4
