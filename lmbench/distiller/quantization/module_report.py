"""What was done to each module, and how much error it makes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.floating import FPWrapper
from lmbench.distiller.quantization.weights import (
    RangeLinearEmbeddingWrapper,
    RangeLinearQuantParamLayerWrapper,
)
from lmbench.distiller.quantization.wrappers import RangeLinearQuantWrapper

__all__ = ["ModuleReport", "output_sqnr", "quantization_table", "sqnr"]


@dataclass(frozen=True)
class ModuleReport:
    """One row of the table.

    Attributes:
        name: the module.
        kind: what it was, such as Linear.
        bits_weights, bits_activations: None where they are floats.
        mode: of weights, then of activations.
        clip_acts: how activation ranges were chosen.
        precision: the floats it computes in, if it does.
        output_scale, output_zero_point: the calibrated grid of the output.
        weight_sqnr: signal to quantization noise of the weights, in dB.
        output_sqnr: of the outputs, on data, in dB; None when not measured.
    """

    name: str
    kind: str
    bits_weights: int | None = None
    bits_activations: int | None = None
    mode: str = ""
    clip_acts: str = ""
    precision: str = ""
    output_scale: float | None = None
    output_zero_point: float | None = None
    weight_sqnr: float | None = None
    output_sqnr: float | None = None


def sqnr(signal: Tensor, approximation: Tensor) -> float:
    """10 log10 of the signal's energy over the error's, in dB; infinite when there is no error."""
    error = float((signal.double() - approximation.double()).square().sum())
    energy = float(signal.double().square().sum())
    if error == 0:
        return math.inf
    return 10 * math.log10(energy / error) if energy > 0 else -math.inf


def quantization_table(
    quantized: nn.Module,
    original: nn.Module | None = None,
    run: Callable[[nn.Module], Any] | None = None,
) -> list[ModuleReport]:
    """One row for each quantized module.

    Args:
        quantized: from `quantize`.
        original: the modular model it was made from (`modular_copy`), for the errors.
        run: runs a model over some data, for the errors of outputs. They include what modules
            before contribute.
    """
    outputs = output_sqnr(original, quantized, run) if original is not None and run else {}
    rows = []
    for name, module in quantized.named_modules():
        if not getattr(module, "is_quantized_wrapper", False):
            continue
        source = None if original is None else original.get_submodule(name)
        rows.append(_row(name, module, source, outputs.get(name)))
    return rows


def _row(
    name: str, module: nn.Module, source: nn.Module | None, output: float | None
) -> ModuleReport:
    kind = type(module.get_submodule("wrapped_module")).__name__
    row = ModuleReport(name, kind, output_sqnr=output)
    if isinstance(module, FPWrapper):
        return replace(row, precision=module.precision)
    if isinstance(module, RangeLinearEmbeddingWrapper | RangeLinearQuantParamLayerWrapper):
        before = getattr(source, "weight", None)
        error = sqnr(before.detach(), module.weight) if isinstance(before, Tensor) else None
        mode = module.mode.weights.name
        row = replace(row, bits_weights=module.num_bits_params, mode=mode, weight_sqnr=error)
    if isinstance(module, RangeLinearQuantWrapper):
        grid = module.output_grid
        row = replace(
            row,
            bits_activations=module.num_bits_acts,
            mode=f"{module.mode.weights.name} / {module.mode.activations.name}",
            clip_acts=module.clip_acts.name,
            output_scale=grid.scale if grid else None,
            output_zero_point=grid.zero_point if grid else None,
        )
    return row


@torch.no_grad()
def output_sqnr(
    original: nn.Module, quantized: nn.Module, run: Callable[[nn.Module], Any]
) -> dict[str, float]:
    """Signal to noise of each quantized module's outputs, in dB, both models run on one input.

    Args:
        original: the modular model.
        quantized: made from it.
        run: runs a model over some data: keep it short, all outputs are held.

    Raises:
        QuantizationError: the two did not make the same calls.
    """
    names = [
        name
        for name, module in quantized.named_modules()
        if getattr(module, "is_quantized_wrapper", False)
    ]
    recordings = [_record(model, names, run) for model in (original, quantized)]
    result = {}
    for name in names:
        pairs = zip(recordings[0][name], recordings[1][name], strict=False)
        if len(recordings[0][name]) != len(recordings[1][name]):
            raise QuantizationError(f"{name}: the two models did not make the same calls")
        energy = error = 0.0
        for before, after in pairs:
            energy += float(before.double().square().sum())
            error += float((before.double() - after.double()).square().sum())
        result[name] = math.inf if error == 0 else 10 * math.log10(max(energy, 1e-300) / error)
    return result


def _record(
    model: nn.Module, names: list[str], run: Callable[[nn.Module], Any]
) -> dict[str, list[Tensor]]:
    kept: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: kept[name].append(output.detach().float().clone())

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    return kept
