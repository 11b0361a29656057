"""Quantization while training: range-linear, DoReFa, PACT and WRPN, for recurrent models too.

The papers' activations are ReLUs in [0, 1]; gates are sigmoids in [0, 1] and tanhs in [-1, 1], so
their outputs are quantized over those ranges (He et al. 2016, arXiv 1611.10176, do the same).

Grids are the original's. Where its rounding gives one level more than the bits hold (the largest
weights of an even symmetric grid), ours saturates.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lmbench.distiller.quantization.clipping import get_quant_params_from_tensor
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.fake_quantization import (
    ClippedLinearQuantization,
    FakeLinearQuantization,
    LearnedClippedLinearQuantization,
    QuantizedActivation,
    straight_through,
)
from lmbench.distiller.quantization.modes import BITS, CODE_BITS, check_bits
from lmbench.distiller.quantization.scale_and_zero_point import (
    LinearQuantMode,
    asymmetric_linear_quantization_params,
    symmetric_linear_quantization_params,
)
from lmbench.distiller.quantization.settings import ModuleQuantMode
from lmbench.distiller.quantization.trained_codes import TrainedCodes
from lmbench.distiller.quantization.training_base import TrainingQuantizer, full_is_none

__all__ = [
    "ClippedLinearQuantization",
    "DorefaParamsBinarizationSTE",
    "DorefaQuantizer",
    "LearnedClippedLinearQuantization",
    "PACTQuantizer",
    "QuantAwareTrainRangeLinearQuantizer",
    "WRPNQuantizer",
    "dorefa_quantize_param",
]


class QuantAwareTrainRangeLinearQuantizer(TrainingQuantizer):
    """Linear quantization by ranges, in the forward pass (Jacob et al. 2018, arXiv 1712.05877).

    Args:
        mode: of weights and activations, which may differ.
        ema_decay: of the activations' tracked ranges.
        per_channel_wts: a range for each output, and for each row of an embedding (of which the
            original takes one; ties stay ties so).
        quantize_inputs: quantize the model's first input, too, where it is floats and not ids: a
            model with an embedding is taken to read ids.
        num_bits_inputs: of that; None takes `bits_activations`.
        rounding: `nearest`, or `codes`: weights of 1 to 4 bits are sums of scaled signs (see
            `trained_codes`), wider ones are rounded to nearest; modes and `per_channel_wts` are of
            no account to codes.
        group_size: columns of a row that share the scales of their codes, a multiple of 8; None
            for whole rows.
        learned_scales: codes whose scales are learned with the weights (LSQ, see
            `trained_codes`), instead of being fitted to them again and again.
        bits_schedule: {epoch, counted from 0: the bits of weights from then on}; until the first
            `bits_weights`. Modules whose width an override gives keep that.

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
        *,
        rounding: str = "nearest",
        group_size: int | None = None,
        learned_scales: bool = False,
        bits_schedule: Mapping[int, int] | None = None,
    ) -> None:
        if rounding not in ("nearest", "codes"):
            raise QuantizationError(f"rounding: {rounding!r} is unknown: use nearest or codes")
        if group_size is not None and (rounding != "codes" or group_size < 8 or group_size % 8):
            raise QuantizationError(
                f"group_size: {group_size}: is for rounding: codes, and a multiple of 8"
            )
        if learned_scales and rounding != "codes":
            raise QuantizationError("learned_scales: is for rounding: codes")
        if rounding == "codes":
            self.weight_widths = (CODE_BITS[0], BITS[1])
        super().__init__(model, optimizer, bits_activations, bits_weights, bits_bias, overrides)
        self.rounding, self.group_size = rounding, group_size
        self.learned_scales = learned_scales
        self.bits_schedule = dict(sorted((bits_schedule or {}).items()))
        for bits in self.bits_schedule.values():
            check_bits(bits, "bits_schedule", self.weight_widths)
        if self.bits_schedule and self.bits_weights is None:
            raise QuantizationError(
                "bits_schedule: needs bits_weights, which holds until its first"
            )
        self._codes: dict[str, TrainedCodes] = {}
        self._made: dict[tuple[int, int | None], str] = {}
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
        """As `TrainingQuantizer.prepare_model`, and the inputs if they are to be quantized."""
        model = super().prepare_model(dummy_input)
        reads_ids = any(isinstance(module, nn.Embedding) for module in model.modules())
        if self.quantize_inputs and self.num_bits_inputs is not None and not reads_ids:
            mode = self.mode.activations
            quantize = FakeLinearQuantization(self.num_bits_inputs, mode, self.ema_decay)
            model.inputs_quant = quantize.to(next(model.parameters()).device)

            def quantize_first(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
                if self._waits:
                    return inputs
                return (model.get_submodule("inputs_quant")(inputs[0]), *inputs[1:])

            model.register_forward_pre_hook(quantize_first)
        return model

    def plain_model(self) -> nn.Module:
        """As `TrainingQuantizer.plain_model`: its inputs are floats."""
        plain = super().plain_model()
        plain._modules.pop("inputs_quant", None)
        return plain

    def quantize_weight(self, weight: Tensor, bits: int) -> Tensor:
        """Ranges of the current weights."""
        with torch.no_grad():
            scale, zero = get_quant_params_from_tensor(
                weight.detach(), bits, self.mode.weights, per_channel=self.per_channel_wts
            )
        return straight_through(weight, scale, zero, self.mode.weights.quantized_range(bits))

    @property
    def exact_in_bf16(self) -> bool:
        """True of codes alone: they are whole numbers up to 127 times a power of two."""
        widths = [*self.bits_schedule.values(), *(bits for _, bits in self._weights.values())]
        if self.rounding != "codes" or max(widths, default=0) > CODE_BITS[1]:
            return False
        return not any(isinstance(part, QuantizedActivation) for part in self.model.modules())

    def begin_epoch(self, epoch: int, *, first: bool = False) -> bool:
        """Lowers the bits where they are due; codes get new scales with them, and at the first."""
        began = super().begin_epoch(epoch, first=first)
        due = [bits for start, bits in self.bits_schedule.items() if start <= epoch]
        bits = due[-1] if due else self.bits
        narrowed = began or bits != self.bits
        if not (narrowed or first):
            return False
        before = {} if began or first else dict(self._coded())
        if bits is not None:
            self._take_bits(bits)
        for codes, bits in self._coded():
            if codes.learned is None or before.get(codes) != bits:
                codes.fit(bits)
                if self.optimizer is not None and codes.learned is not None:
                    # Its momentum is of steps of the width before.
                    self.optimizer.state.pop(codes.learned, None)
        return narrowed

    def begin_batch(self, step: int) -> None:
        """Fits the scales of some rows of each weight under codes."""
        for codes, bits in self._coded():
            codes.fit_share(bits, step)

    def state_dict(self) -> dict[str, Any]:
        """The bits of now, too."""
        return {**super().state_dict(), "bits": self.bits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Scales are in buffers of the model."""
        super().load_state_dict(state)
        bits = check_bits(state.get("bits"), "bits", self.weight_widths)
        if bits is not None:
            self._take_bits(bits)

    def _take_weight(
        self, name: str, module: nn.Module, bits: int, floats: dict[int, nn.Parameter]
    ) -> None:
        super()._take_weight(name, module, bits, floats)
        if self.rounding != "codes":
            return
        weight = self.floats(name)
        width = bits if name in self._own_width else None
        # Modules that share a weight and its width share the codes, too.
        made = self._made.setdefault((id(weight), width), name)
        if made == name:
            self._codes[name] = TrainedCodes(
                module, weight, self.group_size, learned=self.learned_scales
            )
            if bits <= CODE_BITS[1]:
                self._codes[name].fit(bits)
        self._codes[name] = self._codes[made]

    def _quantize(self, name: str) -> None:
        module, bits = self._weights[name]
        if name not in self._codes or bits > CODE_BITS[1]:
            super()._quantize(name)
        else:
            module.weight = self._codes[name].image(bits)

    def _coded(self) -> list[tuple[TrainedCodes, int]]:
        """The codes that are in use, each once, with their bits."""
        found = {codes: self._weights[name][1] for name, codes in self._codes.items()}
        return [(codes, bits) for codes, bits in found.items() if bits <= CODE_BITS[1]]

    def _take_bits(self, bits: int) -> None:
        """The bits of every weight for which no override gives another width."""
        self.bits = bits
        for name, (module, _) in self._weights.items():
            if name not in self._own_width:
                self._weights[name] = module, bits

    def activation_quantizer(self, module: nn.Module, bits: int) -> nn.Module:
        """Tracked ranges."""
        return FakeLinearQuantization(bits, self.mode.activations, self.ema_decay)


def _bounds(module: nn.Module, relu_high: float = 1.0) -> tuple[float, bool]:
    """The largest magnitude of an activation's outputs, and whether they have both signs."""
    return (relu_high if isinstance(module, nn.ReLU) else 1.0), isinstance(module, nn.Tanh)


class DorefaParamsBinarizationSTE(torch.autograd.Function):
    """sign(w) times the mean magnitude; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, inplace: bool = False) -> Tensor:
        return input.sign() * input.abs().mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, None]:
        return grad_outputs[0], None


def dorefa_quantize_param(param_fp: Tensor, param_meta: Any) -> Tensor:
    """tanh, brought to [0, 1], rounded to 2^bits levels and brought to [-1, 1].

    Args:
        param_meta: its `num_bits`; 1 takes the sign.
    """
    bits = param_meta.num_bits
    if bits == 1:
        return DorefaParamsBinarizationSTE.apply(param_fp)  # type: ignore[return-value]
    squashed = param_fp.tanh()
    unit = squashed / (2 * squashed.abs().max().clamp(min=1e-12)) + 0.5
    scale, zero_point = asymmetric_linear_quantization_params(bits, 0.0, 1.0, signed=False)
    q_range = LinearQuantMode.ASYMMETRIC_UNSIGNED.quantized_range(bits)
    return 2 * straight_through(unit, scale, zero_point, q_range) - 1


class DorefaQuantizer(TrainingQuantizer):
    """DoReFa-Net (Zhou et al. 2016, arXiv 1606.06160).

    Args:
        keep_magnitude: scale the image of a weight, which lies in [-1, 1], to the largest
            magnitude of the weight. Without it a trained parent's weights grow many times.

    Zero is none of the levels: a weight that is exactly 0 was pruned, and stays 0.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        bits_activations: int | None = 32,
        bits_weights: int | None = 32,
        bits_bias: int | None = None,
        overrides: str | Mapping[str, Any] | None = None,
        *,
        keep_magnitude: bool = False,
    ) -> None:
        super().__init__(model, optimizer, bits_activations, bits_weights, bits_bias, overrides)
        self.keep_magnitude = keep_magnitude

    def quantize_weight(self, weight: Tensor, bits: int) -> Tensor:
        """See `dorefa_quantize_param`."""
        image = dorefa_quantize_param(weight, SimpleNamespace(num_bits=bits))
        if self.keep_magnitude:
            image = image * weight.detach().abs().max()
        # Taken off as a constant, so that the gradient of a weight that may come back passes.
        return image - image.detach() * (weight.detach() == 0)

    def activation_quantizer(self, module: nn.Module, bits: int) -> nn.Module:
        """Fixed bounds."""
        bound, two_sided = _bounds(module)
        return ClippedLinearQuantization(bits, bound, two_sided=two_sided)


class PACTQuantizer(DorefaQuantizer):
    """PACT: a learned bound for each activation, DoReFa for the weights.

    Args:
        act_clip_init_val: first bound of a ReLU; bounded activations start at 1.
        act_clip_decay: weight decay of the bounds.
        keep_magnitude: see `DorefaQuantizer`.
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
        *,
        keep_magnitude: bool = False,
    ) -> None:
        super().__init__(
            model,
            optimizer,
            bits_activations,
            bits_weights,
            bits_bias,
            overrides,
            keep_magnitude=keep_magnitude,
        )
        self.act_clip_init_val = act_clip_init_val
        self.act_clip_decay = act_clip_decay

    def activation_quantizer(self, module: nn.Module, bits: int) -> nn.Module:
        """A learned bound."""
        bound, two_sided = _bounds(module, self.act_clip_init_val)
        return LearnedClippedLinearQuantization(bits, bound, two_sided=two_sided)

    def _get_new_optimizer_params_groups(self) -> list[dict[str, Any]]:
        if self.act_clip_decay is None:
            return []
        bounds = [
            module.clip_val
            for module in self.model.modules()
            if isinstance(module, LearnedClippedLinearQuantization)
        ]
        return [{"params": bounds, "weight_decay": self.act_clip_decay}]


class WRPNQuantizer(TrainingQuantizer):
    """WRPN (Mishra et al. 2018, arXiv 1709.01134): weights clipped to [-1, 1], a bit for the sign.

    The paper widens layers to make up for the loss; choose a wider model for that.

    Args:
        restrict_range: steps of 1 / (2^(bits - 1) - 1), as in the paper, so that 1 and -1 are
            levels; the original's are 2 / (2^bits - 1).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        bits_activations: int | None = 32,
        bits_weights: int | None = 32,
        bits_bias: int | None = None,
        overrides: str | Mapping[str, Any] | None = None,
        *,
        restrict_range: bool = False,
    ) -> None:
        super().__init__(model, optimizer, bits_activations, bits_weights, bits_bias, overrides)
        restricted = LinearQuantMode.SYMMETRIC_RESTRICTED
        self._mode = restricted if restrict_range else LinearQuantMode.SYMMETRIC

    def quantize_weight(self, weight: Tensor, bits: int) -> Tensor:
        """Clipped and rounded; clipped weights get no gradient."""
        restrict = self._mode is LinearQuantMode.SYMMETRIC_RESTRICTED
        scale, zero_point = symmetric_linear_quantization_params(bits, 1.0, restrict)
        q_range = self._mode.quantized_range(bits)
        return straight_through(weight.clamp(-1, 1), scale, zero_point, q_range)

    def activation_quantizer(self, module: nn.Module, bits: int) -> nn.Module:
        """Fixed bounds."""
        bound, two_sided = _bounds(module)
        return ClippedLinearQuantization(bits, bound, two_sided=two_sided)
