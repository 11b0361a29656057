"""Exact integer arithmetic in floating point, and the storage of integers.

Products of quantized values are sums of integers. A float32 holds every integer up to 2^24 and a
float64 up to 2^53, so as long as no partial sum can exceed that the ordinary, fast matrix product
gives the integer result to the last bit, in any order of summation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["EXACT_FLOAT32", "IntegerLinear", "by_slices_", "dequantize_into", "storage_dtype"]

EXACT_FLOAT32 = 2**24
_CHUNK = 1 << 17  # elements that stay in a core's second-level cache between in-place operations


def storage_dtype(low: int, high: int) -> torch.dtype:
    """The smallest integer type that holds [low, high]."""
    if low >= -128 and high <= 127:
        return torch.int8
    if low >= 0 and high <= 255:
        return torch.uint8
    if low >= -(2**15) and high <= 2**15 - 1:
        return torch.int16
    return torch.int32


@dataclass(frozen=True)
class IntegerLinear:
    """An integer matrix product, prepared for inputs up to a magnitude.

    Attributes:
        weight: (out, in), integers as float32, or float64 when sums may exceed 2^24.
        bias: (out,), likewise, or None.
        accum_limit: what accumulators saturate at, or None when no sum can reach it.
    """

    weight: Tensor
    bias: Tensor | None
    accum_limit: tuple[int, int] | None

    @classmethod
    def prepare(
        cls, weight: Tensor, bias: Tensor | None, largest_input: float, accum_bits: int
    ) -> IntegerLinear:
        """Chooses the arithmetic.

        Args:
            weight: (out, in) integers.
            bias: (out,) integers at the accumulator's scale, or None.
            largest_input: the largest magnitude of an input integer.
            accum_bits: the width of the accumulators.
        """
        sums = weight.double().abs().sum(1) * largest_input
        if bias is not None:
            sums = sums + bias.double().abs()
        bound = float(sums.max()) if len(sums) else 0.0
        dtype = torch.float32 if bound < EXACT_FLOAT32 else torch.float64
        low, high = -(2 ** (accum_bits - 1)), 2 ** (accum_bits - 1) - 1
        limit = None if bound <= high else (low, high)
        return cls(weight.to(dtype), None if bias is None else bias.to(dtype), limit)

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in) integers as float32 → (…, out) integers as float32 (or float64)."""
        accum = F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return accum if self.accum_limit is None else accum.clamp_(*self.accum_limit)


@torch.inference_mode(False)
def constant(value: float) -> Tensor:
    """A number for products with float32 tensors on any device: in those of a few thousand values
    torch takes twice as long for a Python number."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def by_slices_(values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Changes (…, features) in place, large ones so many rows at a time as stay in a core's cache
    from one operation to the next.

    Args:
        change: overwrites the rows that it is given.
    """
    if values.numel() <= 2 * _CHUNK or not values.is_contiguous():
        return change(values)
    rows = values.view(-1, values.shape[-1])
    for piece in rows.split(max(1, _CHUNK // rows.shape[1])):
        change(piece)
    return values


def dequantize_into(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Stored integers → float32 values."""
    return (integers.float() + zero_point) / scale
