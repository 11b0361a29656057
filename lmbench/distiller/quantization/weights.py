"""Quantized weights, and the wrappers of the modules that have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmbench.distiller.quantization.clipping import (
    ClipMode,
    get_quant_params_from_stats_dict,
    get_quant_params_from_tensor,
    parse_clip,
)
from lmbench.distiller.quantization.codes import (
    fit_codes,
    fit_codes_to_inputs,
    keeps_zeros,
    levels_for_inputs,
    nearest_levels,
)
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.integers import IntegerLinear, dequantize_into, storage_dtype
from lmbench.distiller.quantization.layers_without_parameters import empty
from lmbench.distiller.quantization.modes import BITS, CODE_BITS, LinearQuantMode, check_bits
from lmbench.distiller.quantization.scale_and_zero_point import (
    linear_dequantize,
    linear_quantize_clamp,
)
from lmbench.distiller.quantization.settings import ModuleQuantMode, TensorQuantSettings
from lmbench.distiller.quantization.wrappers import (
    Grid,
    QuantizedWrapper,
    RangeLinearQuantWrapper,
    attach_grid,
)

__all__ = [
    "RangeLinearEmbeddingWrapper",
    "RangeLinearQuantParamLayerWrapper",
    "Rounder",
    "weight_params",
]

Rounder = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]
"""(weight, scale, zero_point, q_min, q_max) → integers; scale broadcasts with the weight."""


def weight_params(
    weight: Tensor,
    num_bits: int,
    mode: LinearQuantMode,
    clip: ClipMode = ClipMode.NONE,
    per_channel: bool = False,
    group_size: int | None = None,
    num_stds: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a (rows, columns) weight.

    Returns:
        0-dim; (rows, 1) per channel; or, with a group size, (rows, columns), each group's value
        repeated over its columns.
    """
    if group_size is None or group_size >= weight.shape[1]:
        by_rows = per_channel or group_size is not None
        return get_quant_params_from_tensor(weight, num_bits, mode, clip, by_rows, num_stds)
    rows, columns = weight.shape
    groups = -(-columns // group_size)
    # The last group may be short. To repeat its last column changes no range, and zeros, which
    # every range has exactly, no squared error.
    missing = (0, groups * group_size - columns)
    if clip is ClipMode.MSE:
        padded = F.pad(weight, missing)
    else:
        padded = F.pad(weight[None], missing, mode="replicate")[0]
    scale, zero_point = get_quant_params_from_tensor(
        padded.reshape(rows * groups, group_size), num_bits, mode, clip, True, num_stds
    )

    def spread(values: Tensor) -> Tensor:
        if values.numel() == 1:
            return values.expand(rows, columns).clone()
        return values.view(rows, groups).repeat_interleave(group_size, 1)[:, :columns].contiguous()

    return spread(scale), spread(zero_point)


class _QuantizedWeight(QuantizedWrapper):
    """Integers, scale and zero point of one weight, as buffers under the wrapper's names."""

    w_scale: Tensor
    w_zero_point: Tensor
    weight_q: Tensor

    def store_weight(
        self,
        weight: Tensor,
        params: tuple[Tensor, Tensor],
        q_range: tuple[int, int],
        rounder: Rounder | None,
    ) -> None:
        scale, zero_point = params
        integers = (rounder or linear_quantize_clamp)(weight, scale, zero_point, *q_range)
        self.register_buffer("w_scale", scale)
        self.register_buffer("w_zero_point", zero_point)
        self.register_buffer("weight_q", integers.to(storage_dtype(*q_range)))
        self._round_weight = (q_range, rounder)

    def store_codes(
        self, weight: Tensor, bits: int, group_size: int | None, moments: Tensor | None
    ) -> None:
        """Sums of scaled signs, see `codes`: int8 levels on the grid of each row's unit, and as
        `w_steps` (bits, rows, groups) the scales that they are sums of; with `moments` those of the
        least error of the output."""
        pruned = keeps_zeros(weight, bits)
        if moments is None:
            unit, steps = fit_codes(weight, bits, group_size, pruned=pruned)
        else:
            unit, steps = fit_codes_to_inputs(weight, moments, bits, group_size, pruned=pruned)

        def levels(weight: Tensor, scale: Tensor, *_: Any) -> Tensor:
            codes = 1 / scale, self.get_buffer("w_steps")
            if moments is None:
                return nearest_levels(weight, *codes, group_size, pruned=pruned)
            return levels_for_inputs(weight, moments, *codes, group_size, pruned=pruned)

        self.register_buffer("w_steps", steps)
        self.store_weight(weight, (1 / unit, torch.zeros_like(unit)), (-127, 127), levels)

    def named_linear_quant_params(self, filter: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Those of the weight, and with `filter` only where `save_fp_weights` keeps its floats."""
        if hasattr(self, "float_weight") or not filter:
            yield "w_scale", self.w_scale
            yield "w_zero_point", self.w_zero_point

    def set_linear_quant_param(self, name: str, val: float | Tensor) -> None:
        """Also rounds the weight, or its image where the floats are not kept, anew."""
        weight = self.get_buffer("float_weight") if hasattr(self, "float_weight") else self.weight
        super().set_linear_quant_param(name, val)
        if name.startswith("w_"):
            q_range, rounder = self._round_weight
            integers = (rounder or linear_quantize_clamp)(
                weight, self.w_scale, self.w_zero_point, *q_range
            )
            self.weight_q.copy_(integers)

    @property
    def weight(self) -> Tensor:
        """(rows, columns) the values that the integers stand for, float32."""
        return self.cached(
            "weight", lambda: dequantize_into(self.weight_q, self.w_scale, self.w_zero_point)
        )


class RangeLinearQuantParamLayerWrapper(RangeLinearQuantWrapper, _QuantizedWeight):
    """A linear layer on integers; arguments as the original's.

    Args:
        wrapped_module: an `nn.Linear`; its parameters are replaced by integers.
        num_bits_acts: None quantizes the weights alone.
        num_bits_params: width of the weights.
        per_channel_wts: a range for each output.
        save_fp_weights: keep the weight as it was in `float_weight`.
        also_clip_weights: choose weight ranges by `clip_acts`.
        clip_weights: or by this.
        group_size: a range for so many weights of each row. Products of quantized activations
            with such weights are summed in floats, a group's integers times its scale, as
            kernels for grouped weights do.
        rounder: how weights become integers; to nearest when None.
        codes: they become sums of scaled signs instead, see `codes`.
        code_moments: (in, in) of the inputs, to which those are then fitted.

    The bias is quantized to the accumulator's scale, exactly as wide as the accumulator. It is
    stored as it was, in floats, because its scale depends on the input's; with weights alone
    quantized it is its image on the accumulator's grid over its own range. It is a parameter, or
    the scales are where there is none, so that code which looks for one to learn a model's device
    finds it.
    """

    WRAPS = (nn.Linear,)

    def __init__(
        self,
        wrapped_module: nn.Module,
        num_bits_acts: int | None,
        num_bits_params: int | None,
        num_bits_accum: int = 32,
        mode: LinearQuantMode | ModuleQuantMode | str = LinearQuantMode.SYMMETRIC,
        clip_acts: ClipMode | str = ClipMode.NONE,
        per_channel_wts: bool = False,
        activation_stats: Mapping[str, Any] | None = None,
        clip_n_stds: float | None = None,
        clip_half_range: bool = False,
        scale_approx_mult_bits: int | None = None,
        input_overrides: Mapping[int, Mapping[str, Any]] | None = None,
        inputs_quant_auto_fallback: bool = False,
        save_fp_weights: bool = False,
        also_clip_weights: bool = False,
        clip_weights: ClipMode = ClipMode.NONE,
        group_size: int | None = None,
        rounder: Rounder | None = None,
        codes: bool = False,
        code_moments: Tensor | None = None,
    ) -> None:
        super().__init__(
            wrapped_module,
            num_bits_acts,
            num_bits_accum,
            mode,
            clip_acts,
            activation_stats,
            clip_n_stds,
            clip_half_range,
            scale_approx_mult_bits,
            input_overrides,
            inputs_quant_auto_fallback,
        )
        assert isinstance(wrapped_module, nn.Linear)
        bits = check_bits(num_bits_params, "num_bits_params", CODE_BITS if codes else BITS)
        if bits is None:
            raise QuantizationError("num_bits_params: quantized activations need quantized weights")
        self.num_bits_params = bits
        self.per_channel_wts = per_channel_wts
        self.group_size = group_size
        self.clip_weights = self.clip_acts if also_clip_weights else clip_weights
        weight = wrapped_module.weight.detach().float()
        if codes:
            self.store_codes(weight, bits, group_size, code_moments)
        else:
            params = weight_params(
                weight,
                bits,
                self.mode.weights,
                self.clip_weights,
                per_channel_wts,
                group_size,
                clip_n_stds,
            )
            self.store_weight(weight, params, self.mode.weights.quantized_range(bits), rounder)
        bias = wrapped_module.bias
        self.register_parameter(
            "bias_fp",
            None if bias is None else nn.Parameter(self._kept_bias(bias), requires_grad=False),
        )
        if bias is None:
            scale = self._buffers.pop("w_scale")
            assert scale is not None
            self.register_parameter("w_scale", nn.Parameter(scale, requires_grad=False))
        if save_fp_weights:
            self.register_buffer("float_weight", weight.clone())
        empty(wrapped_module, self)

    bias_fp: Tensor | None

    def _kept_bias(self, bias: Tensor) -> Tensor:
        bias = bias.detach().float().clone()
        if self.num_bits_acts is not None:
            return bias
        bits, mode = self.num_bits_accum, self.mode.weights
        params = get_quant_params_from_tensor(bias, bits, mode)
        integers = linear_quantize_clamp(bias, *params, *mode.quantized_range(bits))
        return linear_dequantize(integers, *params)

    @property
    def weights_quant_settings(self) -> TensorQuantSettings:
        """How the weight is quantized, by the original's names."""
        return TensorQuantSettings(
            self.num_bits_params,
            self.mode.weights,
            self.clip_weights,
            self.clip_n_stds,
            False,
            self.per_channel_wts,
        )

    @property
    def bias(self) -> Tensor | None:
        """(out,) as it was before quantization, float32."""
        return self.bias_fp

    def float_forward(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weight, self.bias_fp)

    def accumulator_scale(self, grid: Grid) -> Tensor:
        """0-dim, or (out,) per channel: input scale times weight scale."""
        if self.grouped:
            return torch.tensor(grid.scale, device=self.w_scale.device)
        scale = torch.tensor(grid.scale, device=self.w_scale.device) * self.w_scale
        return scale.flatten() if scale.numel() > 1 else scale.reshape(())

    @property
    def grouped(self) -> bool:
        """Has a row more than one scale?"""
        return self.w_scale.dim() == 2 and self.w_scale.shape[1] > 1

    def quantized_bias(self, grid: Grid) -> Tensor | None:
        """(out,) the integers added to the accumulators for inputs on this grid."""
        if self.bias_fp is None:
            return None
        top = 2 ** (self.num_bits_accum - 1)
        scale = self.accumulator_scale(grid)
        return linear_quantize_clamp(self.bias_fp, scale, 0.0, -top, top - 1)

    def product(self, grid: Grid) -> tuple[Callable[[Tensor], Tensor], float | Tensor]:
        """Shifted input integers on a grid → accumulators, and the accumulators' scale."""
        scale = self.accumulator_scale(grid)
        plain = float(scale) if scale.dim() == 0 else scale
        if self.grouped:
            weight, bias = self.weight, self.bias_fp
            scaled = None if bias is None else bias * scale
            return lambda x: F.linear(x, weight, scaled), plain
        product = IntegerLinear.prepare(
            self.weight_q.float() + self.w_zero_point,
            self.quantized_bias(grid),
            grid.magnitude,
            self.num_bits_accum,
        )
        return product, plain

    def may_saturate(self) -> bool:
        """Can a sum of products exceed the accumulator, for inputs on the calibrated grid?"""
        grid = self.input_grid(0)
        if grid is None or self.grouped:
            return False
        sums = (self.weight_q.float() + self.w_zero_point).abs().sum(1)
        return float(sums.max()) * grid.magnitude >= 2 ** (self.num_bits_accum - 1)

    def accumulate(
        self, integers: list[Tensor], grids: list[Grid]
    ) -> tuple[Tensor, float | Tensor]:
        grid = grids[0]
        if self.preset_act_stats:
            product, scale = self.cached(("product", grid), lambda: self.product(grid))
        else:
            product, scale = self.product(grid)
        return product(integers[0]), scale

    def requant_factor(self, grid: Grid, accum_scale: float | Tensor) -> float | Tensor:
        if not self.preset_act_stats:
            return super().requant_factor(grid, accum_scale)
        return self.cached(
            ("requant", grid, accum_scale if isinstance(accum_scale, float) else id(accum_scale)),
            lambda: super(RangeLinearQuantParamLayerWrapper, self).requant_factor(
                grid, accum_scale
            ),
        )

    def extra_repr(self) -> str:
        return f"weights={self.num_bits_params}, {super().extra_repr()}"


class RangeLinearEmbeddingWrapper(_QuantizedWeight):
    """An embedding with an integer table; arguments as the original's.

    Args:
        wrapped_module: an `nn.Embedding`; its table is replaced by integers.
        num_bits: width of the integers.
        mode: of the weights.
        stats: with `per_row` off and no groups, statistics of the calibrated output whose range
            is taken, as the original does; None takes the range of the table.
        save_fp_weights: keep the table as it was in `float_weight`.
        clip_acts: how ranges are chosen.
        clip_n_stds: for N_STD.
        clip_half_range: the output passes a ReLU.
        per_row: a range for each row.
        group_size: a range for so many weights of a row.
        codes: sums of scaled signs, see `codes`; always a scale for each row.
        code_moments: of the inputs of the layer that the table is tied to, to which those are then
            fitted.
    """

    def __init__(
        self,
        wrapped_module: nn.Embedding,
        num_bits: int,
        mode: LinearQuantMode | ModuleQuantMode | str = LinearQuantMode.SYMMETRIC,
        stats: Mapping[str, Any] | None = None,
        save_fp_weights: bool = False,
        clip_acts: ClipMode | str = ClipMode.NONE,
        clip_n_stds: float | None = None,
        clip_half_range: bool = False,
        *,
        per_row: bool = False,
        group_size: int | None = None,
        codes: bool = False,
        code_moments: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.wrapped_module = wrapped_module
        bits = check_bits(num_bits, "num_bits", CODE_BITS if codes else BITS)
        if bits is None:
            raise QuantizationError("num_bits: a quantized embedding needs a width")
        self.num_bits_params = bits
        self.mode = ModuleQuantMode.parse(mode)
        self.per_row = per_row
        self.group_size = group_size
        weight = wrapped_module.weight.detach().float()
        own, clip = self.mode.weights, parse_clip(clip_acts)
        if codes:
            self.store_codes(weight, bits, group_size, code_moments)
        else:
            if not per_row and group_size is None and stats is not None:
                params = get_quant_params_from_stats_dict(
                    stats["output"], bits, own, clip, clip_n_stds, clip_half_range
                )
            else:
                params = weight_params(weight, bits, own, clip, per_row, group_size, clip_n_stds)
            self.store_weight(weight, params, own.quantized_range(bits), None)
        if save_fp_weights:
            self.register_buffer("float_weight", weight.clone())
        empty(wrapped_module, self)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape → (…, width); with one scale for all it carries its grid."""
        out = F.embedding(ids, self.weight)
        if self.w_scale.numel() > 1:
            return out
        q_min, q_max = self.mode.weights.quantized_range(self.num_bits_params)
        return attach_grid(out, Grid(float(self.w_scale), float(self.w_zero_point), q_min, q_max))

    def extra_repr(self) -> str:
        rows = "per row" if self.per_row else "one scale"
        return f"weights={self.num_bits_params}, mode={self.mode.weights.name}, {rows}"
