"""Quantization of recurrent models, after training (`quantize`) and during it.

After training: `modular_copy` a model, `calibrate` it, `quantize` it with `load_preset(…)`, look
at `quantization_table`, keep `export_state` and come back with `restore`.
During training: a `Quantizer` named in a schedule.

Names load on first use, so that settings can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from lmbench.distiller.compat import aliased_submodule

# The module that defines each public name.
_HOME = {
    name: module
    for module, names in {
        "calibration": "ActivationStats StatsCollector calibrate load_stats save_stats",
        "command_line": "add_post_train_quant_args",
        "errors": "QuantizationError",
        "floating": "FP16Wrapper FPWrapper",
        "modes": "ClipMode LinearQuantMode get_quantized_range",
        "module_report": "ModuleReport output_sqnr quantization_table sqnr",
        "operations": (
            "RangeLinearFakeQuantWrapper RangeLinearQuantConcatWrapper "
            "RangeLinearQuantEltwiseAddWrapper RangeLinearQuantEltwiseMultWrapper "
            "RangeLinearQuantMatmulWrapper"
        ),
        "post_training": ("PostTrainLinearQuantizer modular_copy quantizable_modules quantize"),
        "pytorch_quant_conversion": (
            "distiller_qparams_to_pytorch distiller_quantized_tensor_to_pytorch"
        ),
        "quantizer": "Quantizer",
        "rounding": "collect_input_moments gptq_round",
        "scale_and_zero_point": (
            "asymmetric_linear_quantization_params is_linear_quant_mode_asymmetric "
            "is_linear_quant_mode_symmetric linear_dequantize linear_quantize "
            "linear_quantize_clamp symmetric_linear_quantization_params"
        ),
        "search": "SearchResult auto_quantize",
        "settings": "ModuleQuantMode ModuleSettings QuantSettings",
        "settings_files": "load_preset load_settings preset_description preset_names",
        "storage": "export_state quantized_bytes restore",
        "training_base": "TrainingQuantizer",
        "training_time": (
            "DorefaQuantizer PACTQuantizer QuantAwareTrainRangeLinearQuantizer WRPNQuantizer"
        ),
        "trials": "Budget Trial",
        "weights": "RangeLinearEmbeddingWrapper RangeLinearQuantParamLayerWrapper",
        "wrappers": "RangeLinearQuantWrapper is_quantized",
    }.items()
    for name in names.split()
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    return aliased_submodule(__name__, name)
