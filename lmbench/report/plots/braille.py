"""A line as braille: which dots it covers, and the sign of each character cell that it touches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ACROSS", "DOWN", "braille", "dots"]

IntArray = npt.NDArray[np.int64]

ACROSS, DOWN = 2, 4
"""Dots of a cell."""

_BLANK = 0x2800
# The bit of each dot in Unicode's braille patterns; rows count from the foot of the cell.
_BITS = np.array([[0x40, 0x80], [0x04, 0x20], [0x02, 0x10], [0x01, 0x08]], dtype=np.int64)


def dots(x: IntArray, y: IntArray) -> tuple[IntArray, IntArray]:
    """The dots of the line through the given ones, shape (n,) → (m,), in its order: as many
    between two of them as the longer of its two ways has."""
    if len(x) < 2:
        return x, y
    run, rise = np.diff(x), np.diff(y)
    lengths = np.maximum(np.maximum(np.abs(run), np.abs(rise)), 1)
    which = np.repeat(np.arange(len(lengths)), lengths)
    along = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    between_x = (x[which] + along * (run / lengths)[which]).astype(np.int64)
    between_y = (y[which] + along * (rise / lengths)[which]).astype(np.int64)
    return np.append(between_x, x[-1]), np.append(between_y, y[-1])


def braille(x: IntArray, y: IntArray) -> tuple[IntArray, IntArray, list[str]]:
    """The cells in which dots lie, column and row (rows from the foot), and the sign of each.

    Dots must not be negative.
    """
    if not len(x):
        return x, y, []
    column, row = x // ACROSS, y // DOWN
    width = int(column.max()) + 1
    cells, place = np.unique(row * width + column, return_inverse=True)
    signs = np.zeros(len(cells), dtype=np.int64)
    np.bitwise_or.at(signs, place, _BITS[y % DOWN, x % ACROSS])
    return cells % width, cells // width, [chr(_BLANK + sign) for sign in signs.tolist()]
