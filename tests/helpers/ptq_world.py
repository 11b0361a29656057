"""The tiny trained model of the vectors, and how its loss is measured there."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from places import VECTORS
from torch import Tensor, nn
from torch.nn import functional as F

from lmbench.distiller.modules import DistillerLSTM

BATCH, BPTT = 10, 35


class LanguageModel(nn.Module):
    """Embedding, recurrent layers, decoder: nothing of lmbench but its state dict's names."""

    def __init__(
        self, words: int, width: int, layers: int, kind: type[nn.RNNBase] = nn.LSTM, **options: Any
    ) -> None:
        super().__init__()
        self.encoder = nn.Embedding(words, width)
        self.rnn: nn.Module = kind(width, width, layers, **options)  # type: ignore[arg-type]
        self.decoder = nn.Linear(width, words)

    def forward(self, ids: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        output, hidden = self.rnn(self.encoder(ids), hidden)
        return self.decoder(output), hidden


def part(model: nn.Module, name: str) -> Any:
    """A module by name, its wrapper's attributes unchecked."""
    return model.get_submodule(name)


def tie(model: LanguageModel) -> LanguageModel:
    model.decoder.weight = model.encoder.weight
    return model


def tiny_weights(arrays: Any) -> LanguageModel:
    """The vectors' model with torch's own LSTM, untied."""
    model = LanguageModel(97, 24, 2)
    weights = {
        name[2:]: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith("w/")
    }
    model.load_state_dict({**weights, "decoder.weight": weights["encoder.weight"]})
    return model


def load_tiny(arrays: Any, tied: bool = False) -> LanguageModel:
    """The vectors' model, modular; untied copies as the original converts."""
    model = tiny_weights(arrays)
    assert isinstance(model.rnn, nn.LSTM)
    model.rnn = DistillerLSTM.from_pytorch_impl(model.rnn)
    return (tie(model) if tied else model).eval()


def batchify(tokens: Any, batch: int = BATCH) -> Tensor:
    ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64))
    rows = len(ids) // batch
    return ids[: rows * batch].view(batch, rows).t().contiguous()


@torch.no_grad()
def mean_loss(model: nn.Module, data: Tensor, bptt: int = BPTT) -> float:
    """The original's loss: the sum of (rows of a window) x (its mean loss), over all rows."""
    hidden, total = None, 0.0
    for start in range(0, len(data) - 1, bptt):
        rows = min(bptt, len(data) - 1 - start)
        logits, hidden = model(data[start : start + rows], hidden)
        target = data[start + 1 : start + 1 + rows].reshape(-1)
        total += rows * float(F.cross_entropy(logits.reshape(len(target), -1), target))
    return total / len(data)


def perplexity(model: nn.Module, data: Tensor) -> float:
    """exp of the true mean over every predicted token."""
    return math.exp(mean_loss(model, data) * len(data) / (len(data) - 1))


def runner(data: Tensor, bptt: int = BPTT) -> Any:
    """One pass over data, as calibration wants it."""

    def run(model: nn.Module) -> None:
        mean_loss(model, data, bptt)

    return run


def read_vectors() -> tuple[dict[str, Any], Any]:
    text = (VECTORS / "ptq_tiny.json").read_text(encoding="utf-8")
    return json.loads(text), np.load(VECTORS / "ptq_tiny.npz")
