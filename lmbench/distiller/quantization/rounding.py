"""Better rounding of weights: what one weight's rounding gets wrong, the next ones make up for.

Error compensation after Frantar et al. 2022 (GPTQ, arXiv 2210.17323), which rests on Hassibi &
Stork 1993 (Optimal Brain Surgeon): weights are rounded a column at a time, and each column's
error is spread over the columns not yet rounded so that the layer's output, on calibration
inputs, changes least. Weights that pruning set to zero stay zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lmbench.distiller.quantization.calibration import CalibrationRun, run_calibration
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.scale_and_zero_point import (
    linear_dequantize,
    linear_quantize_clamp,
)

__all__ = ["collect_input_moments", "gptq_round", "moments_for"]

_DAMPING = 0.01


def collect_input_moments(
    model: nn.Module,
    run: CalibrationRun,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """The second moments X^T X / n of each linear layer's inputs.

    Args:
        model: with modular recurrent layers; runs in evaluation mode without gradients.
        run: as for `calibrate`.
        progress: called after each step with how many have run.

    Returns:
        {name: (in, in) float64}.

    Raises:
        QuantizationError: nothing ran through the model.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    waiting: dict[str, list[Tensor]] = {}

    def flush(name: str) -> None:
        x = torch.cat(waiting.pop(name))
        product = (x.T @ x).double().cpu()
        totals[name] = totals[name] + product if name in totals else product
        counts[name] = counts.get(name, 0) + len(x)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().float()
            waiting.setdefault(name, []).append(x.reshape(-1, x.shape[-1]))
            if len(waiting[name]) >= 32:
                flush(name)

        return observe

    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    handles = [m.register_forward_pre_hook(hook(name)) for name, m in layers.items()]
    try:
        run_calibration(model, run, progress)
    finally:
        for handle in handles:
            handle.remove()
    for name in list(waiting):
        flush(name)
    if not totals:
        raise QuantizationError("the calibration set is empty: no batch ran through the model")
    return {name: total / counts[name] for name, total in totals.items()}


def moments_for(name: str, moments: Mapping[str, Tensor] | None) -> Tensor:
    """Those of one layer's inputs.

    Raises:
        QuantizationError: none were collected for this layer.
    """
    if moments is None or name not in moments:
        raise QuantizationError(
            "this rounding needs the moments of the layer's inputs: pass input_moments from "
            "collect_input_moments"
        )
    return moments[name]


@torch.no_grad()
def gptq_round(
    weight: Tensor, moments: Tensor, scale: Tensor, zero_point: Tensor, q_min: int, q_max: int
) -> Tensor:
    """Integers for a weight, errors compensated.

    Args:
        weight: (out, in).
        moments: (in, in), positive semi-definite, of the layer's inputs.
        scale, zero_point: 0-dim, (out, 1) or (out, in).
        q_min, q_max: the integers' range.

    Returns:
        (out, in) integers, float32.
    """
    columns = weight.shape[1]
    hessian = moments.to(weight.device).clone()
    diagonal = hessian.diagonal()
    damping = _DAMPING * float(diagonal.mean().clamp(min=1e-12))
    diagonal += damping
    # Inputs that vary most are rounded first, while most others can still make up for them.
    order = hessian.diagonal().argsort(descending=True)
    inverse = torch.linalg.inv(hessian[order][:, order])
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    work = weight.detach().float()[:, order].clone()
    pruned = work == 0
    scales = scale.expand(weight.shape[0], columns)[:, order]
    zeros = zero_point.expand(weight.shape[0], columns)[:, order]
    rounded = torch.empty_like(work)
    for j in range(columns):
        q = linear_quantize_clamp(work[:, j], scales[:, j], zeros[:, j], q_min, q_max)
        q = torch.where(pruned[:, j], -zeros[:, j], q)
        rounded[:, j] = q
        error = (work[:, j] - linear_dequantize(q, scales[:, j], zeros[:, j])) / upper[j, j]
        if j + 1 < columns:
            work[:, j + 1 :].addr_(error, upper[j, j + 1 :], alpha=-1)
    result = torch.empty_like(rounded)
    result[:, order] = rounded
    return result
