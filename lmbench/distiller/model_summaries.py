"""The original's module of tables about a model."""

from __future__ import annotations

from .modules_summary import model_summary
from .summary import (
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
