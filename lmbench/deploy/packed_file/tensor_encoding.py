"""Stores a tensor: in the smallest layout of the value type that is asked for.

The layouts are `lmbench.deploy.packed_file.stored_tensor`'s. Only NumPy here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from lmbench.deploy.packed_file.code_planes import least_sums, nearest_codes, pack_planes, spread
from lmbench.deploy.packed_file.nibbles import GROUP, pack_nibbles, quantize_groups
from lmbench.deploy.packed_file.stored_tensor import (
    BLOCK_SHAPES,
    DTYPES,
    Array,
    Encoded,
    Spec,
    ValueType,
    code_bits,
)

__all__ = ["beside_zeros", "encode", "quantize_rows", "stored_bytes", "zero_blocks"]

# A block layout keeps some zeros inside its blocks; it is taken, being faster, up to this size
# relative to the best other one.
_BLOCK_ALLOWANCE = 1.03

_HALF = float(np.finfo(np.float16).max)


def quantize_rows(matrix: Array, scale: Array | None = None) -> tuple[Array, Array]:
    """Symmetric int8 with one scale a row: [R, C] to (int8 [R, C], fp32 [R]).

    `scale` [R] puts the values on a grid that was chosen before (by post-training quantization),
    which may use -128 too.
    """
    lowest = -127 if scale is None else -128
    if scale is None:
        scale = np.abs(matrix).max(axis=1, initial=0.0) / np.float32(127)
    scales = np.asarray(scale, "<f4").reshape(-1)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    return np.clip(np.rint(matrix * inverse[:, None]), lowest, 127).astype(np.int8), scales


def encode(
    tensor: Array,
    values: ValueType = "fp32",
    sparse: Literal["auto", "never", "always"] = "auto",
    *,
    group: int = GROUP,
    scale: Array | None = None,
    exact: bool = False,
    biases: Literal["fp32", "fp16", "int8"] = "fp32",
) -> Encoded:
    """Store a tensor in the smallest layout of this value type.

    Args:
        tensor: fp32, of one or two dimensions; vectors are never sparse.
        sparse: ``auto`` takes bitmask or blocks where that is smaller; a matrix asked for in int4
            that is sparse enough for bitmask + int8 to be smaller becomes that.
        group: columns that share a scale in int4 and in codes.
        scale: the grid that the tensor already lies on, [R] or [R, 1] (int8), or
            [R, groups] or [R, 1] (int4); left out, it is found here. Codes must have one, their
            scales [bits, R, groups of `group`], and where zeros are none of their sums these are
            stored beside the codes.
        exact: keep the one scale of each row in fp32 where int4 has it in fp16 else.
        biases: the value type of vectors; fp32 becomes fp16 where `values` is fp16.

    Raises:
        ValueError: a value that is not finite, or too large for fp16 or for int4.
    """
    tensor = np.ascontiguousarray(tensor, np.float32)
    if not np.isfinite(tensor).all():
        raise ValueError("holds a number that is not finite")
    if tensor.ndim != 2:
        half = biases == "fp32" and values == "fp16"
        return _encode_dense(tensor, "fp16" if half else biases)
    if code_bits(values):
        assert scale is not None
        return _encode_codes(tensor, values, group, scale, may_be_sparse=sparse != "never")
    if values == "int4":
        dense = _encode_int4(tensor, group, scale, exact=exact)
        # Sparse they are int8: the same integers, where a row has one scale.
        values = "int8"
        if scale is not None:
            scale = scale[:, 0] if (scale == scale[:, :1]).all() else None
    else:
        dense = _encode_dense(tensor, values, scale)
    if sparse == "never":
        return dense
    best = _encode_sparse(tensor, values, scale)
    return best if sparse == "always" or best.nbytes < dense.nbytes else dense


def stored_bytes(
    shape: tuple[int, ...],
    nonzero: int,
    values: ValueType = "fp32",
    group: int = GROUP,
    *,
    masked: bool = False,
) -> int:
    """About the bytes that `encode` makes of a tensor of this shape with so many nonzero values;
    codes are `masked` where they are `beside_zeros`.

    Blocks, where it finds some, take up to 3% more or less than the bitmask counted here.
    """
    if len(shape) != 2:
        return math.prod(shape) * (2 if values == "fp16" else 4)
    spec = Spec("dense", values, shape, group=group)
    dense = _bytes_of(spec, 0)
    if spec.code_bits:
        sparse = Spec("bitmask", values, shape, group=group)
        return _bytes_of(sparse, -(-nonzero // 8)) if masked else dense
    sparse = Spec("bitmask", "int8" if values == "int4" else values, shape)
    return min(dense, _bytes_of(sparse, nonzero))


def _bytes_of(spec: Spec, kept: int) -> int:
    """`kept` is the length that the mask decides."""
    return sum(
        dtype.itemsize * math.prod(kept if length is None else length for length in shape)
        for dtype, shape in spec.parts().values()
    )


def _encode_dense(tensor: Array, values: ValueType, scale: Array | None = None) -> Encoded:
    spec = Spec("dense", values, tensor.shape)
    if values == "int8":
        levels, scales = quantize_rows(np.atleast_2d(tensor), scale)
        return Encoded(spec, {"values": levels.reshape(tensor.shape), "scale": scales})
    return Encoded(spec, {"values": _as_float(tensor, values)})


def _as_float(tensor: Array, values: ValueType) -> Array:
    if values == "fp16" and np.abs(tensor).max(initial=0.0) > _HALF:
        raise ValueError("holds a number that is too large for fp16")
    return tensor.astype(DTYPES[values])


def _encode_int4(tensor: Array, group: int, scale: Array | None, *, exact: bool = False) -> Encoded:
    kind: Literal["fp16", "fp32"] = "fp16"
    if scale is not None:
        half = scale.astype(DTYPES["fp16"])
        if exact and scale.shape[1] == 1:
            kind = "fp32" if (half != scale).any() else "fp16"
            group = -(-tensor.shape[1] // 8) * 8
        scale = half if kind == "fp16" else scale.astype(DTYPES["fp32"])
    if kind == "fp16" and np.abs(tensor / 8 if scale is None else scale).max(initial=0.0) > _HALF:
        raise ValueError("holds a number that is too large for int4, whose scales are fp16")
    levels, scale = quantize_groups(tensor, group, scale)
    parts = {"values": pack_nibbles(levels), "scale": scale}
    return Encoded(Spec("dense", "int4", tensor.shape, group=group, scale=kind), parts)


def _encode_codes(
    tensor: Array, values: ValueType, group: int, scale: Array, *, may_be_sparse: bool
) -> Encoded:
    half = scale.astype(DTYPES["fp16"])
    exact = bool((half == scale).all())
    keep, codes = tensor != 0, nearest_codes(tensor, scale, group)
    pruned = beside_zeros(tensor, scale, group)
    if pruned and not may_be_sparse:
        raise ValueError(
            "has zeros beside its codes, which no dense layout keeps; pack it with --sparse auto, "
            "or with --weights int8"
        )
    layout, kind = "bitmask" if pruned else "dense", "fp16" if exact else "fp32"
    spec = Spec(layout, values, tensor.shape, group=group, scale=kind)
    parts = {
        "values": pack_planes(codes[keep] if pruned else codes, spec.code_bits),
        "scale": half if exact else scale.astype(DTYPES["fp32"]),
    }
    if pruned:
        parts["mask"] = np.packbits(keep.reshape(-1), bitorder="little")
    return Encoded(spec, parts)


def beside_zeros(tensor: Array, scale: Array, group: int) -> bool:
    """Has a matrix [R, C] in codes of these scales [bits, R, groups] zeros that are no codes?"""
    least = spread(least_sums(scale), group, tensor.shape[1])
    return bool(least[tensor == 0].any())


def _encode_sparse(tensor: Array, values: ValueType, scale: Array | None) -> Encoded:
    """Bitmask, or blocks where nearly all zeros come in blocks."""
    extra: dict[str, Array] = {}
    if values == "int8":
        levels, extra["scale"] = quantize_rows(tensor, scale)
    else:
        levels = _as_float(tensor, values)
    keep = levels != 0
    mask = np.packbits(keep.reshape(-1), bitorder="little")
    spec = Spec("bitmask", values, tensor.shape)
    bitmask = Encoded(spec, {"mask": mask, "values": levels[keep], **extra})
    blocks = [_encode_blocks(levels, values, block, extra) for block in BLOCK_SHAPES]
    smallest = min(blocks, key=lambda one: one.nbytes)
    return smallest if smallest.nbytes <= bitmask.nbytes * _BLOCK_ALLOWANCE else bitmask


def _encode_blocks(
    levels: Array, values: ValueType, block: tuple[int, int], extra: Mapping[str, Array]
) -> Encoded:
    spec = Spec("block", values, levels.shape, block=block)
    cells = _to_blocks(levels, spec)
    keep = cells.any(axis=(2, 3))
    mask = np.packbits(keep.reshape(-1), bitorder="little")
    return Encoded(spec, {"mask": mask, "values": cells[keep], **extra})


def _to_blocks(matrix: Array, spec: Spec) -> Array:
    """[R, C] to [down, across, h, w], the edges filled up with zeros."""
    assert spec.block is not None
    (height, width), (down, across) = spec.block, spec.grid()
    padded = np.zeros((down * height, across * width), matrix.dtype)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    return padded.reshape(down, height, across, width).transpose(0, 2, 1, 3)


def zero_blocks(matrix: Array, block: tuple[int, int]) -> float:
    """The share of whole blocks that are all zero; edges that fill no block are left out."""
    height, width = block
    rows, columns = (n // b * b for n, b in zip(matrix.shape, block, strict=True))
    if not rows or not columns:
        return 0.0
    cells = matrix[:rows, :columns].reshape(rows // height, height, columns // width, width)
    return 1 - float(cells.any(axis=(1, 3)).mean())
