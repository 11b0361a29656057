"""Runtimes on the compiled kernels: weights in int8 or int4, dense, sparse or in blocks.

Activations are quantized to int8 anew for each vector, symmetric by its largest magnitude, and
sums are exact integers; cells, biases and logits are fp32. A batch gives for each text what
stepping it alone gives, so a score is of the very arithmetic that generates.
"""

from __future__ import annotations

import ctypes
import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmbench.config.model_shapes import GATES
from lmbench.corpus.batches import windows
from lmbench.deploy.load_model import LoadedModel, PackedModel
from lmbench.deploy.native.build import why_unavailable
from lmbench.deploy.native.kernels import CELLS, Kernels
from lmbench.deploy.native.matrices import (
    ISAS,
    Matrix,
    MatrixStruct,
    VectorBuffer,
    bitmask_matrix,
    block_matrix,
    dense_matrix,
    int4_matrix,
)
from lmbench.deploy.packed_file.tensor_encoding import (
    BLOCK_SHAPES,
    encode,
    zero_blocks,
)
from lmbench.deploy.runtimes.interface import Accuracy, Progress, Runtime, Score, State, needs_cpu

__all__ = [
    "BlockInt8Runtime",
    "NativeInt4Runtime",
    "NativeInt8Runtime",
    "NativeRuntime",
    "SparseInt8Runtime",
]

Array = NDArray[Any]

# From this share of zeros on, a bitmask is read faster than the dense tiles.
_SPARSE_FROM = 0.35


class LayerStruct(ctypes.Structure):
    _fields_ = (
        ("input", MatrixStruct),
        ("hidden", MatrixStruct),
        ("bias_input", ctypes.c_void_p),
        ("bias_hidden", ctypes.c_void_p),
    )


class ModelStruct(ctypes.Structure):
    _fields_ = (
        ("cell", ctypes.c_int32),
        ("layers", ctypes.c_int32),
        ("embedding_size", ctypes.c_int32),
        ("hidden_size", ctypes.c_int32),
        ("embedding", ctypes.c_void_p),
        ("decoder", ctypes.c_void_p),
        ("layer", ctypes.c_void_p),
        ("decoder_bias", ctypes.c_void_p),
        ("backwards", ctypes.c_int32),
    )


