"""Element-wise arithmetic as modules, so that it can be observed and quantized by name.

The interface is the original's: any number of operands, combined from left to right.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn

__all__ = ["EltwiseAdd", "EltwiseMult", "EltwiseSub"]


class EltwiseAdd(nn.Module):
    """The sum of its operands.

    Args:
        inplace: add into the first operand. Statistics of that operand's producer are then
            overwritten, so leave it off while calibrating.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, *operands: Tensor) -> Tensor:
        """Operands of one shape (or broadcastable) → their sum."""
        if self.inplace:
            return reduce(torch.Tensor.add_, operands)
        return reduce(torch.add, operands)


class EltwiseSub(nn.Module):
    """The first operand less all the others."""

    def forward(self, *operands: Tensor) -> Tensor:
        """Operands of one shape (or broadcastable) → first - second - …"""
        return reduce(torch.sub, operands)


class EltwiseMult(nn.Module):
    """The product of its operands.

    Args:
        inplace: multiply into the first operand (see `EltwiseAdd`).
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, *operands: Tensor) -> Tensor:
        """Operands of one shape (or broadcastable) → their product."""
        if self.inplace:
            return reduce(torch.Tensor.mul_, operands)
        return reduce(torch.mul, operands)
