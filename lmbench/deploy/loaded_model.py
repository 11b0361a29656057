"""A model that is ready to run, wherever it was loaded from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmbench.deploy.recurrent_weights import GATES, RecurrentWeights
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel

__all__ = ["Loaded", "expected_tensors"]


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, and the words it speaks."""

    model: nn.Module
    """In eval mode, on the device that was asked for; nothing of it asks for a gradient."""

    vocabulary: list[str]
    """Words in order of id; empty for a bare file of weights, which knows none."""

    shape: Mapping[str, Any]
    """As in a run's record: model, emsize, nhid, nlayers, dropout, tied, ntoken."""

    title: str
    """What to call it on screen: ``SESSION/003-train`` or a file's name."""

    path: Path
    """The folder of the checkpoint, or the file."""

    @property
    def plain(self) -> bool:
        """Is it an ordinary float model, whose weights a runtime may take and lay out anew?

        A model whose modules a quantizer has wrapped has to be run as it is.
        """
        model = self.model
        return (
            type(model) is RNNModel
            and type(model.encoder) is nn.Embedding
            and type(model.rnn) in (nn.LSTM, nn.GRU, nn.RNN)
            and type(model.decoder) is nn.Linear
        )

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def recurrent(self) -> RNNModel:
        """The model, where it is a plain one."""
        if not isinstance(self.model, RNNModel) or not self.plain:
            raise LmbenchError(
                f"{self.title}: a quantizer has wrapped its modules, so there are no plain weights "
                "to take; use --runtime naive"
            )
        return self.model

    @cached_property
    def weights(self) -> RecurrentWeights:
        """The tensors of a plain model."""
        return RecurrentWeights.of(self.recurrent)


def expected_tensors(
    kind: str, ntoken: int, emsize: int, nhid: int, nlayers: int, *, tied: bool
) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that a file must have, known before anything is built."""
    if kind not in GATES:
        raise LmbenchError(f"model type '{kind}': use one of {', '.join(GATES)}")
    rows = GATES[kind] * nhid
    names: dict[str, tuple[int, ...]] = {"encoder.weight": (ntoken, emsize)}
    for i in range(nlayers):
        names[f"rnn.weight_ih_l{i}"] = (rows, nhid if i else emsize)
        names[f"rnn.weight_hh_l{i}"] = (rows, nhid)
        names[f"rnn.bias_ih_l{i}"] = names[f"rnn.bias_hh_l{i}"] = (rows,)
    if not tied:
        names["decoder.weight"] = (ntoken, nhid)
    names["decoder.bias"] = (ntoken,)
    return names
