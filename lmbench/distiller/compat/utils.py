"""``distiller.utils``."""

from lmbench.distiller.reports.data_loggers.logger import (
    log_activation_statistics,
    log_activation_statsitics,
    log_training_progress,
    log_weights_sparsity,
)
from lmbench.distiller.reports.tensor_sparsity import (
    density,
    density_2D,
    density_3D,
    density_ch,
    density_cols,
    density_rows,
    model_find_module,
    model_find_module_name,
    model_find_param,
    model_find_param_name,
    model_numel,
    model_sparsity,
    size_to_str,
    sparsity,
    sparsity_2D,
    sparsity_3D,
    sparsity_blocks,
    sparsity_ch,
    sparsity_cols,
    sparsity_matrix,
    sparsity_rows,
    volume,
)
from lmbench.distiller.script_helpers import (
    has_children,
    model_device,
    normalize_module_name,
    pretty_int,
    set_deterministic,
    set_seed,
    size2str,
    to_np,
)
