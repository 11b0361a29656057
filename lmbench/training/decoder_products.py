"""The three matrix products of a decoder, in fp32, by the faster library that torch carries.

Torch sends every fp32 product to MKL, which gives processors that are not Intel's its AVX2
kernels even where they have AVX-512. oneDNN, also inside torch, looks at the instructions alone:
on a Zen 5 it multiplies 2 to 2.5 times as fast, in the same fp32 arithmetic. Which of the two is
taken follows from the processor and never from a stopwatch, so that a resumed run computes, bit
for bit, what the uninterrupted one does.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from lmbench.training import cpu_info

__all__ = ["grad_hidden", "grad_weight_and_bias", "logits", "prefers_onednn"]

# Above this width, transposing the gradient at the end costs more than transposing the logits.
_WIDE = 400


@cache
def prefers_onednn() -> bool:
    """Is oneDNN's fp32 product the faster one on this processor?"""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and cpu_info.described().get("vendor_id") == "AuthenticAMD"
    )


def _onednn_fits(*tensors: Tensor) -> bool:
    return prefers_onednn() and all(
        t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors
    )


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`input` [N, K] times `weight` [M, K] transposed, plus `bias` [M], by oneDNN: [N, M]."""
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def logits(hidden: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """hidden [N, H], weight [V, H], bias [V] to logits [N, V], which may lie in `out`."""
    if _onednn_fits(hidden, weight):
        return _linear(hidden, weight, bias)
    return torch.addmm(bias, hidden, weight.t(), out=out)


def grad_hidden(grad_logits: Tensor, weight: Tensor) -> Tensor:
    """grad_logits [N, V], weight [V, H] to the gradient of the hidden rows [N, H]."""
    if _onednn_fits(grad_logits, weight):
        return _linear(grad_logits, weight.t())
    return grad_logits @ weight


def grad_weight_and_bias(
    grad_logits: Tensor, hidden: Tensor, weight_out: Tensor, bias_out: Tensor
) -> None:
    """grad_logits [N, V], hidden [N, H] to the gradients, into `weight_out` [V, H], `bias_out` [V].

    The bias's gradient, the sum over rows, rides along as the product with a column of ones.
    """
    if not _onednn_fits(grad_logits, hidden):
        torch.mm(grad_logits.t(), hidden, out=weight_out)
        torch.sum(grad_logits, 0, out=bias_out)
        return
    width = hidden.size(1)
    columns = hidden.new_ones(width + 1, len(hidden))  # [H + 1, N]
    columns[:width] = hidden.t()
    if width > _WIDE:
        both = _linear(grad_logits.t(), columns)  # [V, H + 1]
    else:
        both = _linear(columns, grad_logits.t()).t()  # [V, H + 1], stored as [H + 1, V]
    weight_out.copy_(both[:, :width])
    bias_out.copy_(both[:, width])
