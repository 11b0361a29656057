"""Masks in fewer bits than they have places: rows and columns keep differing shares of theirs.

Each row has one of 16 densities, ((class + 1/2) / 16)², and each column a factor that the odds of a
one are multiplied by. With these probabilities the bits, row by row, are coded by asymmetric
numeral systems (Duda 2013, arXiv 1311.2540), with many states that share one sequence of words
(Giesen 2014, arXiv 1402.3392), so that NumPy takes a step of all of them at once, and at most 8192
in all. One after the other, little endian:

======== ======================================================================
classes  uint8 [ceil(R / 2)], of two rows a byte, the even one's in the low half
factors  float32 [C]
states   uint32 [n], n = max(128, ceil(R C / 8192)); bit i is of state i % n
words    uint16, as many as there are
======== ======================================================================

Only NumPy here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["code_mask", "read_mask"]

Array = NDArray[Any]

# Probabilities are multiples of 1 / 4096. A state is below 2³² and, but for words still to be read,
# not below 2¹⁶, where it begins.
_PRECISION, _WORD = 12, 16
_ONE, _LEAST = 1 << _PRECISION, 1 << _WORD
_LEAST_STATES, _MOST_STEPS = 128, 8192


def code_mask(mask: Array, rows: int, columns: int) -> bytes:
    """What `read_mask` makes this mask of.

    Args:
        mask: uint8 [ceil(rows x columns / 8)], from the least significant bit on.
    """
    keep = np.unpackbits(mask, count=rows * columns, bitorder="little").reshape(rows, columns)
    classes = np.minimum(np.sqrt(keep.mean(axis=1)) * 16, 15).astype(np.uint8)
    factors = _odds(keep.sum(axis=0), rows) / _odds(keep.sum() / columns, rows)
    factors = factors.astype("<f4")
    chances = _chances(classes, factors)
    bits = np.zeros(chances.shape, np.uint8)
    bits.reshape(-1)[: keep.size] = keep.reshape(-1)
    state = np.full(chances.shape[1], _LEAST, np.uint64)
    words: list[Array] = []
    # Backwards, since the last that is written is the first that is read.
    for bit, chance in zip(bits[::-1], chances[::-1], strict=True):
        size = np.where(bit, chance, _ONE - chance).astype(np.uint64)
        full = state >> np.uint64(32 - _PRECISION) >= size
        words.append(state[full].astype("<u2"))
        state[full] >>= np.uint64(_WORD)
        first = np.where(bit, 0, chance).astype(np.uint64)
        state = (state // size << np.uint64(_PRECISION)) + state % size + first
    pairs = np.append(classes, np.zeros(rows % 2, np.uint8)).reshape(-1, 2)
    head = [pairs[:, 0] | pairs[:, 1] << 4, factors, state.astype("<u4")]
    return b"".join(part.tobytes() for part in [*head, *reversed(words)])


def read_mask(data: bytes, rows: int, columns: int) -> Array:
    """The mask that `code_mask` was given.

    Raises:
        ValueError: `code_mask` made no such bytes of a mask of this size.
    """
    damaged = ValueError("is no coded mask of this size")
    pairs, count = -(-rows // 2), _states(rows * columns)
    if len(data) < pairs + 4 * columns + 4 * count or (len(data) - pairs) % 2:
        raise damaged
    packed = np.frombuffer(data, np.uint8, pairs)
    factors = np.frombuffer(data, "<f4", columns, pairs)
    state = np.frombuffer(data, "<u4", count, pairs + 4 * columns)
    words = np.frombuffer(data, "<u2", offset=pairs + 4 * columns + 4 * count)
    classes = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)
    if not (np.isfinite(factors) & (factors > 0)).all() or classes[rows:].any():
        raise damaged
    chances = _chances(classes[:rows], factors)
    bits, used = np.empty(chances.shape, bool), 0
    for step, chance in enumerate(chances):
        place = state & (_ONE - 1)
        bit = bits[step] = place < chance
        size = np.where(bit, chance, _ONE - chance).astype(np.uint32)
        first = np.where(bit, 0, chance).astype(np.uint32)
        state = size * (state >> _PRECISION) + place - first
        empty = np.flatnonzero(state < _LEAST)
        taken = words[used : used + len(empty)]
        if len(taken) < len(empty):
            raise damaged
        state[empty] = state[empty] << _WORD | taken
        used += len(empty)
    flat = bits.reshape(-1)
    if used != len(words) or (state != _LEAST).any() or flat[rows * columns :].any():
        raise damaged
    return np.packbits(flat[: rows * columns], bitorder="little")


def _odds(ones: Any, places: int) -> Any:
    """Of a one, where so many places have one; never 0 or infinite."""
    return (ones + 0.5) / (places - ones + 0.5)


def _chances(classes: Array, factors: Array) -> Array:
    """Of each bit the probability of a one, in 1 / 4096: uint16 [steps, states]."""
    # Sums, products and quotients of doubles are the same everywhere; other functions are not.
    density = ((np.arange(16) + 0.5) / 16) * ((np.arange(16) + 0.5) / 16)
    odds = (density / (1 - density))[:, None] * factors.astype(np.float64)
    table = np.clip(odds / (1 + odds) * _ONE, 1, _ONE - 1).astype(np.uint16)
    flat = table[classes].reshape(-1)
    states = _states(flat.size)
    return np.append(flat, np.ones(-flat.size % states, np.uint16)).reshape(-1, states)


def _states(places: int) -> int:
    return max(_LEAST_STATES, -(-places // _MOST_STEPS))
