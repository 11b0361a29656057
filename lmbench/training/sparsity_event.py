"""The sparsity of a model as an event: what the workbench's layers table shows live."""

from __future__ import annotations

import torch
from torch import nn

from lmbench.distiller.reports.tensor_sparsity import sparsity_cols, sparsity_rows
from lmbench.session.events import Sparsity

__all__ = ["sparsity_event"]


@torch.no_grad()
def sparsity_event(model: nn.Module, step: int, epoch: int) -> Sparsity:
    """Rows of the weights table for each weight of two or more dimensions, tied ones once."""
    rows, parameters, nonzero = [], 0, 0
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            continue
        dense, nnz = weight.numel(), int(torch.count_nonzero(weight))
        parameters += dense
        nonzero += nnz
        rows.append(
            {
                "name": name,
                "shape": list(weight.shape),
                "dense": dense,
                "nnz": nnz,
                "fine": 100.0 * (1.0 - nnz / dense),
                "rows": 100.0 * sparsity_rows(weight, transposed=False),
                "cols": 100.0 * sparsity_cols(weight, transposed=False),
                "std": float(weight.std()),
                "mean": float(weight.mean()),
                "abs_mean": float(weight.abs().mean()),
            }
        )
    return Sparsity(
        step=step,
        epoch=epoch,
        tensors=tuple(rows),
        parameters=parameters,
        nonzero=nonzero,
        total=1.0 - nonzero / parameters,
    )
