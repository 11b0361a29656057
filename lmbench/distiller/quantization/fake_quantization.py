"""Modules that quantize activations while a model trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lmbench.distiller.quantization.clipping import range_params
from lmbench.distiller.quantization.scale_and_zero_point import (
    LinearQuantMode,
    asymmetric_linear_quantization_params,
    linear_dequantize,
    linear_quantize_clamp,
    symmetric_linear_quantization_params,
)

__all__ = [
    "ClippedLinearQuantization",
    "FakeLinearQuantization",
    "LearnedClippedLinearQuantization",
    "QuantizedActivation",
    "gradient_passed_to",
    "straight_through",
]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, image: Tensor) -> Tensor:
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, None]:
        return grad_outputs[0], None


def straight_through(
    x: Tensor,
    scale: float | Tensor,
    zero_point: float | Tensor,
    q_range: tuple[int, int],
    dequantize: bool = True,
) -> Tensor:
    """The values of `x` on a grid, whose gradient passes to `x` unchanged, also where it saturates
    (Bengio et al. 2013, arXiv 1308.3432).

    Args:
        dequantize: else the integers.
    """
    with torch.no_grad():
        image = linear_quantize_clamp(x, scale, zero_point, *q_range)
        if dequantize:
            image = linear_dequantize(image, scale, zero_point)
    return gradient_passed_to(x, image)


def gradient_passed_to(x: Tensor, image: Tensor) -> Tensor:
    """The values of `image`, whose gradient passes to `x` unchanged."""
    return _StraightThrough.apply(x, image)  # type: ignore[return-value]


class QuantizedActivation(nn.Module):
    """A module followed by the quantization of its output, unless that still `waits`."""

    def __init__(self, wrapped_module: nn.Module, quantize: nn.Module) -> None:
        super().__init__()
        self.wrapped_module = wrapped_module
        self.quantize = quantize
        self.waits = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """Whatever the module takes → its quantized output."""
        output = self.wrapped_module(*inputs)
        return output if self.waits else self.quantize(output)


class FakeLinearQuantization(nn.Module):
    """Quantizes and dequantizes by a moving average of the range, which only training moves.

    Args:
        num_bits: 2 to 16.
        mode: see `LinearQuantMode`.
        ema_decay: weight of the past; the average is corrected for its start at zero.
        dequantize: else integers come out.
        inplace: accepted for the original's callers; inputs are never overwritten.
    """

    def __init__(
        self,
        num_bits: int = 8,
        mode: LinearQuantMode = LinearQuantMode.SYMMETRIC,
        ema_decay: float = 0.999,
        dequantize: bool = True,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.mode = mode
        self.ema_decay = ema_decay
        self.dequantize = dequantize
        self.inplace = inplace
        self.register_buffer("tracked_min", torch.zeros(()))
        self.register_buffer("tracked_max", torch.zeros(()))
        self.register_buffer("iterations", torch.zeros(()))

    tracked_min: Tensor
    tracked_max: Tensor
    iterations: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same, on the grid of the tracked range. Values outside of that get no
        gradient."""
        if self.training:
            with torch.no_grad():
                low, high = x.detach().aminmax()
                self.iterations += 1
                self.tracked_min.lerp_(low, 1 - self.ema_decay)
                self.tracked_max.lerp_(high, 1 - self.ema_decay)
        if not bool(self.iterations):
            return x
        correction = 1 - self.ema_decay**self.iterations
        low, high = self.tracked_min / correction, self.tracked_max / correction
        low = torch.minimum(low, high)
        if self.mode.symmetric:
            high = torch.maximum(low.abs(), high.abs())
            low = -high
        scale, zero = range_params(self.mode, self.num_bits, low, high)
        q_range = self.mode.quantized_range(self.num_bits)
        return straight_through(x.clamp(low, high), scale, zero, q_range, self.dequantize)

    def extra_repr(self) -> str:
        return f"num_bits={self.num_bits}, mode={self.mode.name}, ema_decay={self.ema_decay}"


def _grid(bits: int, bound: Tensor, two_sided: bool) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """2^bits levels from 0 to the bound, or, two-sided, one less so that 0 is among them."""
    if two_sided:
        mode = LinearQuantMode.SYMMETRIC_RESTRICTED
        return *symmetric_linear_quantization_params(bits, bound, True), mode.quantized_range(bits)
    low = torch.zeros_like(bound)
    params = asymmetric_linear_quantization_params(bits, low, bound, signed=False)
    return *params, LinearQuantMode.ASYMMETRIC_UNSIGNED.quantized_range(bits)


class ClippedLinearQuantization(nn.Module):
    """Clips to [0, clip_val], or to ± it, and rounds. Values outside get no gradient.

    Args:
        num_bits: 2 to 16.
        clip_val: the bound.
        dequantize: else integers come out.
        inplace: accepted for the original's callers; inputs are never overwritten.
        two_sided: for a tanh.
    """

    def __init__(
        self,
        num_bits: int,
        clip_val: float,
        dequantize: bool = True,
        inplace: bool = False,
        *,
        two_sided: bool = False,
    ) -> None:
        super().__init__()
        self.num_bits, self.clip_val = num_bits, clip_val
        self.dequantize, self.inplace, self.two_sided = dequantize, inplace, two_sided
        bound = torch.tensor(float(clip_val))
        self.scale, self.zero_point, self._q_range = _grid(num_bits, bound, two_sided)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        clipped = x.clamp(-self.clip_val if self.two_sided else 0.0, self.clip_val)
        return straight_through(
            clipped, self.scale, self.zero_point, self._q_range, self.dequantize
        )

    def extra_repr(self) -> str:
        return f"num_bits={self.num_bits}, clip_val={self.clip_val}"


class LearnedClippedLinearQuantization(nn.Module):
    """Clips at a learned bound and rounds: PACT (Choi et al. 2018, arXiv 1805.06085).

    Args:
        num_bits: 2 to 16.
        init_act_clip_val: the first bound.
        dequantize: else integers come out.
        inplace: accepted for the original's callers; inputs are never overwritten.
        two_sided: for a tanh.
    """

    def __init__(
        self,
        num_bits: int,
        init_act_clip_val: float,
        dequantize: bool = True,
        inplace: bool = False,
        *,
        two_sided: bool = False,
    ) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.clip_val = nn.Parameter(torch.tensor(float(init_act_clip_val)))
        self.dequantize, self.inplace, self.two_sided = dequantize, inplace, two_sided

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same; values that are clipped give their gradient to the bound."""
        bound = self.clip_val.abs().clamp(min=1e-6)
        clipped = torch.where(x < bound, x, bound)
        clipped = torch.where(x > -bound, clipped, -bound) if self.two_sided else clipped.relu()
        scale, zero_point, q_range = _grid(self.num_bits, bound.detach(), self.two_sided)
        return straight_through(clipped, scale, zero_point, q_range, self.dequantize)

    def extra_repr(self) -> str:
        return f"num_bits={self.num_bits}, clip_val={float(self.clip_val.detach()):.4g}"
