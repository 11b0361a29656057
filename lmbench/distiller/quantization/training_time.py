"""Quantization while training: range-linear, DoReFa, PACT and WRPN, for recurrent models too.

The papers' activations are ReLUs in [0, 1]; gates are sigmoids in [0, 1] and tanhs in [-1, 1], so
their outputs are quantized over those ranges (He et al. 2016, arXiv 1611.10176, do the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lmbench.distiller.quantization.clipping import get_quant_params_from_tensor
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.quantizer import Quantizer, full_is_none, round_through
from lmbench.distiller.quantization.scale_and_zero_point import (
    LinearQuantMode,
    asymmetric_linear_quantization_params,
    symmetric_linear_quantization_params,
)
from lmbench.distiller.quantization.settings import ModuleQuantMode

__all__ = [
    "DorefaQuantizer",
    "PACTQuantizer",
    "QuantAwareTrainRangeLinearQuantizer",
    "WRPNQuantizer",
]


class FakeLinearQuantization(nn.Module):
    """Quantizes and dequantizes by a moving average of the range, which only training moves.

    Args:
        num_bits: 2 to 16.
        mode: see `LinearQuantMode`.
        ema_decay: weight of the past; the average is corrected for its start at zero.
    """

    def __init__(self, num_bits: int, mode: LinearQuantMode, ema_decay: float) -> None:
        super().__init__()
        self.num_bits = num_bits
        self.mode = mode
        self.ema_decay = ema_decay
        self.register_buffer("tracked_min", torch.zeros(()))
        self.register_buffer("tracked_max", torch.zeros(()))
        self.register_buffer("iterations", torch.zeros(()))

    tracked_min: Tensor
    tracked_max: Tensor
    iterations: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same, on the grid of the tracked range."""
        if self.training:
            with torch.no_grad():
                low, high = x.detach().aminmax()
                self.iterations += 1
                self.tracked_min.lerp_(low, 1 - self.ema_decay)
                self.tracked_max.lerp_(high, 1 - self.ema_decay)
        if not bool(self.iterations):
            return x
        correction = 1 - self.ema_decay**self.iterations
        low, high = self.tracked_min / correction, self.tracked_max / correction
        if self.mode.symmetric:
            restrict = self.mode is LinearQuantMode.SYMMETRIC_RESTRICTED
            scale, zero = symmetric_linear_quantization_params(
                self.num_bits, torch.maximum(low.abs(), high.abs()), restrict
            )
        else:
            scale, zero = asymmetric_linear_quantization_params(
                self.num_bits, torch.minimum(low, high), high, signed=self.mode.signed
            )
        return _through_grid(x, scale, zero, self.mode.quantized_range(self.num_bits))


def _through_grid(x: Tensor, scale: Tensor, zero_point: Tensor, q_range: tuple[int, int]) -> Tensor:
    """Onto a grid; values outside it get no gradient."""
    low, high = q_range[0] + zero_point, q_range[1] + zero_point
    shifted = torch.minimum(torch.maximum(x * scale, low), high)
    return round_through(shifted) / scale


class QuantAwareTrainRangeLinearQuantizer(Quantizer):
    """Linear quantization by ranges, in the forward pass (Jacob et al. 2018, arXiv 1712.05877).

    Args:
        mode: of weights and activations, which may differ.
        ema_decay: of the activations' tracked ranges.
        per_channel_wts: a range for each output, and for each row of an embedding (of which the
            original takes one; ties stay ties so).
        quantize_inputs: quantize the model's first input, too, where it is floats and not ids: a
            model with an embedding is taken to read ids.
        num_bits_inputs: of that; None takes `bits_activations`.

    Element-wise results, such as the cell state, are quantized as activations are.
    """

    quantizes_eltwise = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        bits_activations: int | None = 32,
        bits_weights: int | None = 32,
        bits_bias: int | None = 32,
        overrides: str | Mapping[str, Any] | None = None,
        mode: LinearQuantMode | ModuleQuantMode | Mapping[str, Any] | str = (
            LinearQuantMode.SYMMETRIC
        ),
        ema_decay: float = 0.999,
        per_channel_wts: bool = False,
        quantize_inputs: bool = True,
        num_bits_inputs: int | None = None,
    ) -> None:
        super().__init__(model, optimizer, bits_activations, bits_weights, bits_bias, overrides)
        if not 0 <= ema_decay < 1:
            raise QuantizationError(f"ema_decay: {ema_decay} is not in [0, 1)")
        self.mode = ModuleQuantMode.parse(mode)
        self.ema_decay = ema_decay
        self.per_channel_wts = per_channel_wts
        self.quantize_inputs = quantize_inputs
        self.num_bits_inputs = (
            self.bits_activations
            if num_bits_inputs is None
            else full_is_none(num_bits_inputs, "num_bits_inputs")
        )

    def prepare_model(self, dummy_input: Any = None) -> nn.Module:
        """As `Quantizer.prepare_model`, and the inputs if they are to be quantized."""
        model = super().prepare_model(dummy_input)
        reads_ids = any(isinstance(module, nn.Embedding) for module in model.modules())
        if self.quantize_inputs and self.num_bits_inputs is not None and not reads_ids:
            mode = self.mode.activations
            quantize = FakeLinearQuantization(self.num_bits_inputs, mode, self.ema_decay)
            model.inputs_quant = quantize.to(next(model.parameters()).device)
            self._hooks.append(model.register_forward_pre_hook(_quantize_first_input))
        return model

    def plain_model(self) -> nn.Module:
        """As `Quantizer.plain_model`: its inputs are floats."""
        plain = super().plain_model()
        plain._modules.pop("inputs_quant", None)
        return plain

    def quantize_weight(self, weight: Tensor, bits: int) -> Tensor:
        """Ranges of the current weights."""
        with torch.no_grad():
            scale, zero = get_quant_params_from_tensor(
                weight.detach(), bits, self.mode.weights, per_channel=self.per_channel_wts
            )
        return _through_grid(weight, scale, zero, self.mode.weights.quantized_range(bits))

    def activation_quantizer(self, module: nn.Module, bits: int) -> nn.Module:
        """Tracked ranges."""
        return FakeLinearQuantization(bits, self.mode.activations, self.ema_decay)


