"""Images and gradients of every training-time quantizer against the same written in plain torch."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lmbench.distiller.quantization import (
    DorefaQuantizer,
    LinearQuantMode,
    PACTQuantizer,
    QuantAwareTrainRangeLinearQuantizer,
    WRPNQuantizer,
)
from lmbench.distiller.quantization.fake_quantization import (
    ClippedLinearQuantization,
    FakeLinearQuantization,
    LearnedClippedLinearQuantization,
)
from lmbench.distiller.quantization.training_time import dorefa_quantize_param

MODES = list(LinearQuantMode)


def drawn(*shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return (torch.randn(*shape, generator=generator) * scale).requires_grad_()


def through(x: Tensor, image: Tensor) -> Tensor:
    """`image` with the gradient of `x`."""
    return x + (image - x).detach()


def rows(mode: LinearQuantMode, weight: Tensor, bits: int, per_channel: bool) -> Tensor:
    """The image of a weight: ranges of its extremes, integers within the bits."""
    flat = weight.detach() if per_channel else weight.detach().reshape(1, -1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    half = 2 ** (bits - 1)
    if mode.symmetric:
        largest = torch.maximum(low.abs(), high.abs())
        restricted = mode is LinearQuantMode.SYMMETRIC_RESTRICTED
        scale = (half - 1 if restricted else (2**bits - 1) / 2) / largest
        q = (flat * scale).round().clamp(1 - half if restricted else -half, half - 1)
        return (q / scale).view_as(weight)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (2**bits - 1) / (high - low)
    zero = (scale * low).round()
    return (((flat * scale - zero).round().clamp(0, 2**bits - 1) + zero) / scale).view_as(weight)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("mode", MODES)
def test_every_weight_on_a_linear_grid_gets_its_whole_gradient(mode, bits, per_channel):
    layer = nn.Linear(64, 64)
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        layer, bits_weights=bits, mode=mode, per_channel_wts=per_channel
    )
    weight = drawn(64, 64)
    image = quantizer.quantize_weight(weight, bits)
    torch.testing.assert_close(image, rows(mode, weight, bits, per_channel), rtol=0, atol=1e-5)
    coefficients = torch.rand(64, 64)
    (gradient,) = torch.autograd.grad((image * coefficients).sum(), weight)
    assert torch.equal(gradient, coefficients)


@pytest.mark.parametrize("mode", MODES)
def test_the_range_of_a_weight_shrinks_in_training(mode):
    quantizer = QuantAwareTrainRangeLinearQuantizer(nn.Linear(2, 2), mode=mode)
    weight = drawn(16, 16, scale=4.0)
    loss = quantizer.quantize_weight(weight, 2).square().sum()
    for _ in range(300):
        (gradient,) = torch.autograd.grad(loss, weight)
        weight.data.sub_(0.1 * gradient)
        loss = quantizer.quantize_weight(weight, 2).square().sum()
    assert float(loss.detach()) < 1e-20


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("quantizer", [DorefaQuantizer, PACTQuantizer])
def test_dorefa_takes_the_tanh_into_its_gradient(quantizer, bits):
    weight = drawn(20, 30)
    image = quantizer(nn.Linear(2, 2)).quantize_weight(weight, bits)
    squashed = weight.tanh()
    unit = squashed / (2 * squashed.abs().max()) + 0.5
    steps = 2**bits - 1
    expected = 2 * through(unit, (unit * steps).round() / steps) - 1
    torch.testing.assert_close(image, expected)
    assert float(image.detach().abs().max()) == 1.0
    coefficients = torch.rand(20, 30)
    found, wanted = (
        torch.autograd.grad((y * coefficients).sum(), weight, retain_graph=True)[0]
        for y in (image, expected)
    )
    torch.testing.assert_close(found, wanted)


def test_dorefa_keeps_the_magnitude_of_a_weight_where_asked():
    weight = drawn(20, 30, scale=0.01)
    quantizer = DorefaQuantizer(nn.Linear(2, 2), keep_magnitude=True)
    image = quantizer.quantize_weight(weight, 4)
    torch.testing.assert_close(image.abs().max(), weight.abs().max())


def test_dorefa_in_one_bit_takes_signs():
    weight = drawn(6, 5)
    image = dorefa_quantize_param(weight, SimpleNamespace(num_bits=1))
    torch.testing.assert_close(image, weight.sign() * weight.abs().mean())
    (gradient,) = torch.autograd.grad(image.sum(), weight)
    assert torch.equal(gradient, torch.ones(6, 5))


@pytest.mark.parametrize("restrict", [False, True])
def test_wrpn_clips_to_one_and_rounds_on_the_grid_of_the_original_or_of_the_paper(restrict):
    weight = drawn(20, 30)
    image = WRPNQuantizer(nn.Linear(2, 2), restrict_range=restrict).quantize_weight(weight, 4)
    scale = 7.0 if restrict else 7.5
    q = (weight.detach().clamp(-1, 1) * scale).round().clamp(-7 if restrict else -8, 7)
    torch.testing.assert_close(image, q / scale)
    (gradient,) = torch.autograd.grad(image.sum(), weight)
    assert torch.equal(gradient, (weight.detach().abs() <= 1).float())


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("mode", MODES)
def test_activations_get_their_gradient_up_to_the_ends_of_the_tracked_range(mode, bits):
    quantize = FakeLinearQuantization(bits, mode, ema_decay=0.5)
    seen = drawn(40, 30)
    image = quantize(seen)
    torch.testing.assert_close(image, rows(mode, seen, bits, False), rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(image.sum(), seen)
    assert torch.equal(gradient, torch.ones(40, 30))
    quantize.eval()
    wide = drawn(40, 30, scale=3.0)
    (gradient,) = torch.autograd.grad(quantize(wide).sum(), wide)
    low, high = float(seen.min()), float(seen.max())
    if mode.symmetric:
        high = max(-low, high)
        low = -high
    inside = (wide.detach() >= low) & (wide.detach() <= high)
    assert torch.equal(gradient, inside.float())


@pytest.mark.parametrize("two_sided", [False, True])
def test_fixed_bounds_cut_the_gradient_outside(two_sided):
    x = drawn(40, 30)
    image = ClippedLinearQuantization(4, 0.7, two_sided=two_sided)(x)
    low, steps = (-0.7, 14) if two_sided else (0.0, 15)
    step = (0.7 - low) / steps
    torch.testing.assert_close(image, (x.detach().clamp(low, 0.7) / step).round() * step)
    (gradient,) = torch.autograd.grad(image.sum(), x)
    assert torch.equal(gradient, ((x.detach() >= low) & (x.detach() <= 0.7)).float())


@pytest.mark.parametrize("two_sided", [False, True])
def test_a_learned_bound_gets_the_gradient_of_what_it_clips(two_sided):
    quantize = LearnedClippedLinearQuantization(4, 0.7, two_sided=two_sided)
    x = drawn(40, 30)
    image = quantize(x)
    coefficients = torch.rand(40, 30, generator=torch.Generator().manual_seed(1))
    found: Any = torch.autograd.grad((image * coefficients).sum(), [x, quantize.clip_val])
    above = (x.detach() >= 0.7).float()
    below = (x.detach() <= -0.7).float() if two_sided else torch.zeros(40, 30)
    dead = below if two_sided else (x.detach() <= 0).float()
    torch.testing.assert_close(found[0], coefficients * (1 - above) * (1 - dead))
    torch.testing.assert_close(found[1], (coefficients * (above - below)).sum())


def test_integers_come_out_where_values_are_not_asked_for():
    x = torch.tensor([-1.0, 0.26, 2.0])
    assert ClippedLinearQuantization(2, 1.0, dequantize=False)(x).tolist() == [0.0, 1.0, 3.0]
    quantize = LearnedClippedLinearQuantization(2, 1.0, dequantize=False)
    assert quantize(x).tolist() == [0.0, 1.0, 3.0]


@pytest.mark.parametrize(
    "quantizer",
    [DorefaQuantizer, PACTQuantizer, QuantAwareTrainRangeLinearQuantizer, WRPNQuantizer],
)
def test_a_model_without_values_is_prepared_so_that_a_schedule_can_be_checked(quantizer):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    quantizer(model, None, 4, 4).prepare_model()
    assert model[0].weight.is_meta
