"""The recurrent language models: embedding, LSTM / GRU / Elman layers, decoder.

Parameter names, the order in which parameters are created and drawn, and the initialisation are
those of PyTorch's word-language-model example, so that a seed gives the same model there and here
and checkpoints move both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.config import ModelConfig
from lmbench.errors import LmbenchError

__all__ = [
    "Hidden",
    "RNNModel",
    "build_model",
    "count_weights",
    "detach",
    "model_of_shape",
    "model_of_tensors",
    "shape_of",
    "shared_names",
]

Hidden = Tensor | tuple[Tensor, Tensor]

# The entries of a model's shape in the order in which `RNNModel` takes them.
_ARGUMENTS = ("model", "ntoken", "emsize", "nhid", "nlayers", "dropout", "tied", "projection")

_INIT_RANGE = 0.1


class RNNModel(nn.Module):
    """Encoder, recurrent layers and decoder over a vocabulary of `ntoken` words.

    Args:
        rnn_type: ``LSTM``, ``GRU``, ``RNN_TANH`` or ``RNN_RELU``.
        ntoken: number of types.
        ninp: width E of the embedding.
        nhid: width H of each recurrent layer.
        nlayers: number L of recurrent layers.
        dropout: on the embedding, between the layers and before the decoder.
        tie_weights: let the decoder use the embedding's matrix (Press & Wolf 2016,
            arXiv 1608.05859); needs E = H, or a projection.
        projection: bring what the decoder sees from H to E by a linear layer without biases.

    Raises:
        LmbenchError: tied with E != H and no projection, or an unknown `rnn_type`.
    """

    def __init__(
        self,
        rnn_type: str,
        ntoken: int,
        ninp: int,
        nhid: int,
        nlayers: int,
        dropout: float = 0.5,
        tie_weights: bool = False,
        projection: bool = False,
    ) -> None:
        super().__init__()
        self.rnn_type = rnn_type
        self.ntoken, self.ninp, self.nhid, self.nlayers = ntoken, ninp, nhid, nlayers
        self.drop = nn.Dropout(dropout)
        # Without values it is not drawn either: on "meta" that alone loads torch.compile, which
        # takes as long as torch.
        on_meta = torch.get_default_device().type == "meta"
        self.encoder = nn.Embedding(
            ntoken, ninp, _weight=torch.empty(ntoken, ninp) if on_meta else None
        )
        self.rnn = _recurrent(rnn_type, ninp, nhid, nlayers, dropout)
        self.decoder = nn.Linear(ninp if projection else nhid, ntoken)
        if tie_weights:
            if self.decoder.in_features != ninp:
                raise LmbenchError(
                    f"tied weights need an embedding as wide as the layers: {ninp} is not {nhid}"
                )
            self.decoder.weight = self.encoder.weight
        self.init_weights()
        # Drawn last: without it all draws are the original's.
        self.projection = nn.Linear(nhid, ninp, bias=False) if projection else None

    @property
    def tied(self) -> bool:
        return self.decoder.weight is self.encoder.weight

    @property
    def decoder_width(self) -> int:
        """Units that the decoder sees: H, or E behind a projection."""
        return self.nhid if self.projection is None else self.ninp

    @property
    def last_readers(self) -> tuple[str, ...]:
        """The weights that the last layer's output is multiplied by."""
        return ("decoder.weight" if self.projection is None else "projection.weight",)

    def init_weights(self) -> None:
        # Tied, the one matrix is drawn twice, as in the original: the seed's later draws agree.
        nn.init.uniform_(self.encoder.weight, -_INIT_RANGE, _INIT_RANGE)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -_INIT_RANGE, _INIT_RANGE)

    def features(self, input: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """What the decoder sees: ids [T, B] and a state to ([T, B, H], the next state); [T, B, E]
        behind a projection."""
        embedded = self.drop(self.encoder(input))  # [T, B, E]
        output, hidden = self.rnn(embedded, hidden)  # [T, B, H]
        return self.projected(self.drop(output)), hidden

    def projected(self, output: Tensor) -> Tensor:
        """The last layer's output [..., H] as the decoder sees it."""
        return output if self.projection is None else self.projection(output)

    def forward(self, input: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """Ids [T, B] and a state to (logits [T, B, V], the next state)."""
        output, hidden = self.features(input, hidden)
        return self.decoder(output), hidden

    def init_hidden(self, bsz: int) -> Hidden:
        """A state of zeros: [L, B, H], for an LSTM a pair of them (hidden, cell)."""
        shape = (self.nlayers, bsz, self.nhid)
        zeros = self.decoder.bias.new_zeros(shape)
        return (zeros, zeros.clone()) if self.rnn_type == "LSTM" else zeros


def _recurrent(rnn_type: str, ninp: int, nhid: int, nlayers: int, dropout: float) -> nn.RNNBase:
    # torch warns about dropout on a single layer, where it has nothing to act on.
    between = dropout if nlayers > 1 else 0.0
    build: Mapping[str, Callable[[], nn.RNNBase]] = {
        "LSTM": lambda: nn.LSTM(ninp, nhid, nlayers, dropout=between),
        "GRU": lambda: nn.GRU(ninp, nhid, nlayers, dropout=between),
        "RNN_TANH": lambda: nn.RNN(ninp, nhid, nlayers, nonlinearity="tanh", dropout=between),
        "RNN_RELU": lambda: nn.RNN(ninp, nhid, nlayers, nonlinearity="relu", dropout=between),
    }
    if rnn_type not in build:
        raise LmbenchError(f"model type '{rnn_type}': use one of {', '.join(build)}")
    return build[rnn_type]()


def build_model(config: ModelConfig, ntoken: int) -> RNNModel:
    """The model that the settings describe, drawn from torch's current generator."""
    return RNNModel(
        config.model,
        ntoken,
        config.emsize,
        config.nhid,
        config.nlayers,
        config.dropout,
        config.tied,
        config.projection,
    )


def shape_of(model: RNNModel) -> dict[str, Any]:
    """A model's shape as a run's record and a packed file have it."""
    return {
        "model": model.rnn_type,
        "emsize": model.ninp,
        "nhid": model.nhid,
        "nlayers": model.nlayers,
        "dropout": model.drop.p,
        "tied": model.tied,
        "projection": model.projection is not None,
        "ntoken": model.ntoken,
    }


def model_of_shape(shape: Mapping[str, Any]) -> RNNModel:
    """A model as a run's record or a packed file describes it, drawn from torch's generator."""
    # Records of earlier versions say nothing of a projection.
    return RNNModel(*({"projection": False, **shape}[name] for name in _ARGUMENTS))


def model_of_tensors(shape: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> RNNModel:
    """A model of this shape with these fp32 tensors as its parameters, tied ones given once."""
    # On "meta" no memory is taken for weights that are replaced at once.
    with torch.device("meta"):
        model = model_of_shape(shape)
    aliases = {alias: tensors[kept] for alias, kept in shared_names(model).items()}
    model.load_state_dict({**tensors, **aliases}, assign=True)
    if shape["tied"]:
        # `assign` makes a parameter of each name.
        model.decoder.weight = model.encoder.weight
    return model


def detach(hidden: Hidden) -> Hidden:
    """The state without its history, so that the gradient stops at the window's start."""
    if isinstance(hidden, Tensor):
        return hidden.detach()
    return hidden[0].detach(), hidden[1].detach()


def shared_names(model: nn.Module) -> dict[str, str]:
    """Names of tied parameters, each with the name under which its tensor is kept."""
    first: dict[int, str] = {}
    shared: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        kept = first.setdefault(id(parameter), name)
        if kept != name:
            shared[name] = kept
    return shared


def count_weights(model: nn.Module) -> tuple[int, int, int]:
    """(weights, non-zero weights, biases), tied weights once."""
    weights = nonzero = biases = 0
    for parameter in model.parameters():
        if parameter.dim() > 1:
            weights += parameter.numel()
            nonzero += int(torch.count_nonzero(parameter))
        else:
            biases += parameter.numel()
    return weights, nonzero, biases
