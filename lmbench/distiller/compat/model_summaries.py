"""The original's module of tables about a model."""

from __future__ import annotations

from lmbench.distiller.reports.modules_table import model_summary
from lmbench.distiller.reports.sparsity_tables import (
    masks_sparsity_tbl_summary,
    weights_sparsity_summary,
    weights_sparsity_tbl_summary,
)

__all__ = [
    "masks_sparsity_tbl_summary",
    "model_summary",
    "weights_sparsity_summary",
    "weights_sparsity_tbl_summary",
]
