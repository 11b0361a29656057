"""A whole model on the compiled kernels, stepped and scored. Only NumPy here."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmbench.deploy.native.kernels import CELLS, Kernels
from lmbench.deploy.native.matrices import ISAS, MatrixStruct, VectorBuffer
from lmbench.deploy.native.tensors import Layout, TensorSource
from lmbench.model_shapes import GATES

__all__ = ["NativeModel"]

Array = NDArray[Any]
States = tuple[Array, ...]
"""Hidden and, for an LSTM, cell: fp32 [L, B, H] each."""


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
        ("projection", ctypes.c_void_p),
        ("layer", ctypes.c_void_p),
        ("decoder_bias", ctypes.c_void_p),
        ("backwards", ctypes.c_int32),
    )


class NativeModel:
    """A recurrent language model on the compiled kernels.

    Args:
        shape: as in a run's record: model, ntoken, emsize, nhid, nlayers, tied, projection.
        source: its tensors.
        layout: of `lmbench.deploy.native.tensors.LAYOUTS`: how a weight matrix is laid out.
        kernels: the machine's best, with as many threads for scoring as they have.

    Raises:
        NativeUnavailableError: the kernels cannot be built here.
    """

    def __init__(
        self,
        shape: Mapping[str, Any],
        source: TensorSource,
        layout: Layout,
        kernels: Kernels,
    ) -> None:
        self._kernels = kernels
        isa = ISAS[kernels.isa]
        self._alone = Kernels(isa)
        self._kind = str(shape["model"])
        self.ntoken, self._emsize = int(shape["ntoken"]), int(shape["emsize"])
        self._nhid, self._nlayers = int(shape["nhid"]), int(shape["nlayers"])
        self._embedding = layout(source, "encoder.weight", isa)
        tied = bool(shape["tied"])
        self._decoder = self._embedding if tied else layout(source, "decoder.weight", isa)
        self._decoder_bias = source.vector("decoder.bias")
        projects = bool(shape.get("projection"))
        self._projection = layout(source, "projection.weight", isa) if projects else None
        self._layers = [
            (
                layout(source, f"rnn.weight_ih_l{i}", isa),
                layout(source, f"rnn.weight_hh_l{i}", isa),
                source.vector(f"rnn.bias_ih_l{i}"),
                source.vector(f"rnn.bias_hh_l{i}"),
            )
            for i in range(self._nlayers)
        ]
        self._assemble()

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
            self._projection and ctypes.addressof(self._projection.struct),
            ctypes.addressof(layers),
            self._decoder_bias.ctypes.data,
        )
        widest = max(self._emsize, self._nhid)
        gates = GATES[self._kind] * self._nhid
        self._work = np.zeros(2 * gates + widest, np.float32)
        self._vectors = VectorBuffer(1, widest)
        self._logits = np.zeros((1, self.ntoken), np.float32)
        # Asking numpy for an address takes longer than a copy of the state to where it is known.
        self._state = self.initial_state()
        hidden, *cell = (part.ctypes.data for part in self._state)
        matrices = [self._embedding, *(m for ih, hh, _, _ in self._layers for m in (ih, hh))]
        self._scratch = self._kernels.scratch(0, max(matrices, key=lambda m: m.cols))
        self._step_arguments = (
            ctypes.c_void_p(hidden),
            ctypes.c_void_p(cell[0] if cell else None),
            ctypes.c_void_p(self._logits.ctypes.data),
            ctypes.c_void_p(self._work.ctypes.data),
            ctypes.byref(self._vectors.struct),
            ctypes.c_void_p(self._scratch.ctypes.data),
            ctypes.c_int32(self._kernels.isa),
        )

    @property
    def bytes(self) -> int:
        """Size of the numbers as the kernels read them, tied weights once."""
        ends = (self._embedding, self._decoder, self._projection)
        matrices = {id(m): m for m in ends if m is not None}
        biases = self._decoder_bias.nbytes
        for ih, hh, b_ih, b_hh in self._layers:
            matrices |= {id(ih): ih, id(hh): hh}
            biases += b_ih.nbytes + b_hh.nbytes
        return sum(m.nbytes for m in matrices.values()) + biases

    def initial_state(self, batch: int = 1) -> States:
        parts = 2 if self._kind == "LSTM" else 1
        shape = (self._nlayers, batch, self._nhid)
        return tuple(np.zeros(shape, np.float32) for _ in range(parts))

    def step(self, ids: Array, state: States) -> tuple[Array, States]:
        """Read one word of each text: ids int64 [B] to logits fp32 [B, V] and the new state.

        The logits are the caller's until the next step.
        """
        words = ids.tolist()
        self._check(min(words), max(words))
        if len(words) == 1:
            for ours, part in zip(self._state, state, strict=True):
                np.copyto(ours, part)
            self._kernels.library.lmb_step(
                ctypes.byref(self._model), ctypes.c_int64(words[0]), *self._step_arguments
            )
            return self._logits, tuple(part.copy() for part in self._state)
        state = tuple(part.copy() for part in state)
        features = self._features(ids[None], state, self._alone)
        logits = np.empty((len(words), self.ntoken), np.float32)
        buffer = VectorBuffer(*features.shape)
        self._kernels.quantize(features, buffer)
        self._kernels.product(self._decoder, buffer, self._decoder_bias, logits)
        return logits, state

    def losses(self, windows: Iterable[tuple[Array, Array]], state: States) -> Iterator[Array]:
        """The negative log-likelihoods of a text, window by window.

        Args:
            windows: ids int64 [T, B] and the words that follow them, [T * B]; with several
                threads one more is taken than was given back, since what the next window's decoder
                will see depends on no score and is made meanwhile.
            state: before the text; it is left as it is.

        Yields:
            Nats of each word that follows, float64 [T * B].
        """
        state = tuple(part.copy() for part in state)
        buffer = VectorBuffer(1, self._decoder.cols)
        # Another score may be under way, and each needs scratch memory of its own.
        alone = Kernels(ISAS[self._kernels.isa])

        def scored(features: Array, targets: Array) -> Array:
            nonlocal buffer
            if len(targets) > buffer.capacity:
                buffer = VectorBuffer(*features.shape)
            self._kernels.quantize(features, buffer)
            return self._kernels.losses(self._decoder, buffer, self._decoder_bias, targets)

        pending: tuple[Future[Array], Array] | None = None
        with ThreadPoolExecutor(1) as ahead:
            for ids, targets in windows:
                self._check(min(ids.min(), targets.min()), max(ids.max(), targets.max()))
                if self._kernels.threads == 1:
                    features = self._features(ids, state, alone)
                    yield scored(features, np.ascontiguousarray(targets))
                    continue
                made = ahead.submit(self._features, ids, state, alone)
                if pending:
                    yield scored(pending[0].result(), pending[1])
                pending = made, np.ascontiguousarray(targets)
            if pending:
                yield scored(pending[0].result(), pending[1])

    def _features(self, ids: Array, state: States, kernels: Kernels) -> Array:
        """What the decoder sees, [T * B, H or E], for ids [T, B]; `state` is advanced in place."""
        steps, batch = ids.shape
        hidden, *cell = state
        count, gates = steps * batch, GATES[self._kind] * self._nhid
        x = kernels.rows(self._embedding, np.ascontiguousarray(ids).reshape(-1))
        gi = np.empty((count, gates), np.float32)
        buffer = VectorBuffer(count, max(self._emsize, self._nhid))
        for layer, (ih, hh, b_ih, _) in enumerate(self._layers):
            kernels.quantize(x, buffer)
            kernels.product(ih, buffer, b_ih, gi)
            out = kernels.layer(
                self._layer_structs[layer],
                CELLS[self._kind],
                hh,
                gi.reshape(steps, batch, gates),
                hidden[layer],  # [B, H]
                cell[0][layer] if cell else None,
            )
            x = out.reshape(count, self._nhid)
        return self.projected(x, kernels)

    def projected(self, output: Array, kernels: Kernels | None = None) -> Array:
        """The last layer's output [N, H] as the decoder sees it."""
        if self._projection is None:
            return output
        kernels = kernels or self._alone
        buffer = VectorBuffer(*output.shape)
        kernels.quantize(output, buffer)
        seen = np.empty((len(output), self._projection.rows), np.float32)
        kernels.product(self._projection, buffer, None, seen)
        return seen

    def _check(self, least: int, largest: int) -> None:
        """The kernels trust what they are given, so a word that is none stops here."""
        if least < 0 or largest >= self.ntoken:
            raise IndexError(f"word ids must be in [0, {self.ntoken}), not {least} or {largest}")
