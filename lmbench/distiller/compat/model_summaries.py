"""``distiller.model_summaries``."""

from lmbench.distiller.compat.summary_graph import draw_model_to_file
from lmbench.distiller.reports.modules_table import model_summary
from lmbench.distiller.reports.sparsity_tables import (
    masks_sparsity_tbl_summary,
    weights_sparsity_summary,
    weights_sparsity_tbl_summary,
)