class NativeRuntime(Runtime):
    """A model on the compiled kernels; subclasses choose how a weight matrix is laid out.

    Args:
        loaded: a plain model, or a packed one, whose stored integers are used as they are.
        kernels: left out: the machine's best, with torch's number of threads for scoring.
    """

    def __init__(self, loaded: LoadedModel, kernels: Kernels | None = None) -> None:
        self._kernels = kernels or Kernels(threads=torch.get_num_threads())
        # For what runs beside a score, with scratch memory of its own.
        self._alone = Kernels(ISAS[self._kernels.isa])
        shape = loaded.shape
        self._kind = str(shape["model"])
        self._ntoken, self._emsize = int(shape["ntoken"]), int(shape["emsize"])
        self._nhid, self._nlayers = int(shape["nhid"]), int(shape["nlayers"])
        source = TensorSource(loaded)
        self._embedding = self._matrix(source, "encoder.weight")
        tied = bool(shape["tied"])
        self._decoder = self._embedding if tied else self._matrix(source, "decoder.weight")
        self._decoder_bias = source.vector("decoder.bias")
        self._layers = [
            (
                self._matrix(source, f"rnn.weight_ih_l{i}"),
                self._matrix(source, f"rnn.weight_hh_l{i}"),
                source.vector(f"rnn.bias_ih_l{i}"),
                source.vector(f"rnn.bias_hh_l{i}"),
            )
            for i in range(self._nlayers)
        ]
        self._assemble()

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        return super().refusal(loaded) or needs_cpu(loaded) or why_unavailable()

    def _matrix(self, source: TensorSource, name: str) -> Matrix:
        raise NotImplementedError

    def _assemble(self) -> None:
        """The structures and buffers of `lmb_step`."""
        layers = (LayerStruct * self._nlayers)(
            *(
                LayerStruct(ih.struct, hh.struct, b_ih.ctypes.data, b_hh.ctypes.data)
                for ih, hh, b_ih, b_hh in self._layers
            )
        )
        self._layer_structs = layers
        self._model = ModelStruct(
            CELLS[self._kind],
            self._nlayers,
            self._emsize,
            self._nhid,
            ctypes.addressof(self._embedding.struct),
            ctypes.addressof(self._decoder.struct),
            ctypes.addressof(layers),
            self._decoder_bias.ctypes.data,
        )
        widest = max(self._emsize, self._nhid)
        gates = GATES[self._kind] * self._nhid
        self._work = np.zeros(2 * gates + widest, np.float32)
        self._vectors = VectorBuffer(1, widest)
        self._logits = torch.zeros(1, self._ntoken)
        matrices = [self._embedding, *(m for ih, hh, _, _ in self._layers for m in (ih, hh))]
        self._scratch = self._kernels.scratch(0, max(matrices, key=lambda m: m.cols))
        self._step_arguments = (
            ctypes.c_void_p(self._logits.data_ptr()),
            ctypes.c_void_p(self._work.ctypes.data),
            ctypes.byref(self._vectors.struct),
            ctypes.c_void_p(self._scratch.ctypes.data),
            ctypes.c_int32(self._kernels.isa),
        )

    @property
    def ntoken(self) -> int:
        return self._ntoken

    @property
    def bytes(self) -> int:
        matrices = {id(m): m for m in (self._embedding, self._decoder)}
        biases = self._decoder_bias.nbytes
        for ih, hh, b_ih, b_hh in self._layers:
            matrices |= {id(ih): ih, id(hh): hh}
            biases += b_ih.nbytes + b_hh.nbytes
        return sum(m.nbytes for m in matrices.values()) + biases

    def initial_state(self, batch: int = 1) -> State:
        parts = 2 if self._kind == "LSTM" else 1
        shape = (self._nlayers, batch, self._nhid)
        return tuple(torch.zeros(shape) for _ in range(parts))

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        state = tuple(part.clone() for part in cast(tuple[Tensor, ...], state))
        words = ids.tolist()
        self._check(min(words), max(words))
        if len(words) == 1:
            h = state[0].data_ptr()
            c = state[1].data_ptr() if len(state) > 1 else None
            self._kernels.library.lmb_step(
                ctypes.byref(self._model),
                ctypes.c_int64(words[0]),
                ctypes.c_void_p(h),
                ctypes.c_void_p(c),
                *self._step_arguments,
            )
            return self._logits, state
        features = self._features(ids.view(1, -1), state)
        logits = np.empty((len(words), self._ntoken), np.float32)
        buffer = VectorBuffer(len(words), self._nhid)
        self._kernels.quantize(features, buffer)
        self._kernels.product(self._decoder, buffer, self._decoder_bias, logits)
        return torch.from_numpy(logits), state

    def evaluate(self, data: Tensor, bptt: int, progress: Progress | None = None) -> Score:
        rows, batch = data.shape
        data = data.cpu()
        self._check(int(data.min()), int(data.max()))
        state: tuple[Tensor, ...] = self.initial_state(batch)
        buffer = VectorBuffer(min(bptt, rows) * batch, self._nhid)
        total, done = 0.0, 0
        # What the next window's decoder will see depends on no score, so it is made meanwhile.
        with ThreadPoolExecutor(1) as ahead:
            pending: list[tuple[Future[Array], Array]] = []

            def score() -> None:
                nonlocal total, done
                features, targets = pending.pop(0)
                self._kernels.quantize(features.result(), buffer)
                total += self._kernels.score(self._decoder, buffer, self._decoder_bias, targets)
                done += len(targets) // batch
                if progress:
                    progress(done, rows - 1)

            for input, target in windows(data, bptt):
                targets = np.ascontiguousarray(target.numpy())
                pending.append((ahead.submit(self._features, input, state), targets))
                if len(pending) > 1:
                    score()
            while pending:
                score()
        return Score(total, (rows - 1) * batch)

    def _features(self, ids: Tensor, state: tuple[Tensor, ...]) -> Array:
        """What the decoder sees, [T * B, H], for ids [T, B]; `state` is advanced in place."""
        steps, batch = ids.shape
        kernels, count, gates = self._alone, steps * batch, GATES[self._kind] * self._nhid
        x = kernels.rows(self._embedding, np.ascontiguousarray(ids.numpy()).reshape(-1))
        gi = np.empty((count, gates), np.float32)
        buffer = VectorBuffer(count, max(self._emsize, self._nhid))
        for layer, (ih, hh, b_ih, _) in enumerate(self._layers):
            kernels.quantize(x, buffer)
            kernels.product(ih, buffer, b_ih, gi)
            h = state[0][layer].numpy()  # [B, H]
            c = state[1][layer].numpy() if self._kind == "LSTM" else None
            out = kernels.layer(
                self._layer_structs[layer],
                CELLS[self._kind],
                hh,
                gi.reshape(steps, batch, gates),
                h,
                c,
            )
            x = out.reshape(count, self._nhid)
        return x

    def _check(self, least: int, largest: int) -> None:
        """The kernels trust what they are given, so a word that is none stops here."""
        if least < 0 or largest >= self._ntoken:
            raise IndexError(f"word ids must be in [0, {self._ntoken}), not {least} or {largest}")


class TensorSource:
    """The tensors of a model by name, integers as stored where it is a packed one."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._packed = loaded.packed if isinstance(loaded, PackedModel) else None
        self._state = {} if self._packed else loaded.model.state_dict()

    def _dense(self, name: str) -> Array:
        return self._packed.dense(name) if self._packed else self._state[name].float().cpu().numpy()

    def _values(self, name: str) -> str | None:
        """The type of a stored tensor's values."""
        return self._packed.specs[name].values if self._packed else None

    def vector(self, name: str) -> Array:
        return np.array(self._dense(name), np.float32)

    def in_4_bits(self, name: str) -> bool:
        return self._values(name) == "int4"

    def int8(self, name: str) -> tuple[Array, Array, tuple[int, int] | None]:
        """Levels [R, C], scales [R], and the shape of the blocks that they are stored in."""
        if self._packed and self._values(name) == "int8":
            stored = self._packed.tensor(name)
            return self._packed.levels(stored), stored.parts["scale"], stored.spec.block
        encoded = encode(self._dense(name), "int8", "never")
        return encoded.parts["values"], encoded.parts["scale"], None

    def int4(self, name: str) -> tuple[Array, Array, int]:
        """Levels [R, C], scales [R, groups], and how many columns share one, as stored."""
        assert self._packed
        stored = self._packed.tensor(name)
        assert stored.spec.group is not None
        return self._packed.levels(stored), stored.parts["scale"], stored.spec.group


