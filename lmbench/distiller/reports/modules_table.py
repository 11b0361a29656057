"""The modules of a model with their weights and multiply-accumulates, and the model as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.reports.sparsity_tables import percentile_table, weights_sparsity_table
from lmbench.distiller.reports.table import Column, Table, whole
from lmbench.distiller.reports.tensor_sparsity import count_nonzero


@dataclass(frozen=True)
class ModuleCost:
    """A module that holds parameters of its own.

    ``macs`` are the multiply-accumulates for one token; ``nonzero_macs`` those whose weight is
    not zero. An embedding only looks up, so it has none. None for another kind of module.
    ``tied_to`` is the first name of a weight that it shares.
    """

    name: str
    kind: str
    weights: int
    biases: int
    nonzero: int
    macs: int | None
    nonzero_macs: int | None
    tied_to: str | None


def module_costs(model: nn.Module) -> list[ModuleCost]:
    """Every module with parameters of its own, in the model's order; ties count at the first."""
    first: dict[int, str] = {}
    costs = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        weights = biases = nonzero = 0
        tied_to = None
        for key, param in own.items():
            full = f"{name}.{key}" if name else key
            owner = first.setdefault(id(param), full)
            if owner != full:
                tied_to = owner
            elif param.dim() > 1:
                weights += param.numel()
                nonzero += count_nonzero(param)
            else:
                biases += param.numel()
        costs.append(
            ModuleCost(
                name or "model",
                type(module).__name__,
                weights,
                biases,
                nonzero,
                *_macs(module),
                tied_to,
            )
        )
    return costs


def _macs(module: nn.Module) -> tuple[int, int] | tuple[None, None]:
    """Multiply-accumulates of a token, in all and with a non-zero weight; no biases."""
    if isinstance(module, nn.Embedding):
        return 0, 0
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase, nn.Linear)):
        return None, None
    found = [p for key, p in module.named_parameters() if key.startswith("weight")]
    return sum(p.numel() for p in found), sum(count_nonzero(p) for p in found)


def modules_table(model: nn.Module) -> Table:
    """`module_costs` as a table with totals."""
    costs = module_costs(model)

    def total(values: list[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return Table(
        "Modules",
        (
            Column("name", "Name"),
            Column("kind", "Type"),
            Column("weights", "Weights", whole),
            Column("biases", "Biases", whole),
            Column("nonzero", "Non-zero", whole),
            Column("macs", "MACs/token", whole),
            Column("nonzero_macs", "Non-zero MACs", whole),
            Column("tied_to", "Tied to"),
        ),
        tuple(
            (c.name, c.kind, c.weights, c.biases, c.nonzero, c.macs, c.nonzero_macs, c.tied_to)
            for c in costs
        ),
        (
            "Total",
            None,
            sum(c.weights for c in costs),
            sum(c.biases for c in costs),
            sum(c.nonzero for c in costs),
            total([c.macs for c in costs]),
            total([c.nonzero_macs for c in costs]),
            None,
        ),
    )


def model_table(model: nn.Module) -> Table:
    """The model in one column: weights, biases, non-zero weights, bytes, MACs a token."""
    costs = module_costs(model)
    weights, biases = sum(c.weights for c in costs), sum(c.biases for c in costs)
    nonzero = sum(c.nonzero for c in costs)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    values: list[tuple[str, int]] = [
        ("weights", weights),
        ("non-zero weights", nonzero),
        ("biases", biases),
        ("bytes of parameters", size),
        ("MACs a token", sum(c.macs or 0 for c in costs)),
        ("non-zero MACs a token", sum(c.nonzero_macs or 0 for c in costs)),
    ]
    return Table("Model", (Column("what", "What"), Column("count", "Count", whole)), tuple(values))


def summary_table(model: nn.Module, what: str, gross: bool = False) -> Table:
    """The table that ``lmbench summary --kind`` names.

    Args:
        model: any module.
        what: ``sparsity``, ``percentile``, ``modules`` or ``model``.
        gross: for ``sparsity``; see `weights_sparsity_table`.

    Raises:
        DistillerError: for another kind.
    """
    with torch.no_grad():
        if what == "sparsity":
            return weights_sparsity_table(model, gross)
        if what == "percentile":
            return percentile_table(model)
        if what == "modules":
            return modules_table(model)
        if what == "model":
            return model_table(model)
    raise DistillerError(f"unknown summary {what!r}; choose sparsity, percentile, modules or model")


def model_summary(model: nn.Module, what: str, dataset: str | None = None) -> Table:
    """Print `summary_table` and return it.

    ``dataset`` is accepted, as the original has it; the shapes are in the model. Raises as there.
    """
    table = summary_table(model, what)
    print(table)
    return table
