"""Models pruned in 8x8 blocks on torch's own block-sparse products: no compiler needed.

torch multiplies a matrix in BSR layout: block compressed rows, square blocks only. How fast depends
on the processor. A Zen 4 took a quarter to a fifth of the dense product's time for a decoder with
nine tenths of its blocks gone. On a Xeon a product with one column takes some thirty times as long
as one with 16, so there the missing columns are filled up with zeros.
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.packed_file.tensor_encoding import zero_blocks
from lmbench.deploy.recurrent_weights import LayerWeights
from lmbench.deploy.runtimes.interface import Accuracy, State, needs_cpu
from lmbench.deploy.runtimes.torch_cells import SteppedRuntime, cell, gate_products

__all__ = ["BsrRuntime"]

BLOCK = (8, 8)
# From this share of zero blocks on a matrix counts as pruned in blocks.
_PRUNED_FROM = 0.4
# With so many columns the product is fast everywhere.
_ENOUGH = 16


@functools.cache
def fewest_columns() -> int:
    """With how many columns this machine's product is fastest, where there are fewer: found out
    once a process, in some 10 ms."""
    blocks = torch.rand(128, 1, 32, 1) >= 0.8
    sample = (blocks * torch.ones(8, 1, 8)).reshape(1024, 256)
    matrix = BsrMatrix(sample)
    times = {columns: _time_of(matrix, torch.ones(columns, 256)) for columns in (1, _ENOUGH)}
    return min(times, key=lambda columns: times[columns])


def _time_of(matrix: BsrMatrix, x: Tensor) -> float:
    """The shortest of a few."""
    best = math.inf
    for _ in range(3):
        began = time.perf_counter()
        matrix.times(x)
        best = min(best, time.perf_counter() - began)
    return best


class BsrMatrix:
    """A matrix [R, C] kept as its 8x8 blocks that are not zero, the edges filled up with zeros."""

    def __init__(self, weight: Tensor) -> None:
        self.rows, self.columns = weight.shape
        padded = F.pad(weight, (0, -self.columns % BLOCK[1], 0, -self.rows % BLOCK[0]))
        with warnings.catch_warnings():
            # torch warns once a process that its sparse layouts may still change.
            warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
            self._blocks = padded.to_sparse_bsr(BLOCK)

    @property
    def nbytes(self) -> int:
        b = self._blocks
        return sum(t.nbytes for t in (b.values(), b.crow_indices(), b.col_indices()))

    def product(self, x: Tensor) -> Tensor:
        """x [B, C] to x weight^T [B, R]."""
        given = len(x)
        if given < _ENOUGH:
            x = F.pad(x, (0, 0, 0, max(fewest_columns() - given, 0)))
        return self.times(x)[:given]

    def times(self, x: Tensor) -> Tensor:
        """The same, with no more columns than `x` has."""
        columns = F.pad(x, (0, -self.columns % BLOCK[1])).t().contiguous()  # [C', B]
        return (self._blocks @ columns)[: self.rows].t()

    def select(self, ids: Tensor) -> Tensor:
        """Rows by number, as an embedding looks them up: ids [B] to [B, C]."""
        b, (height, width) = self._blocks, BLOCK
        out = torch.zeros(len(ids), b.shape[1] // width, width)
        for i, row in enumerate(ids.tolist()):
            first, last = b.crow_indices()[row // height : row // height + 2].tolist()
            out[i, b.col_indices()[first:last]] = b.values()[first:last, row % height]
        return out.view(len(ids), -1)[:, : self.columns]


class BsrRuntime(SteppedRuntime):
    """fp32 cells stepped by hand on block-sparse products."""

    name: ClassVar[str] = "bsr"
    about: ClassVar[str] = "torch's block-sparse products, 8x8 blocks in fp32"
    accuracy: ClassVar[Accuracy] = "exact"
    rows: ClassVar[int] = 64

    def __init__(self, loaded: LoadedModel) -> None:
        weights = loaded.weights
        self._kind, self._zeros, self.ntoken = weights.kind, weights.zeros, weights.ntoken
        self._encoder = BsrMatrix(weights.encoder)
        self._decoder = self._encoder if weights.tied else BsrMatrix(weights.decoder)
        self._bias, self._projection = weights.bias, weights.projection
        self._layers: list[tuple[BsrMatrix, Tensor]] = []
        for layer in weights.layers:
            matrix, bias = gate_products(weights.kind, _aligned(layer))
            self._layers.append((BsrMatrix(matrix), bias))

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        if reason := super().refusal(loaded) or needs_cpu(loaded):
            return reason
        weights = loaded.weights
        matrices = [weights.decoder, *(w for one in weights.layers for w in (one.w_ih, one.w_hh))]
        if max(zero_blocks(matrix.numpy(), BLOCK) for matrix in matrices) >= _PRUNED_FROM:
            return None
        return "no weight matrix has its zeros in blocks of 8x8; prune it in blocks first"

    @property
    def bytes(self) -> int:
        matrices = {id(m): m for m in (self._encoder, self._decoder)}
        layers = sum(matrix.nbytes + bias.nbytes for matrix, bias in self._layers)
        projection = 0 if self._projection is None else self._projection.nbytes
        return sum(m.nbytes for m in matrices.values()) + self._bias.nbytes + layers + projection

    def initial_state(self, batch: int = 1) -> State:
        """(hidden, cell) or (hidden,): each a tuple of [B, H], one a layer."""
        return tuple(tuple(part) for part in self._zeros(batch))

    @torch.inference_mode()
    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        output, state = self._advance(ids, state)
        return self._decoder.product(self.projected(output)) + self._bias, state

    @torch.inference_mode()
    def projected(self, output: Tensor) -> Tensor:
        return output if self._projection is None else F.linear(output, self._projection)

    def _advance(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        x, layers = self._encoder.select(ids), []
        for (matrix, bias), *before in zip(self._layers, *state, strict=True):
            both = torch.cat([_filled(x), _filled(before[0])], 1)
            after = cell(self._kind, matrix.product(both) + bias, tuple(before))
            layers.append(after)
            x = after[0]
        return x, tuple(zip(*layers, strict=True))

    def _nll(self, features: Tensor, targets: Tensor) -> Tensor:
        logits = self._decoder.product(features) + self._bias
        return F.cross_entropy(logits, targets, reduction="none")


def _filled(x: Tensor) -> Tensor:
    """[B, C] with its columns filled up to whole blocks."""
    return F.pad(x, (0, -x.shape[1] % BLOCK[1]))


def _aligned(layer: LayerWeights) -> LayerWeights:
    """The layer with columns filled up, so that [x, h] side by side keeps the pruner's blocks."""
    return LayerWeights(_filled(layer.w_ih), _filled(layer.w_hh), layer.b_ih, layer.b_hh)
