"""Weight matrices in an ONNX graph, in 32, 8 or 4 bits: multiplied by, and looked up in.

Each class keeps a matrix [N, K] once and can serve as decoder and as embedding at the same time,
so that tied weights are stored once whatever their bits.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto
from torch import Tensor

from lmbench.deploy.export.onnx_nodes import CONTRIB, Graph, array_of, value

__all__ = [
    "PORTABLE",
    "FloatMatrix",
    "Int4Matrix",
    "Int8Matrix",
    "Matrix",
    "quantize_int4",
    "quantize_int8",
    "weights_zero_point",
]

PORTABLE = 128
"""The zero point of int8 weights that every machine multiplies rightly: they are kept as uint8."""

# Numbers of a row that share a scale in 4 bits.
_BLOCK = 32


class Matrix(Protocol):
    """W [N, K] as part of a graph."""

    def times(self, x: str, bias: str) -> str:
        """x [M, K] to x W^T + bias [M, N]."""
        ...

    def rows(self, ids: str) -> str:
        """Ids [T, B] to those rows of W, [T, B, K] in float."""
        ...


class FloatMatrix:
    """W in fp32, of operators that every ONNX runtime has."""

    def __init__(self, graph: Graph, weight: Tensor, name: str | None = None) -> None:
        self._graph = graph
        self._weight = graph.const(array_of(weight), name)

    def times(self, x: str, bias: str) -> str:
        return self._graph.op("Gemm", x, self._weight, bias, transB=1)

    def rows(self, ids: str) -> str:
        return self._graph.op("Gather", self._weight, ids, axis=0)


class Int8Matrix:
    """W in 8 bits, one scale a row; activations are quantized as they come.

    Stored [K, N], the layout of ONNX Runtime's integer product, about the zero point `zero`.
    """

    def __init__(self, graph: Graph, weight: Tensor, zero: int) -> None:
        self._graph = graph
        q, scale = quantize_int8(weight)
        self._zero = zero
        self._scale = graph.const(scale.numpy())
        self._weight = graph.const(stored_int8(q, zero).T)
        self._zero_point = graph.const(np.array(self._zero, _int8_type(self._zero)))

    def times(self, x: str, bias: str) -> str:
        return self._graph.op(
            "DynamicQuantizeMatMul",
            *(x, self._weight, self._scale, self._zero_points(), bias),
            domain=CONTRIB,
        )

    def _zero_points(self) -> str:
        return self._zero_point if self._zero else ""

    def rows(self, ids: str) -> str:
        g = self._graph
        columns = g.op("Gather", self._weight, ids, axis=1)  # [K, T, B]
        q = g.op("Cast", g.op("Transpose", columns, perm=[1, 2, 0]), to=TensorProto.FLOAT)
        if self._zero:
            q = g.op("Sub", q, g.const(np.array(self._zero, np.float32)))
        scale = g.op("Unsqueeze", g.op("Gather", self._scale, ids, axis=0), g.ints(-1))
        return g.op("Mul", q, scale)


class Int4Matrix:
    """W in 4 bits, a scale and a zero point for each block of 32 numbers of a row.

    Two numbers lie in a byte, the first in its low half, as ONNX Runtime's MatMulNBits wants it;
    activations are quantized to 8 bits there.
    """

    def __init__(self, graph: Graph, weight: Tensor) -> None:
        self._graph = graph
        self._n, self._k = weight.shape
        q, scale, zero = quantize_int4(weight)  # [N, blocks, 32], [N, blocks] twice
        self._blocks = q.shape[1]
        self._packed = graph.const(_nibbles(q).numpy())  # [N, blocks, 16]
        self._scale = graph.const(scale.numpy())
        if self._blocks % 2:
            zero = torch.cat([zero, zero.new_zeros(self._n, 1)], 1)
        self._zero = graph.const(_nibbles(zero).numpy())  # [N, ceil(blocks / 2)]

    def times(self, x: str, bias: str) -> str:
        product = self._graph.op(
            "MatMulNBits",
            *(x, self._packed, self._scale, self._zero),
            domain=CONTRIB,
            K=self._k,
            N=self._n,
            bits=4,
            block_size=_BLOCK,
            accuracy_level=4,
        )
        return self._graph.op("Add", product, bias)

    def rows(self, ids: str) -> str:
        g = self._graph
        q = self._halves(g.op("Gather", self._packed, ids, axis=0), self._blocks, _BLOCK)
        zero = self._halves(g.op("Gather", self._zero, ids, axis=0), -1, 1)
        zero = g.op("Slice", zero, g.ints(0), g.ints(self._blocks), g.ints(2))
        scale = g.op("Unsqueeze", g.op("Gather", self._scale, ids, axis=0), g.ints(-1))
        rows = g.op("Mul", g.op("Sub", q, zero), scale)  # [T, B, blocks, 32]
        flat = g.op("Reshape", rows, g.ints(0, 0, self._blocks * _BLOCK))
        return g.op("Slice", flat, g.ints(0), g.ints(self._k), g.ints(2))

    def _halves(self, packed: str, blocks: int, block: int) -> str:
        """Bytes [T, B, …] to the numbers in them, float [T, B, blocks, block]."""
        g = self._graph
        low = g.op("Mod", packed, g.const(np.array(16, np.uint8)))
        high = g.op("Div", packed, g.const(np.array(16, np.uint8)))
        pair = g.op(
            "Concat",
            g.op("Unsqueeze", low, g.ints(-1)),
            g.op("Unsqueeze", high, g.ints(-1)),
            axis=-1,
        )
        shaped = g.op("Reshape", pair, g.ints(0, 0, blocks, block))
        return g.op("Cast", shaped, to=TensorProto.FLOAT)


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """W [N, K] to symmetric int8 [N, K] and the scale of each row [N]: W is about q * scale."""
    weight = weight.detach().float().cpu()
    scale = weight.abs().amax(1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def quantize_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W [N, K] to 4 bits in blocks of 32: W is about (q - zero) * scale.

    Each block's range is its minimum to maximum, shrunk by whichever of a few factors gives the
    least squared error (most weights gain more from finer steps than the outermost loses).

    Returns:
        q uint8 [N, blocks, 32], scale float32 [N, blocks], zero uint8 [N, blocks]; numbers
        that fill up the last block are at its zero.
    """
    n, k = weight.shape
    blocks = -(-k // _BLOCK)
    padded = torch.zeros(n, blocks * _BLOCK)
    padded[:, :k] = weight.detach().float().cpu()
    w = padded.view(n, blocks, _BLOCK)
    # Zero stays in the range, so that it is a number of its own: pruned weights stay zero.
    low, high = w.amin(2).clamp(max=0), w.amax(2).clamp(min=0)
    best = torch.full((n, blocks), torch.inf)
    scale, zero = torch.ones(n, blocks), torch.zeros(n, blocks)
    for factor in (1.0, 0.95, 0.9, 0.85, 0.8, 0.75):
        s = (high - low) * (factor / 15)
        s = torch.where(s > 0, s, torch.ones_like(s))
        z = (-low * factor / s).round_().clamp_(0, 15)
        q = (w / s[..., None]).add_(z[..., None]).round_().clamp_(0, 15)
        error = q.sub_(z[..., None]).mul_(s[..., None]).sub_(w).square_().sum(2)
        better = error < best
        best = torch.where(better, error, best)
        scale, zero = torch.where(better, s, scale), torch.where(better, z, zero)
    q = (w / scale[..., None]).add_(zero[..., None]).round_().clamp_(0, 15)
    return q.to(torch.uint8), scale, zero.to(torch.uint8)


def _nibbles(q: Tensor) -> Tensor:
    """Numbers below 16 [..., n] two to a byte [..., n / 2], the first in the low half."""
    pairs = q.unflatten(-1, (-1, 2))
    return pairs[..., 0] | (pairs[..., 1] << 4)


def stored_int8(q: Tensor, zero: int) -> np.ndarray:
    """Signed integers about a zero point: int8 about 0, or uint8 about 128."""
    return (q.to(torch.int16) + zero).numpy().astype(_int8_type(zero))


def _int8_type(zero: int) -> type[np.generic]:
    return np.uint8 if zero else np.int8


@cache
def weights_zero_point() -> int:
    """0 where this machine multiplies uint8 by int8 rightly, else `PORTABLE`.

    x86 without VNNI adds pairs of such products in 16 bits, which overflows; uint8 by uint8 goes
    another way. One small product of the largest numbers shows it.
    """
    k = 64
    graph = Graph()
    weight = graph.const(np.full((k, 16), 127, np.int8))
    graph.ops("MatMulInteger", "x", weight, outputs=["y"])
    x = value("x", "float", "M", k)
    x.type.tensor_type.elem_type = TensorProto.UINT8
    y = value("y", "float", "M", 16)
    y.type.tensor_type.elem_type = TensorProto.INT32
    session = onnxruntime.InferenceSession(
        graph.model([x], [y]).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    product = session.run(None, {"x": np.full((4, k), 255, np.uint8)})[0]
    return 0 if (np.asarray(product) == 255 * 127 * k).all() else PORTABLE
