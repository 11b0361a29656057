"""What training minimises: from a window of ids to a loss with its gradient."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.model.rnn import Hidden, RNNModel
from lmbench.training.loss import DecoderLoss, sum_nll

__all__ = ["CrossEntropy", "Objective", "window_nll"]


class Objective(Protocol):
    """A loss over one bptt window; may carry a state of its own from window to window."""

    def start_epoch(self, batch_size: int) -> None:
        """The text begins again: forget what is carried."""
        ...

    def __call__(
        self, model: RNNModel, input: Tensor, target: Tensor, hidden: Hidden
    ) -> tuple[Tensor, Tensor, Hidden]:
        """Ids [T, B] and targets [T * B] to (what to minimise, cross-entropy, next state)."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What an exact resume needs of the carried state."""
        ...

    def load_tensors(self, tensors: dict[str, Tensor]) -> None: ...


def is_plain(decoder: nn.Module) -> bool:
    """Can the decoder's product be fused with the loss? Not when a quantizer has wrapped it."""
    return type(decoder) is nn.Linear


class CrossEntropy:
    """The mean cross-entropy in nats a token, fused with the decoder where it is a plain one."""

    def __init__(self, loss: DecoderLoss) -> None:
        self._loss = loss

    def start_epoch(self, batch_size: int) -> None:
        """Nothing is carried."""

    def __call__(
        self, model: RNNModel, input: Tensor, target: Tensor, hidden: Hidden
    ) -> tuple[Tensor, Tensor, Hidden]:
        output, hidden = model.features(input, hidden)  # [T, B, H]
        loss = decoder_loss(self._loss, model.decoder, output, target)
        return loss, loss.detach(), hidden

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Nothing was carried."""


def decoder_loss(loss: DecoderLoss, decoder: nn.Module, output: Tensor, target: Tensor) -> Tensor:
    """The mean cross-entropy of `target` [T * B] given `output` [T, B, H]."""
    flat = output.reshape(-1, output.size(-1))
    if is_plain(decoder):
        assert isinstance(decoder, nn.Linear)
        return loss(flat, decoder.weight, decoder.bias, target)
    return F.cross_entropy(decoder(flat), target)


def window_nll(model: RNNModel, output: Tensor, target: Tensor) -> Tensor:
    """The summed negative log-likelihood (float64) of `target` [T * B] given `output` [T, B, H]."""
    flat = output.reshape(-1, output.size(-1))
    decoder = model.decoder
    if is_plain(decoder):
        return sum_nll(flat, decoder.weight, decoder.bias, target)
    return F.cross_entropy(decoder(flat), target, reduction="sum").double()
