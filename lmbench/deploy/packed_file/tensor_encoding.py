"""How one tensor is stored: dense or sparse, in fp32, fp16, int8, int4 or codes, and back.

An `Encoded` is a layout's name and a few plain arrays, its parts:

========== ===================== ==========================================================
layout     value type            parts
========== ===================== ==========================================================
``dense``  fp32, fp16            values [shape]
``dense``  int8                  values [R, C], scale fp32 [R]
``dense``  int4                  values uint8 [R, ceil(C / 2)], scale fp16 [R, ceil(C / group)]
                                 or fp32
``dense``  code1 … code4 (k)     values uint8 [k, R, ceil(C / 8)], scale fp16 [k, R,
                                 ceil(C / group)] or fp32
``bitmask`` fp32, fp16, int8     mask uint8 [ceil(R C / 8)], values [nnz], (scale fp32 [R])
``bitmask`` code1 … code4 (k)    mask, values uint8 [k, ceil(nnz / 8)], scale as when dense
``block``  fp32, fp16, int8      mask uint8 [ceil(blocks / 8)], values [n, h, w], (scale [R])
========== ===================== ==========================================================

Bits of a mask run from the least significant one, elements (or blocks) row by row. int8 is
symmetric with one scale a row; int4 holds value + 8, the even column in the low nibble, with one
scale for each group of columns; codes are sums of scaled signs (`code_planes`). Only NumPy here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmbench.deploy.packed_file.code_planes import (
    check_planes,
    code_sums,
    nearest_codes,
    pack_planes,
    plane_bits,
)
from lmbench.deploy.packed_file.nibbles import GROUP, pack_nibbles, quantize_groups, unpack_nibbles

__all__ = [
    "BLOCK_SHAPES",
    "Array",
    "Encoded",
    "Layout",
    "Spec",
    "ValueType",
    "code_bits",
    "decode",
    "encode",
    "levels_of",
    "quantize_rows",
    "signs_of",
    "stored_bytes",
    "zero_blocks",
]

Layout = Literal["dense", "bitmask", "block"]
ValueType = Literal["fp32", "fp16", "int8", "int4", "code1", "code2", "code3", "code4"]
Array = NDArray[Any]

# Of int8: 128 times it is still a float32.
_LARGEST_SCALE = float(np.finfo(np.float32).max) / 128

BLOCK_SHAPES: tuple[tuple[int, int], ...] = ((16, 4), (8, 8))
"""What the kernels multiply in one piece: height and width."""

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
}
# A block layout keeps some zeros inside its blocks; it is taken, being faster, up to this size
# relative to the best other one.
_BLOCK_ALLOWANCE = 1.03


@dataclass(frozen=True)
class Spec:
    """What a tensor's parts must look like."""

    layout: Layout
    values: ValueType
    shape: tuple[int, ...]
    block: tuple[int, int] | None = None
    group: int | None = None
    scale: Literal["fp16", "fp32"] = "fp16"
    """Of int4 and codes."""

    @property
    def code_bits(self) -> int:
        """Signs a weight, where values are codes, else 0."""
        return code_bits(self.values)

    def parts(self) -> dict[str, tuple[np.dtype[Any], tuple[int | None, ...]]]:
        """Type and shape of each part; None stands for a length that the mask decides.

        Raises:
            ValueError: no such combination.
        """
        if self.layout == "dense":
            if self.values == "int4":
                rows, columns = self._matrix()
                groups = self._groups()
                return {
                    "values": (np.dtype("u1"), (rows, -(-columns // 2))),
                    "scale": (_DTYPES[self.scale], (rows, groups)),
                }
            if self.code_bits:
                rows, columns = self._matrix()
                return {
                    "values": (np.dtype("u1"), (self.code_bits, rows, -(-columns // 8))),
                    "scale": (_DTYPES[self.scale], (self.code_bits, rows, self._groups())),
                }
            return self._with_scale({"values": (_DTYPES[self.values], self.shape)})
        if self.values == "int4" or (self.code_bits and self.layout == "block"):
            raise ValueError(f"{self.values} values are not stored so")
        rows, _ = self._matrix()
        mask = (np.dtype("u1"), (-(-math.prod(self.grid()) // 8),))
        if self.code_bits:
            return {
                "mask": mask,
                "values": (np.dtype("u1"), (self.code_bits, None)),
                "scale": (_DTYPES[self.scale], (self.code_bits, rows, self._groups())),
            }
        inner = self._block_shape() if self.layout == "block" else ()
        return self._with_scale({"mask": mask, "values": (_DTYPES[self.values], (None, *inner))})

    def grid(self) -> tuple[int, int]:
        """What the mask's bits stand for: elements, or blocks, down and across."""
        rows, columns = self._matrix()
        if self.layout != "block":
            return rows, columns
        height, width = self._block_shape()
        return -(-rows // height), -(-columns // width)

    def _block_shape(self) -> tuple[int, int]:
        if self.block not in BLOCK_SHAPES:
            raise ValueError(f"blocks of {self.block} are not known")
        return self.block

    def _groups(self) -> int:
        """How many groups of columns a row has."""
        if self.group is None or self.group < 8 or self.group % 8:
            raise ValueError(f"{self.values} needs groups of a multiple of 8 columns")
        return -(-self._matrix()[1] // self.group)

    def _with_scale(self, parts: dict[str, Any]) -> dict[str, Any]:
        if self.values == "int8":
            parts["scale"] = (_DTYPES["fp32"], (self._matrix()[0],))
        return parts

    def _matrix(self) -> tuple[int, int]:
        if len(self.shape) != 2:
            raise ValueError(f"{self.layout} {self.values} needs a matrix")
        return self.shape[0], self.shape[1]


@dataclass(frozen=True)
class Encoded:
    """One tensor as it is stored."""

    spec: Spec
    parts: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    @property
    def nonzero(self) -> int:
        """Elements that are not zero, after rounding."""
        values = self.parts["values"]
        if self.spec.code_bits:
            return int(np.count_nonzero(decode(self)))
        if self.spec.values == "int4":
            return int(np.count_nonzero(unpack_nibbles(values, self.spec.shape[1])))
        return int(np.count_nonzero(values))

    def check(self) -> None:
        """Raises ValueError, naming the part, unless the parts are sound and fit one another."""
        wanted = self.spec.parts()
        if set(wanted) != set(self.parts):
            raise ValueError(f"has parts {sorted(self.parts)} in place of {sorted(wanted)}")
        for name, (dtype, shape) in wanted.items():
            part = self.parts[name]
            fits = len(part.shape) == len(shape) and all(
                want is None or have == want for have, want in zip(part.shape, shape, strict=True)
            )
            if part.dtype != dtype or not fits:
                raise ValueError(f"part '{name}' is {part.dtype} {list(part.shape)}")
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                raise ValueError(f"part '{name}' holds a number that is not finite")
            if name == "scale" and part.dtype == np.float32 and np.abs(part).max() > _LARGEST_SCALE:
                raise ValueError("part 'scale' holds a number so large that weights overflow")
        kept = self._check_mask() if "mask" in wanted else self.spec.shape[-1]
        if self.spec.code_bits:
            check_planes(self.parts["values"], self.parts["scale"], kept)

    def _check_mask(self) -> int:
        """How many values the mask counts."""
        mask, values = self.parts["mask"], self.parts["values"]
        bits = math.prod(self.spec.grid())
        spare = mask.size * 8 - bits
        if spare and mask[-1] >> (8 - spare):
            raise ValueError("part 'mask' has bits beyond its last element")
        ones = int(np.bitwise_count(mask).sum())
        if self.spec.code_bits:
            if values.shape[1] != -(-ones // 8):
                raise ValueError(
                    f"its mask counts {ones} codes, but it has {values.shape[1]} bytes of them"
                )
        elif ones != len(values):
            raise ValueError(f"its mask counts {ones} values, but it has {len(values)}")
        return ones


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
) -> Encoded:
    """Store a tensor in the smallest layout of this value type.

    Args:
        tensor: fp32, of one or two dimensions; vectors (biases) are kept in fp32, or fp16 where
            `values` is fp16, and are never sparse.
        sparse: ``auto`` takes bitmask or blocks where that is smaller; a matrix asked for in int4
            that is sparse enough for bitmask + int8 to be smaller becomes that.
        group: columns that share a scale in int4 and in codes.
        scale: the grid that the tensor already lies on, [R] or [R, 1] (int8), or
            [R, groups] or [R, 1] (int4); left out, it is found here. Codes must have one, their
            scales [bits, R, groups of `group`], and where half the values or more are zeros these
            are stored beside the codes.
        exact: keep the one scale of each row in fp32 where int4 has it in fp16 else.

    Raises:
        ValueError: a value that is not finite, or too large for fp16.
    """
    tensor = np.ascontiguousarray(tensor, np.float32)
    if not np.isfinite(tensor).all():
        raise ValueError("holds a number that is not finite")
    if tensor.ndim != 2:
        return _encode_dense(tensor, "fp16" if values == "fp16" else "fp32")
    if code_bits(values):
        assert scale is not None
        return _encode_codes(tensor, values, group, scale, may_be_sparse=sparse != "never")
    if values == "int4":
        dense = _encode_int4(tensor, group, scale, exact=exact)
        if sparse == "never":
            return dense
        # The same integers, where a row has one scale.
        one = scale is not None and bool((scale == scale[:, :1]).all())
        best = _encode_sparse(tensor, "int8", scale[:, 0] if scale is not None and one else None)
        return best if sparse == "always" or best.nbytes < dense.nbytes else dense
    if sparse == "never":
        return _encode_dense(tensor, values, scale)
    dense = _encode_dense(tensor, values, scale)
    best = _encode_sparse(tensor, values, scale)
    return best if sparse == "always" or best.nbytes < dense.nbytes else dense


def code_bits(values: str) -> int:
    """Signs a weight, of a value type that is one of codes; else 0."""
    return int(values[4:]) if values.startswith("code") else 0


def stored_bytes(
    shape: tuple[int, ...], nonzero: int, values: ValueType = "fp32", group: int = GROUP
) -> int:
    """About the bytes that `encode` makes of a tensor of this shape with so many nonzero values.

    Blocks, where it finds some, take up to 3% more or less than the bitmask counted here.
    """
    if len(shape) != 2:
        return math.prod(shape) * (2 if values == "fp16" else 4)
    spec = Spec("dense", values, shape, group=group)
    dense = _bytes_of(spec, 0)
    if spec.code_bits:
        sparse = Spec("bitmask", values, shape, group=group)
        return _bytes_of(sparse, -(-nonzero // 8)) if 2 * nonzero <= math.prod(shape) else dense
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
        levels, scales = quantize_rows(tensor, scale)
        return Encoded(spec, {"values": levels, "scale": scales})
    return Encoded(spec, {"values": _as_float(tensor, values)})


def _as_float(tensor: Array, values: ValueType) -> Array:
    if values == "fp16" and np.abs(tensor).max(initial=0.0) > np.finfo(np.float16).max:
        raise ValueError("holds a number that is too large for fp16")
    return tensor.astype(_DTYPES[values])


def _encode_int4(tensor: Array, group: int, scale: Array | None, *, exact: bool = False) -> Encoded:
    kind: Literal["fp16", "fp32"] = "fp16"
    if scale is not None:
        half = scale.astype(_DTYPES["fp16"])
        if exact and scale.shape[1] == 1:
            kind = "fp32" if (half != scale).any() else "fp16"
            group = -(-tensor.shape[1] // 8) * 8
        scale = half if kind == "fp16" else scale.astype(_DTYPES["fp32"])
    levels, scale = quantize_groups(tensor, group, scale)
    parts = {"values": pack_nibbles(levels), "scale": scale}
    return Encoded(Spec("dense", "int4", tensor.shape, group=group, scale=kind), parts)


def _encode_codes(
    tensor: Array, values: ValueType, group: int, scale: Array, *, may_be_sparse: bool
) -> Encoded:
    half = scale.astype(_DTYPES["fp16"])
    exact = bool((half == scale).all())
    keep, codes = tensor != 0, nearest_codes(tensor, scale, group)
    pruned = 2 * int(keep.sum()) <= keep.size
    if pruned and not may_be_sparse:
        raise ValueError("has zeros beside its codes, which no dense layout keeps")
    layout, kind = "bitmask" if pruned else "dense", "fp16" if exact else "fp32"
    spec = Spec(layout, values, tensor.shape, group=group, scale=kind)
    parts = {
        "values": pack_planes(codes[keep] if pruned else codes, spec.code_bits),
        "scale": half if exact else scale.astype(_DTYPES["fp32"]),
    }
    if pruned:
        parts["mask"] = np.packbits(keep.reshape(-1), bitorder="little")
    return Encoded(spec, parts)


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


def decode(encoded: Encoded) -> Array:
    """The tensor in fp32, of the spec's shape. The parts must have passed `Encoded.check`."""
    spec, parts = encoded.spec, encoded.parts
    if spec.code_bits:
        assert spec.group is not None
        bits, keep = signs_of(encoded)
        sums = code_sums(bits, parts["scale"], spec.group)
        return sums if keep is None else np.where(keep, sums, np.float32(0))
    levels = levels_of(encoded)
    if spec.values == "int4":
        assert spec.group is not None
        scale = np.repeat(parts["scale"].astype(np.float32), spec.group, axis=1)
        return levels * scale[:, : spec.shape[1]]
    if spec.values == "int8":
        return levels * parts["scale"][:, None]
    return levels.astype(np.float32)


def signs_of(encoded: Encoded) -> tuple[Array, Array | None]:
    """Of codes, the signs [k, R, C], a one for a plus, and where there are any, bool [R, C]; None
    for everywhere."""
    keep = _kept(encoded) if encoded.spec.layout == "bitmask" else None
    return plane_bits(encoded.parts["values"], encoded.spec.shape[1], keep), keep


def _kept(encoded: Encoded) -> Array:
    """What the mask keeps, bool [down, across]."""
    down, across = encoded.spec.grid()
    bits = np.unpackbits(encoded.parts["mask"], count=down * across, bitorder="little")
    return bits.astype(bool).reshape(down, across)


def levels_of(encoded: Encoded) -> Array:
    """The stored values laid out in the tensor's shape, scales not applied; int4 as int8.

    Codes have no values without their scales: theirs are decoded.
    """
    spec, parts = encoded.spec, encoded.parts
    if spec.code_bits:
        return decode(encoded)
    if spec.values == "int4":
        return unpack_nibbles(parts["values"], spec.shape[1])
    if spec.layout == "dense":
        return parts["values"]
    values = parts["values"]
    keep = _kept(encoded)
    if spec.layout == "bitmask":
        dense = np.zeros(spec.shape, values.dtype)
        dense[keep] = values
        return dense
    assert spec.block is not None
    height, width = spec.block
    down, across = keep.shape
    cells = np.zeros((down, across, height, width), values.dtype)
    cells[keep] = values
    matrix = cells.transpose(0, 2, 1, 3).reshape(down * height, across * width)
    return np.ascontiguousarray(matrix[: spec.shape[0], : spec.shape[1]])


def zero_blocks(matrix: Array, block: tuple[int, int]) -> float:
    """The share of whole blocks that are all zero; edges that fill no block are left out."""
    height, width = block
    rows, columns = (n // b * b for n, b in zip(matrix.shape, block, strict=True))
    if not rows or not columns:
        return 0.0
    cells = matrix[:rows, :columns].reshape(rows // height, height, columns // width, width)
    return 1 - float(cells.any(axis=(1, 3)).mean())
