"""One tensor as a packed file holds it, and read: dense or sparse, fp32 to codes of one bit.

An `Encoded` is a layout's name and a few plain arrays, its parts:

========== ===================== ==========================================================
layout     value type            parts
========== ===================== ==========================================================
``dense``  fp32, fp16            values [shape]
``dense``  int8                  values [R, C], scale fp32 [R]; a vector's [1]
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

from lmbench.deploy.packed_file.code_planes import check_planes, code_sums, plane_bits, spread
from lmbench.deploy.packed_file.nibbles import unpack_nibbles

__all__ = [
    "BLOCK_SHAPES",
    "DTYPES",
    "Array",
    "Encoded",
    "Layout",
    "Spec",
    "ValueType",
    "code_bits",
    "decode",
    "levels_of",
    "signs_of",
]

Layout = Literal["dense", "bitmask", "block"]
ValueType = Literal["fp32", "fp16", "int8", "int4", "code1", "code2", "code3", "code4"]
Array = NDArray[Any]

# Of int8: 128 times it is still a float32.
_LARGEST_SCALE = float(np.finfo(np.float32).max) / 128

BLOCK_SHAPES: tuple[tuple[int, int], ...] = ((16, 4), (8, 8))
"""What the kernels multiply in one piece: height and width."""

DTYPES: Mapping[str, np.dtype[Any]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
}
"""Of values that are numbers as they stand, and of scales."""


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
                    "scale": (DTYPES[self.scale], (rows, groups)),
                }
            if self.code_bits:
                rows, columns = self._matrix()
                return {
                    "values": (np.dtype("u1"), (self.code_bits, rows, -(-columns // 8))),
                    "scale": (DTYPES[self.scale], (self.code_bits, rows, self._groups())),
                }
            return self._with_scale({"values": (DTYPES[self.values], self.shape)})
        if self.values == "int4" or (self.code_bits and self.layout == "block"):
            raise ValueError(f"{self.values} values are not stored so")
        rows, _ = self._matrix()
        mask = (np.dtype("u1"), (-(-math.prod(self.grid()) // 8),))
        if self.code_bits:
            return {
                "mask": mask,
                "values": (np.dtype("u1"), (self.code_bits, None)),
                "scale": (DTYPES[self.scale], (self.code_bits, rows, self._groups())),
            }
        inner = self._block_shape() if self.layout == "block" else ()
        return self._with_scale({"mask": mask, "values": (DTYPES[self.values], (None, *inner))})

    def most_values(self) -> int:
        """The largest length that a mask may decide."""
        elements = math.prod(self.grid()) if self.layout != "dense" else 0
        return -(-elements // 8) if self.code_bits else elements

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
            rows = 1 if len(self.shape) == 1 else self._matrix()[0]
            parts["scale"] = (DTYPES["fp32"], (rows,))
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
        packed = self.spec.code_bits or self.spec.values == "int4"
        return int(np.count_nonzero(levels_of(self) if packed else self.parts["values"]))

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


def code_bits(values: str) -> int:
    """Signs a weight, of a value type that is one of codes; else 0."""
    return int(values[4:]) if values.startswith("code") else 0


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
        return levels * spread(parts["scale"].astype(np.float32), spec.group, spec.shape[1])
    if spec.values == "int8":
        return (levels * parts["scale"][:, None]).reshape(spec.shape)
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
