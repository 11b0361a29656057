"""Files as PyTorch's word-language-model example and Distiller save them."""

from __future__ import annotations

import io
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lmbench.distiller.modules import convert_model_to_modular

KINDS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")


def example_class() -> type[nn.Module]:
    """``model.RNNModel`` of the example, in a module that only exists while a file is written."""

    class RNNModel(nn.Module):
        def __init__(self, kind: str, ntoken: int, emsize: int, nhid: int, tied: bool) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.3)
            self.encoder = nn.Embedding(ntoken, emsize)
            if kind in ("LSTM", "GRU"):
                self.rnn: nn.Module = getattr(nn, kind)(emsize, nhid, 2, dropout=0.3)
            else:
                nonlinearity = kind.removeprefix("RNN_").lower()
                self.rnn = nn.RNN(emsize, nhid, 2, nonlinearity=nonlinearity, dropout=0.3)
            self.decoder = nn.Linear(nhid, ntoken)
            if tied:
                self.decoder.weight = self.encoder.weight
            self.rnn_type, self.nhid, self.nlayers = kind, nhid, 2

    RNNModel.__module__, RNNModel.__qualname__ = "model", "RNNModel"
    return RNNModel


def example_model(kind: str = "LSTM", ntoken: int = 19, tied: bool = True) -> Any:
    torch.manual_seed(5)
    return example_class()(kind, ntoken, 8 if tied else 6, 8, tied)


def save(value: Any, path: Path, *, zipped: bool = True, model: Any = None) -> Path:
    """`torch.save`; the class of `model` can be imported meanwhile and not any more then."""
    module = types.ModuleType("model")
    module.RNNModel = type(model if model is not None else value)  # type: ignore[attr-defined]
    sys.modules["model"] = module
    try:
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
    finally:
        del sys.modules["model"]
    return path


def distiller_checkpoint(model: Any, masks: dict[str, torch.Tensor | None]) -> dict[str, Any]:
    """What Distiller's `save_checkpoint` keeps, the LSTM in its modular form."""
    model = convert_model_to_modular(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    return {
        "epoch": 39,
        "arch": "lstm",
        "state_dict": OrderedDict(model.state_dict()),
        "optimizer_state_dict": optimizer.state_dict(),
        "optimizer_type": torch.optim.SGD,
        "compression_sched": {"masks_dict": masks},
        "extras": {"best_loss": 4.5},
    }


def rezipped(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """The file with the members that `change(name, data)` gives."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))
    path.write_bytes(written.getvalue())
    return path
