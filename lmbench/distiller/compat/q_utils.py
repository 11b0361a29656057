"""``distiller.quantization.q_utils``."""

from lmbench.distiller.quantization.clipping import (
    get_tensor_avg_max_abs,
    get_tensor_avg_min_max,
    get_tensor_max_abs,
    get_tensor_mean_n_stds_max_abs,
    get_tensor_mean_n_stds_min_max,
    get_tensor_min_max,
)
from lmbench.distiller.quantization.scale_and_zero_point import (
    LinearQuantizeSTE,
    LinearQuantMode,
    approx_scale_as_mult_and_shift,
    asymmetric_linear_quantization_params,
    clamp,
    get_quantized_range,
    get_scale_approximation_mult,
    get_scale_approximation_params,
    get_scale_approximation_shift_bits,
    is_linear_quant_mode_asymmetric,
    is_linear_quant_mode_symmetric,
    linear_dequantize,
    linear_quantize,
    linear_quantize_clamp,
    symmetric_linear_quantization_params,
)
