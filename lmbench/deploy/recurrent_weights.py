"""A recurrent language model as plain tensors, which every runtime is built from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmbench.model.rnn import RNNModel

__all__ = ["LayerWeights", "RecurrentWeights"]


@dataclass(frozen=True)
class LayerWeights:
    """One recurrent layer. Gates lie in torch's order: i f g o for an LSTM, r z n for a GRU."""

    w_ih: Tensor  # [G*H, in]
    w_hh: Tensor  # [G*H, H]
    b_ih: Tensor  # [G*H]
    b_hh: Tensor  # [G*H]


@dataclass(frozen=True)
class RecurrentWeights:
    """The tensors of an `RNNModel`; `decoder` is `encoder` itself where the weights are tied."""

    kind: str
    encoder: Tensor  # [V, E]
    layers: tuple[LayerWeights, ...]
    decoder: Tensor  # [V, H], or [V, E] behind a projection
    bias: Tensor  # [V]
    projection: Tensor | None = None  # [E, H]

    @classmethod
    def of(cls, model: RNNModel) -> RecurrentWeights:
        """The model's own tensors, detached, not copied."""
        state = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}
        layers = tuple(
            LayerWeights(
                state[f"rnn.weight_ih_l{i}"],
                state[f"rnn.weight_hh_l{i}"],
                state[f"rnn.bias_ih_l{i}"],
                state[f"rnn.bias_hh_l{i}"],
            )
            for i in range(model.nlayers)
        )
        encoder = state["encoder.weight"]
        decoder = encoder if model.tied else state["decoder.weight"]
        bias, projection = state["decoder.bias"], state.get("projection.weight")
        return cls(model.rnn_type, encoder, layers, decoder, bias, projection)

    @property
    def tied(self) -> bool:
        return self.decoder is self.encoder

    @property
    def ntoken(self) -> int:
        return self.encoder.shape[0]

    @property
    def nhid(self) -> int:
        return self.layers[-1].w_hh.shape[1]

    @property
    def nlayers(self) -> int:
        return len(self.layers)

    @property
    def parts(self) -> int:
        """Tensors of state each layer carries: hidden and cell for an LSTM, else hidden alone."""
        return 2 if self.kind == "LSTM" else 1

    @property
    def state_names(self) -> tuple[str, ...]:
        """Of the state's tensors, as an ONNX graph names them."""
        return ("h", "c")[: self.parts]

    def zeros(self, batch: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """The state before a text: `parts` tensors [L, B, H]."""
        shape = (self.nlayers, batch, self.nhid)
        return tuple(torch.zeros(shape, device=device) for _ in range(self.parts))
