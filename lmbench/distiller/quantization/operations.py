"""Wrappers of operations without weights: sums, products, joins, and any computed in floats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.distiller.modules import (
    BatchMatmul,
    Concat,
    EltwiseAdd,
    EltwiseMult,
    EltwiseSub,
    Matmul,
)
from lmbench.distiller.quantization.clipping import ClipMode
from lmbench.distiller.quantization.floating import FPWrapper
from lmbench.distiller.quantization.integers import EXACT_FLOAT32
from lmbench.distiller.quantization.scale_and_zero_point import (
    LinearQuantMode,
    approx_scale_as_mult_and_shift,
)
from lmbench.distiller.quantization.settings import ModuleQuantMode
from lmbench.distiller.quantization.wrappers import Grid, RangeLinearQuantWrapper

__all__ = [
    "RangeLinearFakeQuantWrapper",
    "RangeLinearQuantConcatWrapper",
    "RangeLinearQuantEltwiseAddWrapper",
    "RangeLinearQuantEltwiseMultWrapper",
    "RangeLinearQuantMatmulWrapper",
]

# Of values that are taken as they are.
_UNIT = Grid(1.0, 0.0, 0, 0)


class _WithoutAccumulator(RangeLinearQuantWrapper):
    """A wrapper to which the original gives no width of the accumulator by position."""

    DYNAMIC = False

    def __init__(
        self,
        wrapped_module: nn.Module,
        num_bits_acts: int | None,
        mode: LinearQuantMode | ModuleQuantMode | str = LinearQuantMode.SYMMETRIC,
        clip_acts: ClipMode | str = ClipMode.NONE,
        activation_stats: Mapping[str, Any] | None = None,
        clip_n_stds: float | None = None,
        clip_half_range: bool = False,
        scale_approx_mult_bits: int | None = None,
        input_overrides: Mapping[int, Mapping[str, Any]] | None = None,
        inputs_quant_auto_fallback: bool = False,
        *,
        num_bits_accum: int = 32,
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


class RangeLinearQuantEltwiseAddWrapper(_WithoutAccumulator):
    """Addition (or subtraction): every operand is first brought to the output's scale."""

    WRAPS = (EltwiseAdd, EltwiseSub)

    def accumulate(
        self, integers: list[Tensor], grids: list[Grid]
    ) -> tuple[Tensor, float | Tensor]:
        scaled, scale, bound = self._at_one_scale(integers, grids)
        return self.saturate_(self.wrapped_module(*scaled), bound), scale

    def _at_one_scale(
        self, integers: list[Tensor], grids: list[Grid]
    ) -> tuple[list[Tensor], float, float]:
        """The operands' integers at the output's scale, that, and a bound of their sum."""
        assert self.output_grid is not None
        scale = self.output_grid.scale
        scaled = []
        bound = 0.0
        for x, grid in zip(integers, grids, strict=True):
            factor = self.operand_factor(scale, grid.scale)
            bound += grid.magnitude * factor + 1
            if factor != 1.0:
                x.mul_(factor).round_()
            scaled.append(self.saturate_(x, grid.magnitude * factor + 1))
        return scaled, scale, bound

    def operand_factor(self, scale: float, input_scale: float) -> float:
        """What an operand's integers are multiplied by to be at the sum's scale."""

        def compute() -> float:
            factor = torch.tensor(scale) / torch.tensor(input_scale)
            if self.scale_approx_mult_bits is not None:
                factor = approx_scale_as_mult_and_shift(factor, self.scale_approx_mult_bits)
            return float(factor)

        return self.cached(("add", scale, input_scale), compute)

    def requant_factor(self, grid: Grid, accum_scale: float | Tensor) -> float | Tensor:
        return 1.0


class RangeLinearQuantConcatWrapper(RangeLinearQuantEltwiseAddWrapper):
    """Joining: every operand is first brought to the output's scale."""

    WRAPS = (Concat,)

    def accumulate(
        self, integers: list[Tensor], grids: list[Grid]
    ) -> tuple[Tensor, float | Tensor]:
        scaled, scale, _ = self._at_one_scale(integers, grids)
        return self.wrapped_module(*scaled), scale


