"""The compiled passes of a weight that trains in codes against torch's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lmbench.distiller.quantization.trained_codes import TrainedCodes, _step_gradients
from lmbench.training import native

PASSES = native.code_passes()
pytestmark = pytest.mark.skipif(PASSES is None, reason="no kernels or no compiler here")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    bits=st.integers(1, 4),
    group=st.sampled_from([None, 8, 24, 64]),
    zeros=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_image_and_gradients_are_torchs(rows, columns, bits, group, zeros, seed):
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns) * torch.rand(rows, 1).mul(20).sub(10).exp()
    weight *= torch.rand(rows, columns) >= zeros
    codes = TrainedCodes(nn.Module(), floats := nn.Parameter(weight), group, learned=True)
    codes.fit(bits)
    step, grad = codes.learned, torch.randn(rows, columns)
    assert step is not None
    with torch.no_grad():
        # Some weights are then beyond the largest level, in whole rows, too.
        step *= 0.5 + torch.rand_like(step)
    with pytest.MonkeyPatch.context() as patched:
        image = codes.image(bits).detach()
        with torch.no_grad():
            floats.add_(0)  # another version: the image is made anew
        patched.setattr(TrainedCodes, "passes", PASSES)
        ours = codes.image(bits)
        to_floats, to_step = torch.autograd.grad(ours, [floats, step], grad)
    assert torch.equal(ours, image)
    assert torch.equal(to_floats, grad)
    used = codes._held().steps.sum(0) * codes._held().unit / (2**bits - 1)
    floats, image, grad, used = (each.detach().double() for each in (floats, image, grad, used))
    sizes, most, width = floats.abs() + image.abs(), 2**bits - 1, group or columns
    exact = _step_gradients(floats, image, grad, used, most, width)
    added = _step_gradients(0 * floats, sizes, grad.abs(), used, most, width)
    assert ((to_step - exact).abs() <= 1e-6 * added).all()


def test_a_tensor_that_the_kernel_cannot_read_is_refused():
    assert PASSES is not None
    weight, used = torch.zeros(4, 8), torch.ones(4, 1)
    with pytest.raises(TypeError, match=r"grad must be contiguous torch\.float32"):
        PASSES.step_gradients(weight, weight, torch.zeros(8, 4).T, used, 3, 8)
