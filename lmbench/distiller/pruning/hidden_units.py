"""Hidden units of recurrent layers: the weights of each, and masks that remove some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lmbench.distiller.errors import DistillerError, did_you_mean
from lmbench.distiller.pruning.structures import EPSILON, Norm
from lmbench.distiller.schedules.arguments import RECURRENT, check_recurrent

RankBy = Literal["rows", "group"]
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


@dataclass(frozen=True)
class RecurrentLayer:
    """One layer of a recurrent module, and the weights that read its output.

    The weights are (gates x hidden, input) and (gates x hidden, hidden); each reader is a matrix
    with a column for each hidden unit.
    """

    name: str
    gates: int
    hidden: int
    weight_ih: str
    weight_hh: str
    readers: tuple[str, ...]


def recurrent_layers(
    model: nn.Module, consumers: Sequence[str] | None = None
) -> dict[str, RecurrentLayer]:
    """Every layer of the model's plain recurrent modules, by ``module.layer``.

    The last layer's readers are ``consumers``, else what the model itself says (`RNNModel`'s
    ``last_readers``), else the only linear layer with as many inputs as the module has units, where
    no other recurrent module could be read by it.
    """
    consumers = consumers or getattr(model, "last_readers", None)
    layers: dict[str, RecurrentLayer] = {}
    linears = {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    recurrent = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.RNNBase)
    }
    for name, module in recurrent.items():
        if module.bidirectional or module.proj_size:
            continue
        prefix = f"{name}." if name else ""
        found = [key for key, lin in linears.items() if lin.in_features == module.hidden_size]
        sure = len(found) == len(recurrent) == 1
        last_readers = tuple(consumers or (found if sure else ()))
        for index in range(module.num_layers):
            last = index == module.num_layers - 1
            layers[f"{prefix}l{index}"] = RecurrentLayer(
                name=f"{prefix}l{index}",
                gates=GATES[module.mode],
                hidden=module.hidden_size,
                weight_ih=f"{prefix}weight_ih_l{index}",
                weight_hh=f"{prefix}weight_hh_l{index}",
                readers=last_readers if last else (f"{prefix}weight_ih_l{index + 1}",),
            )
    return layers


class HiddenUnits:
    """The hidden units of the named recurrent layers as structures.

    Unit ``j`` is row ``j`` of every gate in both weights of its layer, column ``j`` of the
    recurrent weight, and column ``j`` of whatever reads the layer: the next layer, or the decoder.
    With those columns at zero the unit does not reach the output, so `thin` may drop it.

    Args:
        weights: any weight of each layer.
        consumers: what reads the last layer, where it is not found by itself.
        rank_by: what a unit is measured by, its own ``rows`` or its whole ``group``.
    """

    def __init__(
        self,
        weights: Sequence[str],
        consumers: Sequence[str] | None = None,
        rank_by: RankBy = "rows",
    ) -> None:
        self.weights = list(weights)
        self.consumers = consumers
        if rank_by not in get_args(RankBy):
            raise DistillerError(f"rank_by {rank_by!r}; choose {' or '.join(get_args(RankBy))}")
        self.rank_by = rank_by
        self.layers: list[RecurrentLayer] = []
        self.affected: frozenset[str] = frozenset()
        check_recurrent("weights", weights)

    def bind(self, model: nn.Module) -> None:
        """Find the layers in a model."""
        known = recurrent_layers(model, self.consumers)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        chosen: dict[str, RecurrentLayer] = {}
        for weight in self.weights:
            match = RECURRENT.fullmatch(weight)
            assert match is not None
            key = f"{match['prefix']}l{match['layer']}"
            if key not in known:
                raise DistillerError(
                    f"weights: '{weight}' is of no plain recurrent layer (one direction, no "
                    f"proj_size) {did_you_mean(key, known, 'layers')}"
                )
            if not known[key].readers:
                raise DistillerError(
                    f"weights: what reads '{key}' is not known; name its readers: kwargs: "
                    "{consumers: [...]}"
                )
            for name in known[key].readers:
                shape = tuple(parameters[name].shape) if name in parameters else ()
                if shape[1:] != (known[key].hidden,):
                    raise DistillerError(
                        f"kwargs: consumers: '{name}' has no column for each of the "
                        f"{known[key].hidden} units of '{key}'; name a weight that reads them"
                    )
            chosen[key] = known[key]
        self.layers = list(chosen.values())
        self.affected = frozenset(name for layer in self.layers for name in _affected(layer))

    def norms(self, layer: RecurrentLayer, parameters: Mapping[str, Tensor], norm: Norm) -> Tensor:
        """The norm of each unit's own rows over all gates, by their number; shape (hidden)."""
        rows = torch.cat(
            [
                parameters[name].detach().reshape(layer.gates, layer.hidden, -1)
                for name in (layer.weight_ih, layer.weight_hh)
            ],
            dim=2,
        ).abs()
        if norm == "L1":
            return rows.mean(dim=(0, 2))
        if norm == "L2":
            return rows.square().mean(dim=(0, 2)).sqrt()
        return rows.amax(dim=(0, 2))

    def group_norms(self, layer: RecurrentLayer, parameters: Mapping[str, Tensor]) -> Tensor:
        """The Euclidean norm of all that goes with each unit, for a group lasso; shape (hidden).

        Wen and others, "Learning Intrinsic Sparse Structures within Long Short-Term Memory", ICLR
        2018 (arXiv:1709.05027): its rows of every gate, its recurrent column and its column of
        each reader, every weight once.
        """
        weights = {name: parameters[name].square() for name in _affected(layer)}
        gates = (layer.gates, layer.hidden)
        recurrent = weights[layer.weight_hh].reshape(*gates, layer.hidden)
        rows = weights[layer.weight_ih].reshape(*gates, -1).sum((0, 2)) + recurrent.sum((0, 2))
        columns = recurrent.sum((0, 1)) - recurrent.diagonal(dim1=1, dim2=2).sum(0)
        read = torch.stack([weights[name].sum(0) for name in layer.readers]).sum(0)
        # The difference may be a rounding below zero; the gradient at zero stays finite.
        return (rows + columns.clamp(min=0) + read + EPSILON).sqrt()

    def masks(
        self,
        parameters: Mapping[str, Tensor],
        choose: Callable[[Tensor, str], Tensor],
        norm: Norm,
    ) -> dict[str, Tensor]:
        """The mask of every affected parameter.

        Args:
            parameters: all parameters by name, the names of ties included.
            choose: from the norms of a layer's units and its name to True for units to keep.
            norm: how to measure a unit's rows; a whole group is measured by its Euclidean norm.
        """
        masks = {
            name: torch.ones_like(parameters[name], dtype=torch.bool) for name in self.affected
        }
        for layer in self.layers:
            if self.rank_by == "group":
                norms = self.group_norms(layer, parameters).detach()
            else:
                norms = self.norms(layer, parameters, norm)
            keep = choose(norms, layer.name)
            rows = keep.repeat(layer.gates)[:, None]
            masks[layer.weight_ih] &= rows
            masks[layer.weight_hh] &= rows
            for name in (layer.weight_hh, *layer.readers):
                masks[name] &= keep[None, :]
        return masks

    def layer_of(self, name: str) -> str | None:
        """The first layer whose units have rows or columns of a parameter."""
        return next((layer.name for layer in self.layers if name in _affected(layer)), None)


def _affected(layer: RecurrentLayer) -> tuple[str, ...]:
    """The parameters of which a layer's units have rows or columns."""
    return layer.weight_ih, layer.weight_hh, *layer.readers
