"""Calling the compiled kernels: typed, on NumPy arrays, split over threads where that pays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmbench.deploy.native.build import library
from lmbench.deploy.native.matrices import (
    AT_ONCE,
    ISAS,
    QUAD,
    TILE,
    TOGETHER,
    Isa,
    Matrix,
    VectorBuffer,
)

__all__ = ["CELLS", "Kernels"]

CELLS = {"LSTM": 0, "GRU": 1, "RNN_TANH": 2, "RNN_RELU": 3}
"""The kernels' numbers of the kinds of cell."""

Array = NDArray[Any]

_SOFTMAX = np.dtype([("largest", "f4"), ("total", "f8"), ("chosen", "f4")], align=True)
# As in kernels.cpp.
_SCORED_WORDS = 512
# Multiplications below which waking threads costs more than it saves.
_WORTH_SHARING = 1 << 25


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

        def part(i: int, first: int, last: int) -> None:
            self.library.lmb_product(
                ctypes.byref(matrix.struct),
                ctypes.byref(buffer.struct),
                None if bias is None else _p(bias),
                _p(out),
                ctypes.c_int64(matrix.rows),
                first,
                last,
                self.isa,
                _p(self.scratch(i, matrix)),
            )

        self._share(matrix, buffer.struct.n, part)

    def losses(self, matrix: Matrix, buffer: VectorBuffer, bias: Array, targets: Array) -> Array:
        """The negative log-likelihood (nats, float64 [n]) of each of targets int64 [n] under the
        softmax of vectors matrix^T + bias, whose logits are held for a few hundred words at a
        time."""
        n = buffer.struct.n
        softmax = np.zeros((self.threads, n), _SOFTMAX)
        softmax["largest"] = softmax["chosen"] = -np.inf

        def part(i: int, first: int, last: int) -> None:
            tile = np.empty(n * _SCORED_WORDS, np.float32)
            self.library.lmb_score(
                ctypes.byref(matrix.struct),
                ctypes.byref(buffer.struct),
                _p(bias),
                _p(targets),
                first,
                last,
                _p(softmax[i]),
                _p(tile),
                self.isa,
                _p(self.scratch(i, matrix)),
            )

        self._share(matrix, n, part)
        largest = softmax["largest"].max(axis=0).astype(np.float64)
        # Logits that are no numbers make a score that is none.
        with np.errstate(invalid="ignore"):
            total = (softmax["total"] * np.exp(softmax["largest"] - largest)).sum(axis=0)
            return np.log(total) + largest - softmax["chosen"].max(axis=0)

    def _share(self, matrix: Matrix, n: int, part: Callable[[int, int, int], None]) -> None:
        """Call `part` for each thread with its number and its groups of the matrix's rows."""
        work = n * matrix.rows * matrix.cols
        parts = self.threads if self._pool and work > _WORTH_SHARING else 1
        fours = -(-matrix.groups // TOGETHER)
        edges = [min(matrix.groups, fours * i // parts * TOGETHER) for i in range(parts + 1)]
        if parts == 1:
            part(0, 0, matrix.groups)
        else:
            assert self._pool
            list(self._pool.map(part, range(parts), edges, edges[1:]))

    def scratch(self, thread: int, matrix: Matrix) -> Array:
        """Room for one group of a matrix's tiles, and for what AMX reads beyond it."""
        needed = (-(-matrix.cols // QUAD) + AT_ONCE) * TILE
        if self._scratch[thread].nbytes < needed:
            self._scratch[thread] = np.zeros(needed, np.int8)
        return self._scratch[thread]

    def layer(
        self,
        struct: ctypes.Structure,
        cell: int,
        hidden: Matrix,
        gi: Array,
        h: Array,
        c: Array | None,
    ) -> Array:
        """One layer over a window: gi [T, n, G*H] to [T, n, H]; h and c [n, H] are updated.

        Args:
            struct: the layer as the kernels read it, `hidden` its matrix for the state.
        """
        steps, n, gates = gi.shape
        out = np.empty((steps, n, h.shape[1]), np.float32)
        from_state = np.empty((n, gates), np.float32)
        vectors = VectorBuffer(n, h.shape[1])
        self.library.lmb_layer(
            ctypes.byref(struct),
            cell,
            h.shape[1],
            steps,
            n,
            _p(gi),
            _p(from_state),
            _p(h),
            None if c is None else _p(c),
            _p(out),
            ctypes.byref(vectors.struct),
            _p(self.scratch(0, hidden)),
            self.isa,
        )
        return out

    def rows(self, matrix: Matrix, ids: Array) -> Array:
        """The rows `ids` int64 [n] of the matrix, as fp32 [n, C]; they must be rows of it."""
        out = np.empty((len(ids), matrix.cols), np.float32)
        self.library.lmb_rows(ctypes.byref(matrix.struct), _p(ids), len(ids), _p(out))
        return out


def _p(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
