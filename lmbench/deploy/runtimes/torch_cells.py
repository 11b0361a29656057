"""Cells stepped by hand in torch, in fp32, fp16 or bf16.

`nn.LSTM` is made for sequences: one step of it costs several times its arithmetic. Here a layer's
step is one product [x, h] W and a few pointwise operations, the matrices lying as the product of
one row runs fastest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.recurrent_weights import LayerWeights
from lmbench.deploy.runtimes.interface import Accuracy, Runtime, State
from lmbench.model.rnn import Hidden

__all__ = [
    "Bf16Runtime", "Fp16Runtime", "SteppedRuntime", "TorchRuntime", "cell", "gate_products",
]  # fmt: skip

# Rows whose loss is taken at once: what 64 x 33,278 floats leave behind stays in the cache.
_SLICE = 64


@dataclass(frozen=True)
class _Product:
    """x W + b with W laid out for one row of x: [K, N] in fp32, [N, K] in the halves."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> _Product:
        """From a matrix as `nn.Linear` keeps it, [N, K]."""
        laid_out = weight.t() if dtype == torch.float32 else weight
        return cls(laid_out.to(dtype).contiguous(), bias.to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        # fp32: with the matrix transposed a row's product adds up whole vectors, which is twice
        # as fast as the dot products that [N, K] asks for, and oneDNN does not get in its way.
        if self.weight.dtype == torch.float32:
            return torch.addmm(self.bias, x, self.weight)
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def rows(self, ids: Tensor) -> Tensor:
        """The matrix as an embedding: ids [B] to [B, K]."""
        if self.weight.dtype == torch.float32:
            return self.weight.index_select(1, ids).t()
        return self.weight.index_select(0, ids)


def gate_products(kind: str, layer: LayerWeights) -> tuple[Tensor, Tensor]:
    """A layer's two products as one: a matrix over [x, h], [R, in + H], and a bias [R].

    R is G * H, but for a GRU 4 * H (reset, update, the input's part of new, the state's part of
    new), since its reset gate acts on the state's part alone.
    """
    if kind != "GRU":
        return torch.cat([layer.w_ih, layer.w_hh], 1), layer.b_ih + layer.b_hh
    (rz_x, n_x), (rz_h, n_h) = (
        w.tensor_split([w.shape[0] * 2 // 3]) for w in (layer.w_ih, layer.w_hh)
    )
    (rz_bx, n_bx), (rz_bh, n_bh) = (
        b.tensor_split([b.shape[0] * 2 // 3]) for b in (layer.b_ih, layer.b_hh)
    )
    weight = torch.cat(
        [
            torch.cat([rz_x, rz_h], 1),
            torch.cat([n_x, torch.zeros_like(n_h)], 1),
            torch.cat([torch.zeros_like(n_x), n_h], 1),
        ]
    )
    return weight, torch.cat([rz_bx + rz_bh, n_bx, n_bh])


def cell(kind: str, products: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """From `gate_products` applied, [B, R], and a layer's state to its next state.

    state: (hidden [B, H],) or for an LSTM (hidden, cell), in fp32.
    """
    if kind == "LSTM":
        i, f, g, o = products.chunk(4, 1)
        memory = torch.addcmul(f.sigmoid() * state[1], i.sigmoid(), g.tanh())
        return o.sigmoid() * memory.tanh(), memory
    if kind == "GRU":
        r, z, n_x, n_h = products.chunk(4, 1)
        new = torch.addcmul(n_x, r.sigmoid(), n_h).tanh()
        return (torch.lerp(new, state[0], z.sigmoid()),)
    return (products.tanh() if kind == "RNN_TANH" else products.relu(),)


class SteppedRuntime(Runtime):
    """Cells stepped by hand, word by word, to score a text, too."""

    rows: ClassVar[int]
    """Of one decoder product while scoring."""

    @abstractmethod
    def _advance(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """One step but for the decoder: the last layer's output [B, H] and the new state."""

    @abstractmethod
    def _nll(self, features: Tensor, targets: Tensor) -> Tensor:
        """The negative log-likelihood of each of targets [M] given features [M, H]."""

    @torch.inference_mode()
    def losses(self, windows: Iterable[tuple[Tensor, Tensor]], state: State) -> Iterator[Tensor]:
        for input, target in windows:
            outputs = []
            for ids in input:
                output, state = self._advance(ids, state)
                outputs.append(self.projected(output))
            slices = zip(torch.cat(outputs).split(self.rows), target.split(self.rows), strict=True)
            yield torch.cat([self._nll(x, t) for x, t in slices])


class TorchRuntime(SteppedRuntime):
    """fp32 by hand for stepping; torch's own layers and sliced logits for scoring."""

    name: ClassVar[str] = "torch"
    about: ClassVar[str] = "torch in fp32, cells stepped by hand"
    accuracy: ClassVar[Accuracy] = "exact"
    dtype: ClassVar[torch.dtype] = torch.float32
    # Enough that packing the matrix costs little, few enough that a wide batch does not fill the
    # memory with logits.
    rows: ClassVar[int] = 512

    def __init__(self, loaded: LoadedModel) -> None:
        weights = loaded.weights
        self._weights = weights
        self._model = loaded.recurrent
        self.device = weights.encoder.device
        self._layers = [
            _Product.of(*gate_products(weights.kind, layer), self.dtype) for layer in weights.layers
        ]
        self._decoder = _Product.of(weights.decoder, weights.bias, self.dtype)
        self._encoder = None if weights.tied else weights.encoder.to(self.dtype)
        projection = weights.projection
        self._projection = None if projection is None else projection.to(self.dtype)
        self.ntoken = weights.ntoken

    @property
    def bytes(self) -> int:
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in self._held()}.values())

    def _held(self) -> Iterator[Tensor]:
        """The weights as they are stepped with, and those of the layers that score."""
        for product in (*self._layers, self._decoder):
            yield from (product.weight, product.bias)
        yield from (one for one in (self._encoder, self._projection) if one is not None)
        if self.dtype == torch.float32:
            yield from self._model.parameters()

    def initial_state(self, batch: int = 1) -> State:
        """(hidden, cell) or (hidden,): each a tuple of [B, H], one a layer."""
        return tuple(tuple(part) for part in self._weights.zeros(batch, self.device))

    @torch.inference_mode()
    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        output, state = self._advance(ids, state)
        return self._decoder(self.projected(output)).float(), state

    def _advance(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        x = self._embed(ids)
        layers = []
        for product, *before in zip(self._layers, *state, strict=True):
            gates = product(torch.cat([x.float(), before[0]], 1)).float()
            after = cell(self._weights.kind, gates, tuple(before))
            layers.append(after)
            x = after[0]
        return x, tuple(zip(*layers, strict=True))

    @torch.inference_mode()
    def projected(self, output: Tensor) -> Tensor:
        if self._projection is None:
            return output
        return F.linear(output.to(self.dtype), self._projection).float()

    def _embed(self, ids: Tensor) -> Tensor:
        if self._encoder is None:
            return self._decoder.rows(ids)
        return self._encoder.index_select(0, ids)

    @torch.inference_mode()
    def losses(self, windows: Iterable[tuple[Tensor, Tensor]], state: State) -> Iterator[Tensor]:
        # Scoring takes long sequences, for which torch's own layers are the faster way.
        first, *cell = (torch.stack(part) for part in state)
        hidden: Hidden = (first, cell[0]) if cell else first
        for input, target in windows:
            features, hidden = self._model.features(input, hidden)
            flat = features.flatten(0, 1)
            rows = zip(flat.split(self.rows), target.split(self.rows), strict=True)
            yield torch.cat([self._nll(x, t) for x, t in rows])

    def _nll(self, features: Tensor, targets: Tensor) -> Tensor:
        logits = self._decoder(features)
        slices = zip(logits.split(_SLICE), targets.split(_SLICE), strict=True)
        return torch.cat([F.cross_entropy(z.float(), t, reduction="none") for z, t in slices])


class Fp16Runtime(TorchRuntime):
    """Products in fp16, half the memory to read; the state and the pointwise part in fp32. Torch's
    own layers would score in fp32."""

    losses = SteppedRuntime.losses

    name: ClassVar[str] = "fp16"
    about: ClassVar[str] = "the same, products in fp16"
    accuracy: ClassVar[Accuracy] = "close"
    dtype: ClassVar[torch.dtype] = torch.float16


class Bf16Runtime(Fp16Runtime):
    """The same in bf16, which the products of newer hardware are faster in."""

    name: ClassVar[str] = "bf16"
    about: ClassVar[str] = "the same, products in bf16"
    accuracy: ClassVar[Accuracy] = "close"
    dtype: ClassVar[torch.dtype] = torch.bfloat16
