"""From `torch.nn`'s recurrent layers to modular ones inside any model, and back."""

from __future__ import annotations

from torch import nn

from lmbench.distiller.modules.cells import (
    DistillerGRUCell,
    DistillerLSTMCell,
    DistillerRNNCell,
    ModularCell,
)
from lmbench.distiller.modules.recurrent import (
    DistillerGRU,
    DistillerLSTM,
    DistillerRNN,
    ModularRecurrent,
)

__all__ = [
    "convert_model_to_distiller_lstm",
    "convert_model_to_modular",
    "convert_model_to_pytorch",
]

_LSTM: dict[type[nn.Module], type[ModularCell] | type[ModularRecurrent]] = {
    nn.LSTM: DistillerLSTM,
    nn.LSTMCell: DistillerLSTMCell,
}
_ALL: dict[type[nn.Module], type[ModularCell] | type[ModularRecurrent]] = {
    **_LSTM,
    nn.GRU: DistillerGRU,
    nn.GRUCell: DistillerGRUCell,
    nn.RNN: DistillerRNN,
    nn.RNNCell: DistillerRNNCell,
}


def convert_model_to_distiller_lstm(model: nn.Module) -> nn.Module:
    """Replaces every `nn.LSTM` and `nn.LSTMCell` of a model by its modular form, in place.

    All else is left alone: dropout around the layers stays, and a decoder tied to an embedding
    stays tied.

    Returns:
        The model, or the modular form of it if it is itself an LSTM.
    """
    return _convert(model, _LSTM)


def convert_model_to_modular(model: nn.Module) -> nn.Module:
    """As `convert_model_to_distiller_lstm`, for LSTM, GRU and Elman layers and cells."""
    return _convert(model, _ALL)


def convert_model_to_pytorch(model: nn.Module) -> nn.Module:
    """Replaces every modular layer and cell by its `torch.nn` form, in place."""
    if isinstance(model, (ModularRecurrent, ModularCell)):
        return model.to_pytorch_impl()
    for name, child in model.named_children():
        setattr(model, name, convert_model_to_pytorch(child))
    return model


def _convert(
    model: nn.Module, forms: dict[type[nn.Module], type[ModularCell] | type[ModularRecurrent]]
) -> nn.Module:
    form = forms.get(type(model))
    if form is not None:
        return form.from_pytorch_impl(model)  # type: ignore[arg-type]
    for name, child in model.named_children():
        setattr(model, name, _convert(child, forms))
    return model
