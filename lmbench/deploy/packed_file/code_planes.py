"""Weights that are sums of scaled signs: one plane of bits for each scale. Only NumPy here.

A row's weights w = alpha_1 b_1 + … + alpha_k b_k, with b in {-1, +1} and scales for each group of
columns, become k planes uint8 [R, ceil(C / 8)], the least significant bit first, a one for +1, and
alpha [k, R, groups]. Of a pruned matrix the planes have the bits of the weights that are left, one
after the other: [ceil(n / 8)].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "check_planes",
    "code_sums",
    "interleave",
    "interleaved_bytes",
    "least_sums",
    "nearest_codes",
    "pack_planes",
    "plane_bits",
    "row_units",
    "separate",
]

Array = NDArray[Any]

_TOP = 127

# Bytes that are taken apart at once, each into as many numbers as it has bits.
_AT_ONCE = 1 << 18


def nearest_codes(matrix: Array, alpha: Array, group: int) -> Array:
    """The sums that are nearest to fp32 [R, C]: uint8 [R, C], whose bit i is the sign of alpha_i.

    Args:
        alpha: fp32 [k, R, groups].
        group: columns that share them.
    """
    bits, rows, columns = len(alpha), *matrix.shape
    codes = np.zeros((rows, columns), np.uint8)
    best = np.full((rows, columns), np.inf, np.float32)
    for code in range(2**bits):
        sums = spread(_sum(alpha, code), group, columns)
        error = np.abs(matrix - sums)
        better = error < best
        codes[better] = code
        best = np.where(better, error, best)
    return codes


def least_sums(alpha: Array) -> Array:
    """The smallest magnitude [R, groups] of the sums of each group's scales [k, R, groups]."""
    return np.min([np.abs(_sum(alpha, code)) for code in range(2 ** len(alpha))], axis=0)


def pack_planes(codes: Array, bits: int) -> Array:
    """Codes [R, C] to planes [bits, R, ceil(C / 8)]; [n] to [bits, ceil(n / 8)]."""
    planes = [np.packbits(codes >> i & 1, axis=-1, bitorder="little") for i in range(bits)]
    return np.stack(planes)


def interleave(part: Array) -> Array:
    """Planes or scales [k, ...] with what belongs to a weight, or to a row, side by side.

    Scales become [..., k]. Of planes a byte holds 8 // k weights, the first in its lowest bits,
    as uint8 [n]: a code's bits are not independent of one another, which entropy coding of bytes
    gains from.
    """
    if part.dtype != np.uint8:
        return np.moveaxis(part, 0, -1)
    bits = np.unpackbits(part.reshape(len(part), -1), axis=1, bitorder="little")
    each = 8 // len(part)
    together = bits.reshape(len(part), -1, each).transpose(1, 2, 0).reshape(-1, each * len(part))
    return np.packbits(together, axis=1, bitorder="little")[:, 0]


def interleaved_bytes(dtype: np.dtype[Any], shape: Sequence[int]) -> int:
    """The size of what `interleave` makes of such a part."""
    if dtype != np.uint8:
        return math.prod(shape) * dtype.itemsize
    return 8 * math.prod(shape[1:]) // (8 // shape[0])


def separate(data: bytes, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """The part of this type and shape that `interleave` made these bytes of.

    Raises:
        ValueError: bits that belong to no code.
    """
    planes, rest = shape[0], tuple(shape[1:])
    if dtype != np.uint8:
        return np.moveaxis(np.frombuffer(data, dtype).reshape(*rest, planes), -1, 0)
    together, used = np.frombuffer(data, np.uint8), 8 // planes * planes
    apart = np.empty((planes, math.prod(rest)), np.uint8)
    for first in range(0, len(together), _AT_ONCE):
        part = together[first : first + _AT_ONCE, None]
        bits = np.unpackbits(part, axis=1, bitorder="little")
        if bits[:, used:].any():
            raise ValueError("has bits that belong to no code")
        place = first * used // planes // 8
        packed = np.packbits(bits[:, :used].reshape(-1, planes).T, axis=1, bitorder="little")
        apart[:, place : place + packed.shape[1]] = packed
    return apart.reshape(shape)


def plane_bits(planes: Array, columns: int, keep: Array | None = None) -> Array:
    """Planes to zeros and ones [k, R, C]; `keep` bool [R, C] is where a pruned matrix has them."""
    if keep is None:
        return np.unpackbits(planes, axis=-1, count=columns, bitorder="little")
    bits = np.zeros((len(planes), *keep.shape), np.uint8)
    bits[:, keep] = np.unpackbits(planes, axis=-1, count=int(keep.sum()), bitorder="little")
    return bits


def code_sums(bits: Array, alpha: Array, group: int, dtype: Any = np.float32) -> Array:
    """The weights [R, C] of what `plane_bits` gives; in int8 for scales that are integers, of each
    row and group at most 127 together."""
    total = np.zeros(bits.shape[1:], dtype)
    for plane, scale in zip(bits, alpha.astype(dtype), strict=True):
        wide = spread(scale, group, bits.shape[2])
        total += np.where(plane, wide, -wide)
    return total


def check_planes(planes: Array, alpha: Array, columns: int) -> None:
    """Raises ValueError, naming the part, unless finite numbers can be what `pack_planes` made.

    Args:
        columns: the bits of a row.
    """
    spare = planes.shape[-1] * 8 - columns
    if spare and (planes[..., -1] >> (8 - spare)).any():
        raise ValueError("part 'values' has bits beyond the ends of its rows")
    if (alpha < 0).any():
        raise ValueError("part 'scale' holds a number below zero")


def row_units(alpha: Array) -> tuple[Array, Array]:
    """The same scales as small integers: of which no sum has more than 127.

    Scales that lie on such a grid already, as `lmbench quantize` leaves them, stay as they are, and
    others are rounded.

    Args:
        alpha: fp32 [k, R, groups], none below zero.

    Returns:
        The unit of each row, fp32 [R], powers of two, and the scales in it, uint8 [k, R, groups].
    """
    largest = alpha.astype(np.float32).sum(0).max(1)
    exponent = np.maximum(np.frexp(largest / _TOP)[1], -120)
    unit = np.ldexp(np.float32(1), np.where(largest > 0, exponent, 0))
    steps = np.rint(alpha / unit[:, None])
    unit = np.where(steps.sum(0).max(1) > _TOP, unit * 2, unit)
    return unit, np.rint(alpha / unit[:, None]).astype(np.uint8)


def _sum(alpha: Array, code: int) -> Array:
    """[R, groups]: the weight that a code stands for, its scales summed up in their order."""
    total = np.zeros(alpha.shape[1:], np.float32)
    for i, scale in enumerate(alpha.astype(np.float32)):
        total += scale if code >> i & 1 else -scale
    return total


def spread(values: Array, group: int, columns: int) -> Array:
    """[R, groups] to [R, C]."""
    # A group may be wider than the matrix, as wide as a file says.
    return np.repeat(values, min(group, columns), axis=1)[:, :columns]
