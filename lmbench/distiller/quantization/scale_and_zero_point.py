"""Linear quantization: from a range to a scale and a zero point, and from floats to integers.

The sign convention is the original's, which is the opposite of the usual one::

    q = clamp(round_half_even(scale * x - zero_point), q_min, q_max)
    x = (q + zero_point) / scale

so `scale` counts steps per unit, and the integer that stands for 0.0 is `-zero_point`. A zero
point is integral unless asked otherwise, so that 0.0 is always represented exactly.

Tensors may be of any floating dtype; arithmetic happens in it. Ranges may be per tensor (0-dim)
or per channel (broadcastable).
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.modes import LinearQuantMode, get_quantized_range

__all__ = [
    "LinearQuantMode",
    "LinearQuantizeSTE",
    "approx_scale_as_mult_and_shift",
    "asymmetric_linear_quantization_params",
    "clamp",
    "get_quantized_range",
    "get_scale_approximation_mult",
    "get_scale_approximation_params",
    "get_scale_approximation_shift_bits",
    "is_linear_quant_mode_asymmetric",
    "is_linear_quant_mode_symmetric",
    "linear_dequantize",
    "linear_quantize",
    "linear_quantize_clamp",
    "symmetric_linear_quantization_params",
]

_EMPTY = 1e-30

# Numbers give numbers, tensors tensors.
Number = TypeVar("Number", float, Tensor)


def is_linear_quant_mode_symmetric(mode: LinearQuantMode) -> bool:
    """Whether the mode's zero point is always 0."""
    return mode.symmetric


def is_linear_quant_mode_asymmetric(mode: LinearQuantMode) -> bool:
    """Whether the mode has a zero point."""
    return not mode.symmetric


def _as_float(*values: float | Tensor) -> tuple[Tensor, ...]:
    like = next((v for v in values if isinstance(v, Tensor)), None)
    device = None if like is None else like.device
    return tuple(torch.as_tensor(v, dtype=torch.float32, device=device) for v in values)


def _any(found: Tensor) -> bool:
    """Is any true? A tensor on the device "meta" has no values and is taken to be right."""
    return not found.is_meta and bool(found.any())


def _as_given(result: Tensor, *given: Any) -> Any:
    """A number where only numbers were given."""
    return result if any(isinstance(value, Tensor) for value in given) else result.item()


def _steps_over(steps: float, width: Tensor) -> Tensor:
    """`steps / width`; a range too narrow to divide by is empty and gives scale 1."""
    return steps / torch.where(width < _EMPTY, torch.full_like(width, steps), width)


def symmetric_linear_quantization_params(
    num_bits: int, saturation_val: Number, restrict_qrange: bool = False
) -> tuple[Number, Number]:
    """Scale and zero point (0) of the symmetric range ±saturation_val.

    Args:
        num_bits: width of the integers.
        saturation_val: largest magnitude, not negative; a float or a tensor of any shape.
        restrict_qrange: leave the lowest integer unused.

    Raises:
        QuantizationError: a negative value.
    """
    (limit,) = _as_float(saturation_val)
    if _any(limit < 0):
        raise QuantizationError("saturation value must be at least 0")
    steps = 2 ** (num_bits - 1) - 1 if restrict_qrange else (2**num_bits - 1) / 2
    params = _steps_over(steps, limit), torch.zeros_like(limit)
    return _as_given(params[0], saturation_val), _as_given(params[1], saturation_val)


def asymmetric_linear_quantization_params(
    num_bits: int,
    saturation_min: Number,
    saturation_max: Number,
    integral_zero_point: bool = True,
    signed: bool = False,
) -> tuple[Number, Number]:
    """Scale and zero point of the range [min, max], widened so that it contains 0.

    Args:
        num_bits: width of the integers.
        saturation_min: lowest value; a float or a tensor of any shape.
        saturation_max: highest value, of the same shape.
        integral_zero_point: round the zero point, so that 0.0 is exact.
        signed: use signed integers.

    Raises:
        QuantizationError: min above max.
    """
    low, high = _as_float(saturation_min, saturation_max)
    if _any(low > high):
        raise QuantizationError("saturation min must not be above saturation max")
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = _steps_over(2**num_bits - 1, high - low)
    zero_point = scale * low
    if integral_zero_point:
        zero_point = zero_point.round()
    if signed:
        zero_point = zero_point + 2 ** (num_bits - 1)
    given = saturation_min, saturation_max
    return _as_given(scale, *given), _as_given(zero_point, *given)


