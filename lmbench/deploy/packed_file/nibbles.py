"""Weights in 4 bits, two in a byte, with a scale for each group of columns. Only NumPy here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUP", "pack_nibbles", "quantize_groups", "unpack_nibbles"]

Array = NDArray[Any]

GROUP = 64
"""Columns that share a scale in int4: 4.25 bits a weight."""


def quantize_groups(
    matrix: Array, group: int = GROUP, scale: Array | None = None
) -> tuple[Array, Array]:
    """4 bits with a scale for each `group` columns of a row.

    The value of largest magnitude in a group becomes -8, so that all sixteen levels are used
    (the scale takes its sign); a slightly smaller scale is taken where that lowers the squared
    error, since it saturates only that one value.

    Returns:
        int8 [R, C] in [-8, 7], and the scales, fp16 [R, ceil(C / group)].
    """
    rows, columns = matrix.shape
    groups = -(-columns // group)
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :columns] = matrix
    cells = padded.reshape(rows, groups, group)
    if scale is not None:
        fixed = scale.reshape(rows, groups)
        return _round_groups(cells, fixed).reshape(rows, -1)[:, :columns], fixed
    extreme = np.take_along_axis(cells, np.abs(cells).argmax(axis=2)[..., None], axis=2)[..., 0]
    best_scale = (extreme / -8).astype("<f2")
    best = _round_groups(cells, best_scale)
    best_error = _group_error(cells, best, best_scale)
    for factor in (0.95, 0.9, 0.85, 0.8):
        tried = (extreme * (factor / -8)).astype("<f2")
        levels = _round_groups(cells, tried)
        error = _group_error(cells, levels, tried)
        better = error < best_error
        best_scale = np.where(better, tried, best_scale)
        best = np.where(better[..., None], levels, best)
        best_error = np.where(better, error, best_error)
    return best.reshape(rows, -1)[:, :columns], best_scale


def _round_groups(cells: Array, scale: Array) -> Array:
    wide = scale.astype(np.float32)
    inverse = np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)
    return np.clip(np.rint(cells * inverse[..., None]), -8, 7).astype(np.int8)


def _group_error(cells: Array, levels: Array, scale: Array) -> Array:
    return np.square(levels * scale.astype(np.float32)[..., None] - cells).sum(axis=2)


def pack_nibbles(levels: Array) -> Array:
    """int8 [R, C] in [-8, 7] to uint8 [R, ceil(C / 2)]."""
    rows, columns = levels.shape
    biased = np.full((rows, columns + columns % 2), 8, np.uint8)
    biased[:, :columns] = levels + 8
    return biased[:, 0::2] | (biased[:, 1::2] << 4)


def unpack_nibbles(packed: Array, columns: int) -> Array:
    """uint8 [R, ceil(C / 2)] to int8 [R, C] in [-8, 7]."""
    levels = np.empty((packed.shape[0], packed.shape[1] * 2), np.int8)
    levels[:, 0::2] = (packed & 15).astype(np.int8) - 8
    levels[:, 1::2] = (packed >> 4).astype(np.int8) - 8
    return levels[:, :columns]
