"""Quantization of recurrent models, after training (`quantize`) and during it.

After training: `modular_copy` a model, `calibrate` it, `quantize` it with `load_preset(…)`, look
at `quantization_table`, keep `export_state` and come back with `restore`.
During training: a `Quantizer` named in a schedule.

Names load on first use, so that settings can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lmbench.distiller.compat import aliased_submodule

if TYPE_CHECKING:
    from lmbench.distiller.quantization.calibration import (
        ActivationStats,
        StatsCollector,
        calibrate,
        load_stats,
        save_stats,
    )
    from lmbench.distiller.quantization.command_line import add_post_train_quant_args
    from lmbench.distiller.quantization.errors import QuantizationError
    from lmbench.distiller.quantization.floating import FP16Wrapper, FPWrapper
    from lmbench.distiller.quantization.modes import ClipMode, LinearQuantMode
    from lmbench.distiller.quantization.module_report import (
        ModuleReport,
        output_sqnr,
        quantization_table,
        sqnr,
    )
    from lmbench.distiller.quantization.operations import (
        RangeLinearFakeQuantWrapper,
        RangeLinearQuantConcatWrapper,
        RangeLinearQuantEltwiseAddWrapper,
        RangeLinearQuantEltwiseMultWrapper,
        RangeLinearQuantMatmulWrapper,
    )
    from lmbench.distiller.quantization.post_training import (
        PostTrainLinearQuantizer,
        is_quantized,
        modular_copy,
        quantizable_modules,
        quantize,
    )
    from lmbench.distiller.quantization.pytorch_quant_conversion import (
        distiller_qparams_to_pytorch,
        distiller_quantized_tensor_to_pytorch,
    )
    from lmbench.distiller.quantization.quantizer import Quantizer
    from lmbench.distiller.quantization.rounding import collect_input_moments, gptq_round
    from lmbench.distiller.quantization.scale_and_zero_point import (
        asymmetric_linear_quantization_params,
        get_quantized_range,
        is_linear_quant_mode_asymmetric,
        is_linear_quant_mode_symmetric,
        linear_dequantize,
        linear_quantize,
        linear_quantize_clamp,
        symmetric_linear_quantization_params,
    )
    from lmbench.distiller.quantization.search import SearchResult, auto_quantize
    from lmbench.distiller.quantization.settings import (
        ModuleQuantMode,
        ModuleSettings,
        QuantSettings,
    )
    from lmbench.distiller.quantization.settings_files import (
        load_preset,
        load_settings,
        preset_description,
        preset_names,
    )
    from lmbench.distiller.quantization.storage import export_state, quantized_bytes, restore
    from lmbench.distiller.quantization.training_base import TrainingQuantizer
    from lmbench.distiller.quantization.training_time import (
        DorefaQuantizer,
        PACTQuantizer,
        QuantAwareTrainRangeLinearQuantizer,
        WRPNQuantizer,
    )
    from lmbench.distiller.quantization.trials import Budget, Trial
    from lmbench.distiller.quantization.weights import (
        RangeLinearEmbeddingWrapper,
        RangeLinearQuantParamLayerWrapper,
    )
    from lmbench.distiller.quantization.wrappers import RangeLinearQuantWrapper

__all__ = [
    "ActivationStats",
    "Budget",
    "ClipMode",
    "DorefaQuantizer",
    "FP16Wrapper",
    "FPWrapper",
    "LinearQuantMode",
    "ModuleQuantMode",
    "ModuleReport",
    "ModuleSettings",
    "PACTQuantizer",
    "PostTrainLinearQuantizer",
    "QuantAwareTrainRangeLinearQuantizer",
    "QuantSettings",
    "QuantizationError",
    "Quantizer",
    "RangeLinearEmbeddingWrapper",
    "RangeLinearFakeQuantWrapper",
    "RangeLinearQuantConcatWrapper",
    "RangeLinearQuantEltwiseAddWrapper",
    "RangeLinearQuantEltwiseMultWrapper",
    "RangeLinearQuantMatmulWrapper",
    "RangeLinearQuantParamLayerWrapper",
    "RangeLinearQuantWrapper",
    "SearchResult",
    "StatsCollector",
    "TrainingQuantizer",
    "Trial",
    "WRPNQuantizer",
    "add_post_train_quant_args",
    "asymmetric_linear_quantization_params",
    "auto_quantize",
    "calibrate",
    "collect_input_moments",
    "distiller_qparams_to_pytorch",
    "distiller_quantized_tensor_to_pytorch",
    "export_state",
    "get_quantized_range",
    "gptq_round",
    "is_linear_quant_mode_asymmetric",
    "is_linear_quant_mode_symmetric",
    "is_quantized",
    "linear_dequantize",
    "linear_quantize",
    "linear_quantize_clamp",
    "load_preset",
    "load_settings",
    "load_stats",
    "modular_copy",
    "output_sqnr",
    "preset_description",
    "preset_names",
    "quantizable_modules",
    "quantization_table",
    "quantize",
    "quantized_bytes",
    "restore",
    "save_stats",
    "sqnr",
    "symmetric_linear_quantization_params",
]

# Where public names are looked for; those without torch first.
_MODULES = (
    *("errors", "modes", "settings", "settings_files", "command_line", "calibration", "floating"),
    *("module_report", "post_training", "quantizer", "rounding", "scale_and_zero_point", "search"),
    *("operations", "storage", "training_base", "training_time", "trials", "weights", "wrappers"),
    "pytorch_quant_conversion",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = importlib.import_module(f".{module}", __name__)
            if hasattr(found, name):
                return getattr(found, name)
    return aliased_submodule(__name__, name)
