"""From `torch.nn`'s recurrent layers to modular ones inside any model, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from lmbench.distiller.modules.cells import (
    DistillerGRUCell,
    DistillerLSTMCell,
    DistillerRNNCell,
    LikeTorch,
)
from lmbench.distiller.modules.recurrent import DistillerGRU, DistillerLSTM, DistillerRNN

__all__ = [
    "convert_model_to_distiller_lstm",
    "convert_model_to_modular",
    "convert_model_to_pytorch",
]

_LSTM: dict[type[nn.Module], type[LikeTorch]] = {
    nn.LSTM: DistillerLSTM,
    nn.LSTMCell: DistillerLSTMCell,
}
_ALL: dict[type[nn.Module], type[LikeTorch]] = {
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
    return _changed(model, lambda m: m.to_pytorch_impl() if isinstance(m, LikeTorch) else m)


def _convert(model: nn.Module, forms: Mapping[type[nn.Module], type[LikeTorch]]) -> nn.Module:
    def modular(module: nn.Module) -> nn.Module:
        form = forms.get(type(module))
        return form.from_pytorch_impl(module) if form else module

    return _changed(model, modular)


def _changed(model: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Changes a module or, where that changes nothing, what is in it. One that stands in several
    places is changed once and stands in all of them again."""
    done: dict[nn.Module, nn.Module] = {}

    def visit(module: nn.Module) -> nn.Module:
        if module not in done:
            done[module] = change(module)
            if done[module] is module:
                # Not named_children, which leaves out the second name of a shared module.
                for name, child in list(module._modules.items()):
                    if child is not None:
                        setattr(module, name, visit(child))
        return done[module]

    return visit(model)
