"""Element-wise arithmetic as modules, so that it can be observed and quantized by name.

The interface is the original's: any number of operands, combined from left to right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor, nn

__all__ = ["EltwiseAdd", "EltwiseDiv", "EltwiseMult", "EltwiseSub"]

_Combine = Callable[[Tensor, Tensor], Tensor]


class _Eltwise(nn.Module):
    """Combines its operands.

    Args:
        inplace: into the first operand. Statistics of that operand's producer are then
            overwritten, so leave it off while calibrating.
    """

    OPERATIONS: ClassVar[tuple[_Combine, _Combine]]

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, *operands: Tensor) -> Tensor:
        """Operands of one shape (or broadcastable) → the result."""
        return reduce(self.OPERATIONS[self.inplace], operands)


class EltwiseAdd(_Eltwise):
    """The sum of its operands."""

    OPERATIONS = torch.add, torch.Tensor.add_


class EltwiseSub(_Eltwise):
    """The first operand less all the others."""

    OPERATIONS = torch.sub, torch.Tensor.sub_


class EltwiseMult(_Eltwise):
    """The product of its operands."""

    OPERATIONS = torch.mul, torch.Tensor.mul_


class EltwiseDiv(_Eltwise):
    """The first operand divided by all the others."""

    OPERATIONS = torch.div, torch.Tensor.div_
