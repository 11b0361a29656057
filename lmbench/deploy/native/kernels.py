"""Calling the compiled kernels: typed, on NumPy arrays, split over threads where that pays."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmbench.deploy.native.build import library
from lmbench.deploy.native.matrices import ISAS, QUAD, TILE, Isa, Matrix, VectorBuffer

__all__ = ["CELLS", "Kernels"]

CELLS = {"LSTM": 0, "GRU": 1, "RNN_TANH": 2, "RNN_RELU": 3}
"""The kernels' numbers of the kinds of cell."""

Array = NDArray[Any]

# Multiplications below which waking threads costs more than it saves.
_WORTH_SHARING = 1 << 24


class Kernels:
    """The kernels of one instruction set, with scratch memory and threads of their own.

    Args:
        isa: instruction set; None takes the machine's best.
        threads: how many share a large product; stepping always uses one.

    Raises:
        NativeUnavailableError: they cannot be built here.
        ValueError: this machine does not have the instruction set.
    """

    def __init__(self, isa: Isa | None = None, threads: int = 1) -> None:
        self.library = library()
        self.library.lmb_isa.restype = ctypes.c_int32
        best = self.library.lmb_isa()
        self.isa = best if isa is None else ISAS.index(isa)
        if self.isa > best:
            raise ValueError(f"this machine has no {isa}")
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._scratch: list[Array] = [np.zeros(0, np.int8) for _ in range(threads)]

    def quantize(self, x: Array, buffer: VectorBuffer) -> None:
        """fp32 [n, k] to int8 vectors in `buffer`."""
        n, k = x.shape
        assert n <= buffer.capacity
        self.library.lmb_quantize(_p(x), n, k, ctypes.byref(buffer.struct), self.isa)

    def product(self, matrix: Matrix, buffer: VectorBuffer, bias: Array | None, out: Array) -> None:
        """out [n, R] = vectors matrix^T + bias."""
        n = buffer.struct.n
        work = n * matrix.rows * matrix.cols
        parts = self.threads if self._pool and work > _WORTH_SHARING else 1
        edges = [matrix.groups * i // parts for i in range(parts + 1)]

        def part(i: int) -> None:
            self.library.lmb_product(
                ctypes.byref(matrix.struct),
                ctypes.byref(buffer.struct),
                None if bias is None else _p(bias),
                _p(out),
                ctypes.c_int64(matrix.rows),
                edges[i],
                edges[i + 1],
                self.isa,
                _p(self.scratch(i, matrix)),
            )

        if parts == 1:
            part(0)
        else:
            assert self._pool
            list(self._pool.map(part, range(parts)))

    def scratch(self, thread: int, matrix: Matrix) -> Array:
        """Room for one group of a matrix's tiles."""
        needed = (-(-matrix.cols // QUAD) + 1) * TILE
        if self._scratch[thread].nbytes < needed:
            self._scratch[thread] = np.zeros(needed, np.int8)
        return self._scratch[thread]

    def cells(self, cell: int, gi: Array, gh: Array, h: Array, c: Array | None) -> None:
        """One step of the cells of n texts, in place: gi, gh [n, G*H], h and c [n, H]."""
        n, hidden = h.shape
        self.library.lmb_cells(
            cell, n, hidden, _p(gi), _p(gh), _p(h), None if c is None else _p(c), self.isa
        )

    def row(self, matrix: Matrix, row: int, out: Array) -> None:
        """Row `row` of the matrix, as fp32 [C]."""
        assert 0 <= row < matrix.rows
        self.library.lmb_row(ctypes.byref(matrix.struct), ctypes.c_int64(row), _p(out))

    def likelihoods(self, logits: Array, targets: Array) -> float:
        """The summed negative log-likelihood of targets int64 [n] under logits [n, V]."""
        n, words = logits.shape
        out = np.empty(n, np.float64)
        parts = self.threads if self._pool and n >= self.threads else 1
        edges = [n * i // parts for i in range(parts + 1)]

        def part(i: int) -> None:
            first, last = edges[i], edges[i + 1]
            self.library.lmb_likelihoods(
                _p(logits[first:last]),
                last - first,
                words,
                ctypes.c_int64(words),
                _p(targets[first:last]),
                _p(out[first:last]),
                self.isa,
            )

        if parts == 1:
            part(0)
        else:
            assert self._pool
            list(self._pool.map(part, range(parts)))
        return float(out.sum())


def _p(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
