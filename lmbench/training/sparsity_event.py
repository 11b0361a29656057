"""The sparsity of a model as an event: what the workbench's layers table shows live."""

from __future__ import annotations

from torch import nn

from lmbench.distiller.reports.sparsity_tables import tensor_sparsity
from lmbench.session.events import Sparsity

__all__ = ["sparsity_event"]


def sparsity_event(model: nn.Module, step: int, epoch: int) -> Sparsity:
    """Rows of the weights table for each weight of two or more dimensions, tied ones once."""
    found = [tensor_sparsity(n, w) for n, w in model.named_parameters() if w.dim() > 1]
    parameters, nonzero = sum(t.nnz_dense for t in found), sum(t.nnz for t in found)
    rows = (
        {"name": t.name, "shape": list(t.shape), "dense": t.nnz_dense, "nnz": t.nnz}
        | {key: getattr(t, key) for key in ("fine", "rows", "cols", "std", "mean", "abs_mean")}
        for t in found
    )
    return Sparsity(
        step=step,
        epoch=epoch,
        tensors=tuple(rows),
        parameters=parameters,
        nonzero=nonzero,
        total=1.0 - nonzero / parameters,
    )