class NativeInt8Runtime(NativeRuntime):
    """Every matrix dense, int8 with one scale a row."""

    name: ClassVar[str] = "native-int8"
    about: ClassVar[str] = "compiled kernels, int8 weights"
    accuracy: ClassVar[Accuracy] = "close"

    def _matrix(self, source: TensorSource, name: str) -> Matrix:
        levels, scale, _ = source.int8(name)
        return dense_matrix(levels, scale)


class SparseInt8Runtime(NativeRuntime):
    """Bitmask and int8 values for each matrix that is sparse enough."""

    name: ClassVar[str] = "sparse-int8"
    about: ClassVar[str] = "compiled kernels, bitmask and int8 values"
    accuracy: ClassVar[Accuracy] = "close"

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        reason = super().refusal(loaded)
        if reason or max(_sparsities(loaded)) >= _SPARSE_FROM:
            return reason
        return f"no weight matrix has {_SPARSE_FROM:.0%} or more zeros; prune it first"

    def _matrix(self, source: TensorSource, name: str) -> Matrix:
        return _int8_matrix(source, name)


def _int8_matrix(source: TensorSource, name: str) -> Matrix:
    """Bitmask where the matrix is sparse enough for it to be faster, else dense."""
    levels, scale, _ = source.int8(name)
    zeros = 1 - np.count_nonzero(levels) / levels.size
    return (bitmask_matrix if zeros >= _SPARSE_FROM else dense_matrix)(levels, scale)


class BlockInt8Runtime(NativeRuntime):
    """The int8 blocks that are not zero, 16x4 or 8x8, whichever leaves fewer."""

    name: ClassVar[str] = "block-int8"
    about: ClassVar[str] = "compiled kernels, int8 blocks that are not zero"
    accuracy: ClassVar[Accuracy] = "close"

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        reason = super().refusal(loaded)
        if reason or max(_block_sparsities(loaded)) >= _SPARSE_FROM:
            return reason
        return "no weight matrix has its zeros in blocks of 16x4 or 8x8; prune it in blocks first"

    def _matrix(self, source: TensorSource, name: str) -> Matrix:
        levels, scale, block = source.int8(name)
        shapes = [block] if block else BLOCK_SHAPES
        matrices = [block_matrix(levels, scale, shape) for shape in shapes]
        dense = dense_matrix(levels, scale)
        return min([*matrices, dense], key=lambda matrix: matrix.nbytes)


class NativeInt4Runtime(NativeRuntime):
    """Matrices that are packed in 4 bits as they are, and the others in int8.

    ``close`` to the model that was packed in 4 bits, which has paid for their rounding already.
    """

    name: ClassVar[str] = "native-int4"
    about: ClassVar[str] = "compiled kernels, 4-bit weights as packed"
    accuracy: ClassVar[Accuracy] = "close"

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        # Rounding to 4 bits costs, so it is done once, by packing.
        specs = loaded.packed.specs.values() if isinstance(loaded, PackedModel) else ()
        if reason := super().refusal(loaded):
            return reason
        if any(spec.values == "int4" for spec in specs):
            return None
        return "its weights are not in 4 bits; pack it with --weights int4 first"

    def _matrix(self, source: TensorSource, name: str) -> Matrix:
        if source.in_4_bits(name):
            return int4_matrix(*source.int4(name))
        return _int8_matrix(source, name)


def _matrices(loaded: LoadedModel) -> list[Array]:
    if isinstance(loaded, PackedModel):
        names = [name for name, spec in loaded.packed.specs.items() if len(spec.shape) == 2]
        return [loaded.packed.levels(loaded.packed.tensor(name)) for name in names]
    return [p.detach().cpu().numpy() for p in loaded.model.parameters() if p.dim() == 2]


def _sparsities(loaded: LoadedModel) -> list[float]:
    if isinstance(loaded, PackedModel):
        packed = loaded.packed
        stored = [
            packed.tensor(name) for name, spec in packed.specs.items() if len(spec.shape) == 2
        ]
        return [1 - one.nonzero / math.prod(one.spec.shape) for one in stored]
    return [1 - np.count_nonzero(matrix) / matrix.size for matrix in _matrices(loaded)]


def _block_sparsities(loaded: LoadedModel) -> list[float]:
    return [zero_blocks(matrix, shape) for matrix in _matrices(loaded) for shape in BLOCK_SHAPES]
