"""Compression of any ``torch.nn.Module``: pruning by schedule, quantization, reports of both.

It imports nothing else of lmbench. Names load on first use, so that a schedule can be read and
its result predicted without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from lmbench.distiller.compat import install_aliases

install_aliases(__name__)

# The module that defines each public name.
_HOME = {
    name: module
    for module, names in {
        "compat.summary_graph": ("SummaryGraph draw_model_to_file"),
        "errors": ("DistillerError ScheduleError"),
        "knowledge_distillation": (
            "DistillationLossWeights KnowledgeDistillation "
            "KnowledgeDistillationPolicy add_distillation_args distillation_loss"
        ),
        "pruning": (
            "create_mask_level_criterion create_mask_sensitivity_criterion "
            "create_mask_threshold_criterion mask_tensor"
        ),
        "script_helpers": (
            "MutableNamedTuple assign_layer_fq_names convert_tensors_recursively_to "
            "denormalize_module_name filter_kwargs find_module_by_fq_name "
            "float_range_argparse_checker get_nonparallel_clone_model has_children is_scalar "
            "make_non_parallel_copy model_device model_setattr normalize_module_name "
            "optimizer_device_name param_name_2_module_name pretty_int set_deterministic "
            "set_seed size2str to_np yaml_ordered_load yaml_ordered_save "
        ),
        "schedules.agp": ("AgpPruningRate BaiduPruningRate"),
        "pruning.masks": ("MaskDict ParameterMasker create_model_masks_dict mask_gradients"),
        "pruning.regularization": ("GroupLassoRegularizer GroupVarianceRegularizer L1Regularizer"),
        "pruning.sensitivity": (
            "Sensitivity SensitivityPoint Target all_targets analyse_sensitivity "
            "gate_targets model_target perform_sensitivity_analysis point_key "
            "sensitivities_to_csv tensor_targets"
        ),
        "schedules.suggest": ("Suggestion suggest_targets suggestion_to_schedule"),
        "pruning.thresholding": (
            "GroupThresholdMixin expand_binary_map group_threshold_binary_map "
            "group_threshold_mask threshold_mask"
        ),
        "reports.modules_table": (
            "ModuleCost model_summary model_table module_costs modules_table summary_table"
        ),
        "reports.sparsity_tables": (
            "TensorSparsity masks_sparsity_tbl_summary masks_table percentile_table "
            "tensor_sparsity weights_sparsity weights_sparsity_summary "
            "weights_sparsity_table weights_sparsity_tbl_summary"
        ),
        "reports.data_loggers.logger": (
            "log_activation_statistics log_activation_statsitics log_model_buffers "
            "log_training_progress "
            "log_weights_sparsity"
        ),
        "reports.table": ("Column Table"),
        "reports.tensor_sparsity": (
            "density density_2D density_3D density_ch density_cols density_rows "
            "model_find_module model_find_module_name model_find_param "
            "model_find_param_name model_numel "
            "model_params_size model_params_stats model_sparsity non_zero_channels "
            "size_to_str sparsity sparsity_2D "
            "sparsity_3D sparsity_blocks sparsity_ch sparsity_cols sparsity_matrix "
            "sparsity_rows volume"
        ),
        "schedules.build": (
            "build_scheduler config_component_from_file_by_class dict_config "
            "file_config parameter_names"
        ),
        "schedules.checking": (
            "Schedule check_parameters load_schedule parse_schedule schedule_from_dict"
        ),
        "schedules.lr_schedulers": ("MultiStepMultiGammaLR PolynomialLR"),
        "schedules.model_plan": ("ModelWeights plan_for_model"),
        "schedules.nested_state": ("join_state split_state"),
        "schedules.plan": ("SchedulePlan TensorPlan predict_sparsity"),
        "schedules.policies": (
            "LRPolicy LossComponent PolicyLoss PruningPolicy PruningStep "
            "QuantizationPolicy RegularizationPolicy ScheduledTrainingPolicy"
        ),
        "schedules.preset_files": (
            "find_schedule load_preset preset_names preset_path preset_summary"
        ),
        "schedules.scheduler": ("CompressionScheduler"),
    }.items()
    for name in names.split()
}
_PACKAGES = ("compat", "modules", "pruning", "quantization", "reports", "schedules")

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
    # Part of the public surface is defined by the packages themselves, in their __all__.
    for package in ("pruning", "quantization", "modules", "reports.data_loggers"):
        module = importlib.import_module(f".{package}", __name__)
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_PACKAGES})
