"""Tables of a model's weights: sparsity, masks, percentiles of the magnitudes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lmbench.distiller.reports.table import Column, Table, decimal, percent, whole
from lmbench.distiller.reports.tensor_sparsity import (
    count_nonzero,
    size_to_str,
    sparsity_2D,
    sparsity_3D,
    sparsity_ch,
    sparsity_cols,
    sparsity_rows,
)

if TYPE_CHECKING:
    from lmbench.distiller.schedules.scheduler import CompressionScheduler

WEIGHT_DIMS = (2, 4)
PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0)

_WEIGHT_COLUMNS = (
    Column("name", "Name"),
    Column("shape", "Shape"),
    Column("nnz_dense", "NNZ (dense)", whole),
    Column("nnz", "NNZ (sparse)", whole),
    Column("cols", "Cols (%)", percent),
    Column("rows", "Rows (%)", percent),
    Column("ch", "Ch (%)", percent),
    Column("sparsity_2d", "2D (%)", percent),
    Column("sparsity_3d", "3D (%)", percent),
    Column("fine", "Fine (%)", percent),
    Column("std", "Std", decimal),
    Column("mean", "Mean", decimal),
    Column("abs_mean", "Abs-Mean", decimal),
)


@dataclass(frozen=True)
class TensorSparsity:
    """A weight in numbers; percentages from 0 to 100, ``rows`` of all-zero rows and so on.

    ``std`` is the unbiased deviation, None for a single element.
    """

    name: str
    shape: tuple[int, ...]
    nnz_dense: int
    nnz: int
    cols: float
    rows: float
    ch: float
    sparsity_2d: float
    sparsity_3d: float
    fine: float
    std: float | None
    mean: float
    abs_mean: float


@torch.no_grad()
def tensor_sparsity(name: str, tensor: Tensor) -> TensorSparsity:
    """Measure one weight."""
    tensor = tensor.detach()
    numel, nonzero = tensor.numel(), count_nonzero(tensor)
    return TensorSparsity(
        name=name,
        shape=tuple(tensor.shape),
        nnz_dense=numel,
        nnz=nonzero,
        cols=100 * sparsity_cols(tensor, transposed=False),
        rows=100 * sparsity_rows(tensor, transposed=False),
        ch=100 * sparsity_ch(tensor),
        sparsity_2d=100 * sparsity_2D(tensor),
        sparsity_3d=100 * sparsity_3D(tensor),
        fine=100 * (1 - nonzero / numel) if numel else 0.0,
        std=float(tensor.std()) if numel > 1 else None,
        mean=float(tensor.mean()),
        abs_mean=float(tensor.abs().mean()),
    )


def weights_of(
    model: nn.Module, param_dims: Sequence[int] = WEIGHT_DIMS, gross: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """The parameters with so many dimensions; ties once, or under every name when ``gross``."""
    for name, param in model.named_parameters(remove_duplicate=not gross):
        if param.dim() in param_dims:
            yield name, param


def weights_sparsity(
    model: nn.Module, param_dims: Sequence[int] = WEIGHT_DIMS, gross: bool = False
) -> list[TensorSparsity]:
    """`tensor_sparsity` of every weight."""
    return [tensor_sparsity(name, param) for name, param in weights_of(model, param_dims, gross)]


def weights_sparsity_table(
    model: nn.Module, gross: bool = False, param_dims: Sequence[int] = WEIGHT_DIMS
) -> Table:
    """The weights, how sparse each one is, and the total.

    Args:
        model: any module.
        gross: the original's way: tied weights under each of their names and counted as often,
            "Cols" that count rows and "Rows" that count columns, and a non-zero count that may
            lose one to rounding.
        param_dims: which numbers of dimensions count; biases have one and are left out.
    """
    rows = weights_sparsity(model, param_dims, gross)
    dense = sum(row.nnz_dense for row in rows)
    if gross:
        sparse = sum(row.nnz_dense * (row.nnz / float(row.nnz_dense)) for row in rows)
        fine = (1 - sparse / dense) * 100 if dense else 0.0
        return Table(
            "Weights (gross)",
            _WEIGHT_COLUMNS,
            tuple(_gross_row(row) for row in rows),
            ("Total sparsity:", "-", dense, int(sparse), *[0.0] * 5, fine, 0.0, 0.0, 0.0),
        )
    nonzero = sum(row.nnz for row in rows)
    fine = 100 * (1 - nonzero / dense) if dense else 0.0
    return Table(
        "Weights",
        _WEIGHT_COLUMNS,
        tuple(_row(row) for row in rows),
        ("Total", None, dense, nonzero, *[None] * 5, fine, None, None, None),
    )


def _row(row: TensorSparsity) -> tuple[Any, ...]:
    """The columns in their order, which is that of the fields."""
    name, shape, *numbers = astuple(row)
    return (name, size_to_str(torch.Size(shape)), *numbers)


def _gross_row(row: TensorSparsity) -> tuple[Any, ...]:
    density = row.nnz / float(row.nnz_dense)
    cells = list(_row(row))
    cells[3] = int(density * row.nnz_dense)
    cells[4], cells[5] = row.rows, row.cols
    cells[9] = (1 - density) * 100
    return tuple(cells)


def weights_sparsity_summary(
    model: nn.Module,
    return_total_sparsity: bool = False,
    param_dims: Sequence[int] = WEIGHT_DIMS,
    gross: bool = False,
) -> Table | tuple[Table, float]:
    """`weights_sparsity_table`, with the total sparsity in percent on demand."""
    table = weights_sparsity_table(model, gross, param_dims)
    assert table.total is not None
    return (table, float(table.total[9] or 0)) if return_total_sparsity else table


def weights_sparsity_tbl_summary(
    model: nn.Module,
    return_total_sparsity: bool = False,
    param_dims: Sequence[int] = WEIGHT_DIMS,
    gross: bool = False,
) -> str | tuple[str, float]:
    """`weights_sparsity_summary` as text."""
    table = weights_sparsity_table(model, gross, param_dims)
    assert table.total is not None
    text = table.to_text()
    return (text, float(table.total[9] or 0)) if return_total_sparsity else text


def masks_table(masks: CompressionScheduler | Mapping[str, Tensor | None]) -> Table:
    """The mask of every parameter that has one: what it prunes, in weights, rows and columns.

    Args:
        masks: a scheduler, or the ``masks_dict`` of its state.
    """
    if not isinstance(masks, Mapping):
        masks = {masker.param_name: masker.mask for masker in masks.zeros_mask_dict.values()}
    rows = []
    for name, mask in masks.items():
        if mask is not None:
            kept = int(mask.sum())
            rows.append(
                (
                    name,
                    size_to_str(mask.shape),
                    mask.numel(),
                    mask.numel() - kept,
                    100 * sparsity_cols(mask, transposed=False),
                    100 * sparsity_rows(mask, transposed=False),
                    100 * (1 - kept / mask.numel()),
                )
            )
    numel, pruned = sum(row[2] for row in rows), sum(row[3] for row in rows)
    share = 100 * pruned / numel if numel else 0.0
    return Table(
        "Masks",
        (
            Column("name", "Name"),
            Column("shape", "Shape"),
            Column("numel", "Weights", whole),
            Column("pruned", "Pruned", whole),
            Column("cols", "Cols (%)", percent),
            Column("rows", "Rows (%)", percent),
            Column("fine", "Fine (%)", percent),
        ),
        tuple(rows),
        ("Total", None, numel, pruned, None, None, share),
    )


def masks_sparsity_tbl_summary(model: nn.Module, scheduler: CompressionScheduler) -> str:
    """`masks_table` as text."""
    return masks_table(scheduler).to_text()


@torch.no_grad()
def percentile_table(
    model: nn.Module,
    percentiles: Sequence[float] = PERCENTILES,
    param_dims: Sequence[int] = WEIGHT_DIMS,
) -> Table:
    """The percentiles of each weight's magnitudes; the 90th is the ``q`` of the Baidu pruner.

    The p-th percentile is the smallest magnitude that at least p percent do not exceed.
    """
    rows = []
    for name, param in weights_of(model, param_dims):
        ordered = param.detach().abs().reshape(-1).sort().values
        ranks = [max(1, -int(-p * ordered.numel() // 100)) for p in percentiles]
        rows.append((name, *(float(ordered[rank - 1]) for rank in ranks)))
    columns = tuple(Column(f"p{p:g}", f"{p:g}%", decimal) for p in percentiles)
    return Table("Percentiles of |w|", (Column("name", "Name"), *columns), tuple(rows))
