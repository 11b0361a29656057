"""Sentences of one split that another split nearly repeats, found in bounded memory. No torch here.

The method is Broder's (On the resemblance and containment of documents, 1997): a text is the set
of its shingles, here runs of eight words, each as a 64-bit fingerprint, and of a set that grows too
large only the fingerprints that are 0 modulo m are kept, with m doubled as often as needed. Valid
and test are held so, and the others stream past them: a sentence goes where at least half of the
(kept) shingles that begin in it are among those of the other split.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHINGLE", "Fingerprints"]

SHINGLE = 8
"""Words of a shingle."""

# 64 MB of fingerprints, and as much again while they are sorted.
_MOST = 1 << 23
_SHARE = 0.5
_FACTOR = 0x9E3779B97F4A7C15  # odd, its bits without pattern: 2^64 divided by the golden ratio
_FACTORS = np.array([pow(_FACTOR, power, 1 << 64) for power in range(1, SHINGLE + 1)], np.uint64)
_TABLE_BITS = 27


class Fingerprints:
    """The shingles of a split."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._modulus_bits = 0
        self._new: list[NDArray[np.uint64]] = []
        self._kept = np.empty(0, np.uint64)
        self._count = 0
        self._table = np.zeros(0, np.uint8)

    @property
    def modulus(self) -> int:
        """One in so many shingles is kept."""
        return 1 << self._modulus_bits

    def add(self, sentences: Sequence[str]) -> None:
        """Take in a block: sentences in order, their words between single blanks."""
        found = self._sampled(_shingles(_word_hashes(sentences)))
        self._new.append(found)
        self._count += len(found)
        if self._count > self._most:
            self._sort()

    def _sampled(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return shingles[self._is_sampled(shingles)] if self._modulus_bits else shingles

    def _is_sampled(self, shingles: NDArray[np.uint64]) -> NDArray[np.bool_]:
        return (shingles & np.uint64(self.modulus - 1)) == 0

    def _sort(self) -> None:
        self._kept = np.unique(np.concatenate((self._kept, *self._new)))
        # Half of the room is left for what comes, so that it is not sorted for each block.
        while len(self._kept) > self._most // 2:
            self._modulus_bits += 1
            self._kept = self._sampled(self._kept)
        self._new, self._count = [], len(self._kept)

    def finish(self) -> None:
        """To be called once all is taken in."""
        self._sort()
        # One bit of memory for a look instead of a search in what is kept.
        self._table = np.zeros(1 << (_TABLE_BITS - 3), np.uint8)
        places = self._kept >> np.uint64(64 - _TABLE_BITS)
        bits = np.left_shift(np.uint8(1), (places & np.uint64(7)).astype(np.uint8))
        np.bitwise_or.at(self._table, places >> np.uint64(3), bits)

    def _has(self, shingles: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of these are kept: [N]."""
        places = shingles >> np.uint64(64 - _TABLE_BITS)
        bits = self._table[places >> np.uint64(3)] >> (places & np.uint64(7)).astype(np.uint8)
        found = (bits & np.uint8(1)).astype(bool)
        if found.any():
            asked = shingles[found]
            nearest = np.searchsorted(self._kept, asked).clip(max=len(self._kept) - 1)
            found[found] = self._kept[nearest] == asked
        return found

    def repeated(self, sentences: Sequence[str]) -> list[bool]:
        """Which sentences of a block this split nearly repeats."""
        none = [False] * len(sentences)
        hashes = _word_hashes(sentences)
        shingles = _shingles(hashes)
        if not len(shingles):
            return none
        hits = self._has(shingles)
        if not hits.any():
            return none
        sampled = self._is_sampled(shingles)
        lengths = [sentence.count(" ") + 1 for sentence in sentences]
        ends = np.minimum(np.cumsum(lengths), len(shingles))
        hit_sums = np.concatenate(([0], np.cumsum(hits)))[ends]
        all_sums = np.concatenate(([0], np.cumsum(sampled)))[ends]
        hit_counts, counts = np.diff(hit_sums, prepend=0), np.diff(all_sums, prepend=0)
        return ((hit_counts > 0) & (hit_counts >= _SHARE * counts)).tolist()


def _word_hashes(sentences: Sequence[str]) -> NDArray[np.uint64]:
    words = " ".join(sentences).lower().encode().split(b" ")
    return np.fromiter(map(zlib.crc32, words), np.uint64, len(words))


def _shingles(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The fingerprint of each run of eight words: [W] to [W - 7], or [0] for fewer."""
    count = len(hashes) - SHINGLE + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for place, factor in enumerate(_FACTORS):
        total += hashes[place : place + count] * factor
    # Low bits of a product depend on low bits of its factors alone: mix the high ones in.
    total ^= total >> np.uint64(32)
    return total * np.uint64(_FACTOR)
