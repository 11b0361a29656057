"""Quantization of recurrent models, after training (`quantize`) and during it.

After training: `modular_copy` a model, `calibrate` it, `quantize` it with `load_preset(…)`, look
at `quantization_table`, keep `export_state` and come back with `restore`.
During training: a `Quantizer` named in a schedule.
"""

from .calibration import ActivationStats, StatsCollector, calibrate, load_stats, save_stats
from .clipping import ClipMode
from .errors import QuantizationError
from .floating import FP16Wrapper, FPWrapper
from .linear import (
    LinearQuantMode,
    asymmetric_linear_quantization_params,
    linear_dequantize,
    linear_quantize,
    linear_quantize_clamp,
    symmetric_linear_quantization_params,
)
from .post_training import (
    PostTrainLinearQuantizer,
    is_quantized,
    modular_copy,
    quantizable_modules,
    quantize,
)
from .quantizer import Quantizer
from .report import ModuleReport, output_sqnr, quantization_table, sqnr
from .rounding import collect_input_moments, gptq_round
from .search import Budget, SearchResult, Trial, auto_quantize
from .settings import (
    ModuleQuantMode,
    ModuleSettings,
    QuantSettings,
    load_preset,
    load_settings,
    preset_description,
    preset_names,
)
from .storage import export_state, quantized_bytes, restore
from .training_time import (
    DorefaQuantizer,
    PACTQuantizer,
    QuantAwareTrainRangeLinearQuantizer,
    WRPNQuantizer,
)
from .weights import RangeLinearEmbeddingWrapper, RangeLinearQuantParamLayerWrapper
from .wrappers import (
    RangeLinearFakeQuantWrapper,
    RangeLinearQuantEltwiseAddWrapper,
    RangeLinearQuantEltwiseMultWrapper,
    RangeLinearQuantWrapper,
)

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
    "RangeLinearQuantEltwiseAddWrapper",
    "RangeLinearQuantEltwiseMultWrapper",
    "RangeLinearQuantParamLayerWrapper",
    "RangeLinearQuantWrapper",
    "SearchResult",
    "StatsCollector",
    "Trial",
    "WRPNQuantizer",
    "asymmetric_linear_quantization_params",
    "auto_quantize",
    "calibrate",
    "collect_input_moments",
    "export_state",
    "gptq_round",
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