class RangeLinearQuantEltwiseMultWrapper(_WithoutAccumulator):
    """Multiplication: the accumulator's scale is the product of the operands'.

    With `scale_approx_mult_bits` the operands' and the output's scales are approximated already;
    their quotient is applied as it is.
    """

    WRAPS = (EltwiseMult,)

    def accumulate(
        self, integers: list[Tensor], grids: list[Grid]
    ) -> tuple[Tensor, float | Tensor]:
        scale, bound = _product(grids)
        if bound >= EXACT_FLOAT32:
            integers = [x.double() for x in integers]
        return self.saturate_(self.wrapped_module(*integers), bound), scale

    def requant_factor(self, grid: Grid, accum_scale: float | Tensor) -> float | Tensor:
        return self.cached(
            ("mult", grid, accum_scale),
            lambda: float(torch.tensor(grid.scale) / torch.as_tensor(accum_scale)),
        )


def _product(grids: Iterable[Grid]) -> tuple[float, float]:
    """The scale of a product of operands, and the largest magnitude of its integers."""
    scale, bound = torch.tensor(1.0), 1.0
    for grid in grids:
        scale = scale * grid.scale
        bound *= grid.magnitude
    return float(scale), bound


class RangeLinearQuantMatmulWrapper(RangeLinearQuantWrapper):
    """A matrix product of two activations; arguments as `RangeLinearQuantWrapper`."""

    WRAPS = (Matmul, BatchMatmul)

    def accumulate(
        self, integers: list[Tensor], grids: list[Grid]
    ) -> tuple[Tensor, float | Tensor]:
        scale, bound = _product(grids)
        bound *= integers[0].shape[-1]
        if bound >= EXACT_FLOAT32:
            integers = [x.double() for x in integers]
        return self.saturate_(self.wrapped_module(*integers), bound), scale


class RangeLinearFakeQuantWrapper(_WithoutAccumulator):
    """Quantizes the output, and inputs where asked, and computes between them in floats.

    Args:
        fpq_module: compute in "16", "bf16", "32" or "64" bit floats.
        quantize_inputs: quantize the inputs, too.
    """

    DYNAMIC = True

    def __init__(
        self,
        wrapped_module: nn.Module,
        num_bits_acts: int | None,
        mode: LinearQuantMode | ModuleQuantMode | str = LinearQuantMode.SYMMETRIC,
        clip_acts: ClipMode | str = ClipMode.NONE,
        activation_stats: Mapping[str, Any] | None = None,
        clip_n_stds: float | None = None,
        clip_half_range: bool = False,
        scale_approx_mult_bits: int | None = None,
        fpq_module: str | int | None = None,
        input_overrides: Mapping[int, Mapping[str, Any]] | None = None,
        inputs_quant_auto_fallback: bool = False,
        quantize_inputs: bool = False,
        *,
        num_bits_accum: int = 32,
    ) -> None:
        if fpq_module is not None:
            wrapped_module = FPWrapper(wrapped_module, fpq_module)
        super().__init__(
            wrapped_module,
            num_bits_acts,
            mode,
            clip_acts,
            activation_stats,
            clip_n_stds,
            clip_half_range,
            scale_approx_mult_bits,
            input_overrides,
            inputs_quant_auto_fallback,
            num_bits_accum=num_bits_accum,
        )
        self.quantize_inputs = quantize_inputs

    @property
    def bias(self) -> Tensor | None:
        """The wrapped module's bias, where it is a layer whose weights stay floats."""
        bias = getattr(self.wrapped_module, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    def on_grids(self, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Grid]]:
        if self.quantize_inputs:
            return super().on_grids(inputs)
        return [x.clone() for x in inputs], [_UNIT for _ in inputs]

    def accumulate(
        self, integers: list[Tensor], grids: list[Grid]
    ) -> tuple[Tensor, float | Tensor]:
        inputs = [grid.values_(x) for x, grid in zip(integers, grids, strict=True)]
        return self.wrapped_module(*inputs), 1.0

    def requant_factor(self, grid: Grid, accum_scale: float | Tensor) -> float | Tensor:
        return grid.scale
