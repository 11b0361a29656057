"""A packed model in fp32 on NumPy alone: for floats, and where nothing can be compiled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmbench.deploy.packed_file.reading import PackedFile
from lmbench.model_shapes import GATES

__all__ = ["NumpyModel"]

Array = NDArray[Any]
States = tuple[Array, ...]
"""Hidden and, for an LSTM, cell: fp32 [L, B, H] each."""

# Rows of logits that are made at once.
_ROWS = 128


class NumpyModel:
    """A recurrent language model whose stored numbers are unpacked to fp32.

    The interface is that of `lmbench.deploy.native.model.NativeModel`.
    """

    def __init__(self, packed: PackedFile) -> None:
        shape = packed.shape
        self._kind, self.ntoken = str(shape["model"]), int(shape["ntoken"])
        self._nhid, self._nlayers = int(shape["nhid"]), int(shape["nlayers"])
        self._encoder = packed.dense("encoder.weight")  # [V, E]
        self._decoder = self._encoder if shape["tied"] else packed.dense("decoder.weight")
        self._bias = packed.dense("decoder.bias")
        self._projection = packed.dense("projection.weight") if shape["projection"] else None
        self._layers = [
            tuple(packed.dense(f"rnn.{name}_l{i}") for name in _PARTS) for i in range(self._nlayers)
        ]

    def initial_state(self, batch: int = 1) -> States:
        parts = 2 if self._kind == "LSTM" else 1
        shape = (self._nlayers, batch, self._nhid)
        return tuple(np.zeros(shape, np.float32) for _ in range(parts))

    def step(self, ids: Array, state: States) -> tuple[Array, States]:
        """Read one word of each text: ids int64 [B] to logits fp32 [B, V] and the new state."""
        features, state = self._features(ids[None], state)
        return features @ self._decoder.T + self._bias, state

    def losses(self, windows: Iterable[tuple[Array, Array]], state: States) -> Iterator[Array]:
        """Ids int64 [T, B] with the words that follow, [T * B], to the nats of each, [T * B]."""
        for ids, targets in windows:
            features, state = self._features(ids, state)
            parts = []
            for first in range(0, len(targets), _ROWS):
                rows, chosen = features[first : first + _ROWS], targets[first : first + _ROWS]
                logits = rows @ self._decoder.T + self._bias
                largest = logits.max(axis=1)
                total = np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64)
                parts.append(np.log(total) + largest - logits[np.arange(len(chosen)), chosen])
            yield np.concatenate(parts)

    def _features(self, ids: Array, state: States) -> tuple[Array, States]:
        """What the decoder sees, [T * B, H or E], for ids [T, B]; and the state after them."""
        steps, batch = ids.shape
        after = tuple(part.copy() for part in state)
        x = self._encoder[ids.reshape(-1)]
        for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(self._layers):
            from_x = (x @ w_ih.T + b_ih).reshape(steps, batch, -1)
            out = np.empty((steps, batch, self._nhid), np.float32)
            parts = tuple(part[layer] for part in after)
            for t in range(steps):
                parts = _cell(self._kind, from_x[t], parts[0] @ w_hh.T + b_hh, parts)
                out[t] = parts[0]
            for whole, part in zip(after, parts, strict=True):
                whole[layer] = part
            x = out.reshape(steps * batch, -1)
        return x if self._projection is None else x @ self._projection.T, after


_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _cell(kind: str, from_x: Array, from_h: Array, state: States) -> States:
    """Both products, [B, G * H], and a layer's state to its next state; gates in torch's order."""
    if kind == "GRU":
        (r_x, z_x, n_x), (r_h, z_h, n_h) = (np.split(p, GATES[kind], 1) for p in (from_x, from_h))
        z = _sigmoid(z_x + z_h)
        new = np.tanh(n_x + _sigmoid(r_x + r_h) * n_h)
        return (new + z * (state[0] - new),)
    gates = from_x + from_h
    if kind == "LSTM":
        i, f, g, o = np.split(gates, GATES[kind], 1)
        memory = _sigmoid(f) * state[1] + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(memory), memory
    return (np.tanh(gates) if kind == "RNN_TANH" else np.maximum(gates, 0),)


def _sigmoid(x: Array) -> Array:
    # By tanh, which does not overflow.
    return np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))
