"""AWD-LSTM's regularisation of a training's forward pass (Merity et al. 2018, arXiv 1708.02182).

The model stays the plain one: masks are drawn for a window, act on it and are gone. What is dropped
is dropped from the values that the pass works with, so a weight that pruning has made zero stays
zero under any mask, and a quantizer's image is made before a mask falls on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.config import TrainConfig
from lmbench.model.rnn import RNNModel

__all__ = ["OFF", "Regularisation", "at_least_fp32", "torch_layer"]


@dataclass(frozen=True)
class Regularisation:
    """The settings of these names, all off by default; see `lmbench.config.TrainConfig`.

    Each mask is drawn from torch's current generator as the pass comes by: words, embedded words,
    then for each layer the mask of its input (from the second on) and of its recurrent weights,
    and the output's at last. What is kept is scaled by 1 / (1 - p).
    """

    dropouti: float | None = None
    dropouth: float | None = None
    dropouto: float | None = None
    dropoute: float = 0.0
    wdrop: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig) -> Regularisation:
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    @property
    def inside_layers(self) -> bool:
        """Does it act where `torch.nn.LSTM` by itself lets nothing in?"""
        return self.dropouth is not None or self.wdrop > 0.0

    def embedded(self, model: RNNModel, words: Tensor, input: Tensor) -> Tensor:
        """What the layers are given for the embedded words [T, B, E] of ids [T, B]."""
        if self.dropoute:
            # Of the whole vocabulary: a word is dropped everywhere in the window, or nowhere.
            kept = F.dropout(words.new_ones(model.ntoken), self.dropoute)  # [V]
            words = words * kept[input].unsqueeze(2)
        return _locked(words, self.dropouti, model.drop)

    def between(self, output: Tensor, dropout: Callable[[Tensor], Tensor]) -> Tensor:
        """A layer's output [T, B, H] as the next one is given it; `dropout` is the model's own."""
        return _locked(output, self.dropouth, dropout)

    def recurrent(self, weight: Tensor) -> Tensor:
        """The recurrent weights of a layer for a window, DropConnect's way."""
        return F.dropout(weight, self.wdrop) if self.wdrop else weight

    def output(self, model: RNNModel, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        """The last layer's output [T, B, H] with what is dropped of it, and what the two
        regularisers of activations add to the loss: a scalar, or None where neither is on."""
        dropped = _locked(raw, self.dropouto, model.drop)
        terms: list[Tensor] = []
        if self.alpha:
            terms.append(self.alpha * at_least_fp32(dropped).pow(2).mean())
        if self.beta and len(raw) > 1:
            terms.append(self.beta * at_least_fp32(raw).diff(dim=0).pow(2).mean())
        return dropped, torch.stack(terms).sum() if terms else None


OFF = Regularisation()
"""Nothing but the model's own dropout, by the operations of `RNNModel.features`."""


def _locked(x: Tensor, p: float | None, otherwise: Callable[[Tensor], Tensor]) -> Tensor:
    """x [T, B, N] with the same units of a text dropped at all steps, known as variational or
    locked dropout (Gal & Ghahramani 2016, arXiv 1512.05287)."""
    if p is None:
        return otherwise(x)
    return x * F.dropout(torch.ones_like(at_least_fp32(x[:1])), p)  # times [1, B, N]


def at_least_fp32(x: Tensor) -> Tensor:
    """x, widened where it is narrower: in bf16 the scale of a mask would be rounded to three
    digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def torch_layer(
    mode: str,
    training: bool,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer by torch's own kernel: [T, B, E] to [T, B, H] and the last state.

    Args:
        mode: as `torch.nn.RNNBase` has it: LSTM, GRU, RNN_TANH or RNN_RELU.
        state: [B, H]; hidden and cell of an LSTM.
        weights: of the input, of the state, and their biases.
    """
    given: Any = tuple(part.unsqueeze(0) for part in state)
    call: Any = getattr(torch, mode.lower())
    with warnings.catch_warnings():
        # cuDNN wants all weights in one piece, which those under a mask are not: it copies them.
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        output, *last = call(
            x,
            given if mode == "LSTM" else given[0],
            weights,
            True,  # with biases
            1,  # layer
            0.0,  # dropout
            training,
            False,  # not bidirectional
            False,  # nor batch first
        )
    return output, tuple(part.squeeze(0) for part in last)
