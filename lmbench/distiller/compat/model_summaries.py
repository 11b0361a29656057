"""``distiller.model_summaries``."""

from lmbench.distiller.reports.modules_table import model_summary
from lmbench.distiller.reports.sparsity_tables import (
    masks_sparsity_tbl_summary,
    weights_sparsity_summary,
    weights_sparsity_tbl_summary,
)
