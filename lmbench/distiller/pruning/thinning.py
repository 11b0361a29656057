"""Pruned hidden units removed: a smaller dense model with the same outputs."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.pruning.hidden_units import RecurrentLayer, recurrent_layers

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Attributes by which a model remembers its own widths, for its initial state.
_HIDDEN_ATTRIBUTES = ("nhid", "hidden_size")
_INPUT_ATTRIBUTES = ("ninp", "emsize", "embedding_dim", "input_size")


def removable_units(layer: RecurrentLayer, parameters: dict[str, Tensor]) -> Tensor:
    """True for the units that nothing reads; shape (hidden).

    Such a unit has a zero column in the recurrent weight and in every reader, so whatever it
    computes does not reach the output.
    """
    unread = torch.ones(layer.hidden, dtype=torch.bool)
    if not layer.readers:
        return ~unread
    for name in (layer.weight_hh, *layer.readers):
        if name not in parameters:
            raise DistillerError(f"thin: reader '{name}' of '{layer.name}' is not a parameter")
        unread &= (parameters[name].detach() == 0).all(dim=0).cpu()
    return unread


@torch.no_grad()
def thin(
    model: ModuleT,
    consumers: list[str] | None = None,
    kept_rows: dict[str, Tensor] | None = None,
) -> ModuleT:
    """A copy of ``model`` without the hidden units that nothing reads.

    All layers of a recurrent module share one width, so it becomes the largest number of units
    that a layer still needs; prune all its layers by the same share to lose nothing. When the
    decoder is tied to the embedding and reads the layers itself, the embedding loses the columns of
    the last layer's units too, and stays tied.

    Args:
        model: any module with plain ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` modules.
        consumers: what reads their last layer, when that is not a linear layer of the same width.
        kept_rows: is given, by parameter, the rows that stay of each weight that loses some.

    Returns:
        The smaller model, in the same dtype and on the same device. Its outputs equal the
        original's up to the rounding of shorter sums.
    """
    model = copy.deepcopy(model)
    layers = recurrent_layers(model, consumers)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.RNNBase):
            prefix = f"{name}." if name else ""
            keys = [f"{prefix}l{index}" for index in range(module.num_layers)]
            own = [layers[key] for key in keys if key in layers]
            if own:
                _thin_module(model, name, module, own, {} if kept_rows is None else kept_rows)
    return model


def _thin_module(
    model: nn.Module,
    name: str,
    module: nn.RNNBase,
    layers: list[RecurrentLayer],
    kept_rows: dict[str, Tensor],
) -> None:
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    unread = [removable_units(layer, parameters) for layer in layers]
    width = max(1, *(int((~units).sum()) for units in unread))
    if width == module.hidden_size:
        return
    chosen = [_choose(units, width) for units in unread]
    readers = layers[-1].readers
    weights = [parameters[name] for name in readers]
    inputs = torch.arange(module.input_size)
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    if embedded & {id(weight) for weight in weights}:
        if module.input_size != module.hidden_size:
            raise DistillerError(f"thin: '{name}' is tied but its input is not as wide as itself")
        inputs = chosen[-1]
    smaller = _new_module(module, len(inputs), width)
    smaller.train(module.training)
    for index, layer in enumerate(layers):
        rows = torch.cat([chosen[index] + gate * layer.hidden for gate in range(layer.gates)])
        kept_rows |= {layer.weight_ih: rows, layer.weight_hh: rows}
        columns = inputs if index == 0 else chosen[index - 1]
        for key, picked in (("ih", columns), ("hh", chosen[index])):
            weight = getattr(module, f"weight_{key}_l{index}")
            getattr(smaller, f"weight_{key}_l{index}").copy_(
                weight[rows.to(weight.device)][:, picked.to(weight.device)]
            )
            if module.bias:
                bias = getattr(module, f"bias_{key}_l{index}")
                getattr(smaller, f"bias_{key}_l{index}").copy_(bias[rows.to(bias.device)])
    for key, weight in smaller.named_parameters():
        weight.requires_grad_(module.get_parameter(key).requires_grad)
    _replace(model, name, smaller)
    for weight in dict.fromkeys(weights):
        _narrow(model, weight, chosen[-1])
    _update_widths(model, name, module, smaller)


def _new_module(module: nn.RNNBase, inputs: int, width: int) -> nn.RNNBase:
    arguments: dict[str, Any] = {
        "bias": module.bias,
        "batch_first": module.batch_first,
        "dropout": module.dropout,
    }
    if isinstance(module, nn.RNN):
        arguments["nonlinearity"] = module.nonlinearity
    kind: Any = type(module)
    weight = module.get_parameter("weight_hh_l0")
    return kind(inputs, width, module.num_layers, **arguments).to(weight.device, weight.dtype)


def _choose(unread: Tensor, width: int) -> Tensor:
    """The ``width`` units to keep: all that are read, filled up with others, in order."""
    order = torch.argsort(unread.to(torch.int8), stable=True)
    return order[:width].sort().values


def _narrow(model: nn.Module, weight: Tensor, picked: Tensor) -> None:
    """Leave the picked columns of a weight in every layer that it is tied to."""
    columns = weight[:, picked.to(weight.device)].clone()
    narrow = nn.Parameter(columns, requires_grad=weight.requires_grad)
    for name, param in list(model.named_parameters(remove_duplicate=False)):
        if param is weight:
            owner = model.get_submodule(name.rpartition(".")[0])
            if not isinstance(owner, nn.Linear | nn.Embedding):
                kind = type(owner).__name__
                raise DistillerError(f"thin: '{name}' belongs to a {kind}, not a Linear")
            owner.weight = narrow
            width = "in_features" if isinstance(owner, nn.Linear) else "embedding_dim"
            setattr(owner, width, len(picked))


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    if not name:
        raise DistillerError("thin: the model is a bare recurrent module, which nothing reads")
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _update_widths(model: nn.Module, name: str, old: nn.RNNBase, new: nn.RNNBase) -> None:
    parent = model.get_submodule(name.rpartition(".")[0])
    for owner in {id(model): model, id(parent): parent}.values():
        for attributes, was, now in (
            (_HIDDEN_ATTRIBUTES, old.hidden_size, new.hidden_size),
            (_INPUT_ATTRIBUTES, old.input_size, new.input_size),
        ):
            for attribute in attributes:
                if vars(owner).get(attribute) == was:
                    setattr(owner, attribute, now)