def clamp(input: Tensor, min: float | Tensor, max: float | Tensor, inplace: bool = False) -> Tensor:
    """`input` limited to [min, max]; bounds may be tensors."""
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        low, high = torch.as_tensor(min).to(input), torch.as_tensor(max).to(input)
        result = torch.minimum(torch.maximum(input, low), high)
        return input.copy_(result) if inplace else result
    return input.clamp_(min, max) if inplace else input.clamp(min, max)


def linear_quantize(
    input: Tensor, scale: float | Tensor, zero_point: float | Tensor, inplace: bool = False
) -> Tensor:
    """round(scale * x - zero_point), halves to even, without a limit on the range."""
    if inplace:
        return input.mul_(scale).sub_(zero_point).round_()
    return torch.round(scale * input - zero_point)


def linear_quantize_clamp(
    input: Tensor,
    scale: float | Tensor,
    zero_point: float | Tensor,
    clamp_min: float | Tensor,
    clamp_max: float | Tensor,
    inplace: bool = False,
) -> Tensor:
    """`linear_quantize`, limited to [clamp_min, clamp_max]."""
    return clamp(linear_quantize(input, scale, zero_point, inplace), clamp_min, clamp_max, inplace)


def linear_dequantize(
    input: Tensor, scale: float | Tensor, zero_point: float | Tensor, inplace: bool = False
) -> Tensor:
    """(q + zero_point) / scale."""
    if inplace:
        return input.add_(zero_point).div_(scale)
    return (input + zero_point) / scale


class LinearQuantizeSTE(torch.autograd.Function):
    """Quantize and, if asked, dequantize, with the straight-through gradient.

    The gradient passes unchanged: Bengio et al. 2013, arXiv 1308.3432. Clamp before it, so that
    values outside the range get none.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        input: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        dequantize: bool,
        inplace: bool,
    ) -> Tensor:
        if inplace:
            ctx.mark_dirty(input)
        output = linear_quantize(input, scale, zero_point, inplace)
        return linear_dequantize(output, scale, zero_point, inplace) if dequantize else output

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, None, None, None, None]:
        return grad_outputs[0], None, None, None, None


def get_scale_approximation_shift_bits(
    fp32_scale: Number, mult_bits: int, limit: bool = False
) -> Number:
    """The largest shift with which the multiplier still fits `mult_bits` unsigned bits.

    Args:
        limit: never shift by more than `mult_bits`.
    """
    (scale,) = _as_float(fp32_scale)
    shift = torch.floor(torch.log2((2**mult_bits - 1) / scale))
    return _as_given(shift.clamp(max=mult_bits) if limit else shift, fp32_scale)


def get_scale_approximation_mult(fp32_scale: Number, shift_bits: Number) -> Number:
    """floor(scale * 2^shift)."""
    scale, shift = _as_float(fp32_scale, shift_bits)
    return _as_given(torch.floor(scale * torch.pow(2.0, shift)), fp32_scale, shift_bits)


def get_scale_approximation_params(
    fp32_scale: Number, mult_bits: int, limit: bool = False
) -> tuple[Number, Number]:
    """Multiplier and shift with which multiplier / 2^shift comes closest from below."""
    shift = get_scale_approximation_shift_bits(fp32_scale, mult_bits, limit)
    return get_scale_approximation_mult(fp32_scale, shift), shift


def approx_scale_as_mult_and_shift(
    fp32_scale: Number, mult_bits: int, limit: bool = False
) -> Number:
    """The scale that hardware with an integer multiplier and a shift would apply."""
    multiplier, shift = get_scale_approximation_params(fp32_scale, mult_bits, limit)
    return multiplier / 2.0**shift  # type: ignore[return-value]