def _quantize_first_input(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (model.get_submodule("inputs_quant")(inputs[0]), *inputs[1:])


class BoundedQuantization(nn.Module):
    """Clips to [low, high] and rounds to 2^bits levels of it, 0 among them when low is -high."""

    def __init__(self, low: float, high: float, bits: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        # an odd number of levels around zero, all of them when one-sided
        self.steps = 2**bits - 1 if low == 0 else 2**bits - 2

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        step = (self.high - self.low) / self.steps
        return round_through(x.clamp(self.low, self.high) / step) * step


def _bounds(module: nn.Module, relu_high: float = 1.0) -> tuple[float, float]:
    if isinstance(module, nn.Tanh):
        return -1.0, 1.0
    return 0.0, 1.0 if isinstance(module, nn.Sigmoid) else relu_high


class DorefaQuantizer(Quantizer):
    """DoReFa-Net (Zhou et al. 2016, arXiv 1606.06160).

    Weights pass a tanh, are brought to [0, 1], rounded and brought back. The paper leaves them in
    [-1, 1]; here they are then scaled to the magnitude that they had, without which a trained
    parent would be lost at once. Zero is none of the levels: a weight that is exactly 0 was pruned,
    and stays 0.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        bits_activations: int | None = 32,
        bits_weights: int | None = 32,
        bits_bias: int | None = None,
        overrides: str | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, optimizer, bits_activations, bits_weights, bits_bias, overrides)

    def quantize_weight(self, weight: Tensor, bits: int) -> Tensor:
        """tanh, rounding to 2^bits levels, and back."""
        squashed = torch.tanh(weight)
        largest = squashed.detach().abs().max().clamp(min=1e-12)
        steps = 2**bits - 1
        unit = round_through((squashed / (2 * largest) + 0.5) * steps) / steps
        image = (2 * unit - 1) * weight.detach().abs().max()
        # Taken off as a constant, so that the gradient of a weight that may come back passes.
        return image - image.detach() * (weight.detach() == 0)

    def activation_quantizer(self, module: nn.Module, bits: int) -> nn.Module:
        """Fixed bounds."""
        return BoundedQuantization(*_bounds(module), bits)


class LearnedClip(nn.Module):
    """Clips at a learned bound and rounds: PACT (Choi et al. 2018, arXiv 1805.06085)."""

    def __init__(self, init: float, two_sided: bool, bits: int) -> None:
        super().__init__()
        self.clip_val = nn.Parameter(torch.tensor(float(init)))
        self.two_sided = two_sided
        self.steps = 2**bits - 2 if two_sided else 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same; values that are clipped give their gradient to the bound."""
        bound = self.clip_val.abs().clamp(min=1e-6)
        low = -bound if self.two_sided else torch.zeros_like(bound)
        clipped = torch.minimum(torch.maximum(x, low), bound)
        step = (bound - low).detach() / self.steps
        return round_through(clipped / step) * step


class PACTQuantizer(DorefaQuantizer):
    """PACT: a learned bound for each activation, DoReFa for the weights.

    Args:
        act_clip_init_val: first bound of a ReLU; bounded activations start at 1.
        act_clip_decay: weight decay of the bounds.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        bits_activations: int | None = 32,
        bits_weights: int | None = 32,
        bits_bias: int | None = None,
        overrides: str | Mapping[str, Any] | None = None,
        act_clip_init_val: float = 8.0,
        act_clip_decay: float | None = None,
    ) -> None:
        super().__init__(model, optimizer, bits_activations, bits_weights, bits_bias, overrides)
        self.act_clip_init_val = act_clip_init_val
        self.act_clip_decay = act_clip_decay

    def activation_quantizer(self, module: nn.Module, bits: int) -> nn.Module:
        """A learned bound."""
        low, high = _bounds(module, self.act_clip_init_val)
        return LearnedClip(high, low < 0, bits)

    def _tell_optimizer(self, before: list[nn.Parameter]) -> None:
        super()._tell_optimizer(before)
        if self.optimizer is None or self.act_clip_decay is None:
            return
        bounds = [m.clip_val for m in self.model.modules() if isinstance(m, LearnedClip)]
        held = {id(bound) for bound in bounds}
        for group in self.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in held]
        if bounds:
            self.optimizer.add_param_group({"params": bounds, "weight_decay": self.act_clip_decay})


class WRPNQuantizer(Quantizer):
    """WRPN (Mishra et al. 2018, arXiv 1709.01134): weights clipped to [-1, 1], a bit for the sign.

    The paper widens layers to make up for the loss; choose a wider model for that.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        bits_activations: int | None = 32,
        bits_weights: int | None = 32,
        bits_bias: int | None = None,
        overrides: str | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, optimizer, bits_activations, bits_weights, bits_bias, overrides)

    def quantize_weight(self, weight: Tensor, bits: int) -> Tensor:
        """Clipped, rounded to multiples of 1 / (2^(bits - 1) - 1)."""
        steps = 2 ** (bits - 1) - 1
        return round_through(weight.clamp(-1, 1) * steps) / steps

    def activation_quantizer(self, module: nn.Module, bits: int) -> nn.Module:
        """Fixed bounds."""
        return BoundedQuantization(*_bounds(module), bits)
