"""The base of training-time quantizers: quantized weights in the forward pass, floats to train.

Each quantized layer keeps its weight as the parameter `float_weight`, which the optimizer
updates, and computes with `weight`, its quantized image, through which gradients pass straight.
The image is refreshed before each forward pass of the layer (for a recurrent layer, once a
sequence), and by `quantize_params`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lmbench.distiller.modules import (
    EltwiseAdd,
    EltwiseMult,
    EltwiseSub,
    ModularRecurrent,
    convert_model_to_modular,
    convert_model_to_pytorch,
)
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.fake_quantization import QuantizedActivation
from lmbench.distiller.quantization.modes import BITS, check_bits
from lmbench.distiller.quantization.quantizer import BIT_SETTINGS, FP_BKP_PREFIX, Quantizer
from lmbench.distiller.quantization.settings import match_overrides, parse_overrides
from lmbench.distiller.quantization.trained_codes import CODE_BUFFERS, LEARNED
from lmbench.distiller.quantization.wrappers import check_unquantized

__all__ = ["TrainingQuantizer", "full_is_none"]

_ACTIVATIONS = (nn.Sigmoid, nn.Tanh, nn.ReLU)
# What the original gives as the width of what is not quantized.
_FULL = 32
_ELTWISE = (EltwiseAdd, EltwiseSub, EltwiseMult)
_FLOATS = FP_BKP_PREFIX + "weight"


def full_is_none(bits: int | None, what: str, limits: tuple[int, int] = BITS) -> int | None:
    """The width in bits; None for the original's 32, which means "not quantized"."""
    return None if bits == _FULL else check_bits(bits, what, limits)


class TrainingQuantizer(Quantizer, ABC):
    """Quantizes a model while it trains; the arguments are the original's.

    Args:
        model: changed in place by `prepare_model`. `nn.LSTM`, `nn.GRU` and `nn.RNN` become
            modular, so that recurrent weights and gates are really quantized.
        optimizer: gets the parameters that replace others; None when there is none yet.
        bits_activations: 2 to 16 for the outputs of activations (and, in some quantizers,
            element-wise operations); None, or the original's 32, leaves them alone.
        bits_weights: 2 to 16 for linear layers and embeddings; None or 32 leaves them alone.
        bits_bias: accepted; biases stay floats, as accumulators are wide.
        overrides: {regular expression: {bits_activations, bits_weights}} or YAML text; the first
            that matches a module's full name wins.

    Raises:
        QuantizationError: bits out of range, or a quantized model.
    """

    quantizes_eltwise = False
    weight_widths = BITS

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        bits_activations: int | None = None,
        bits_weights: int | None = None,
        bits_bias: int | None = None,
        overrides: str | Mapping[str, Any] | None = None,
    ) -> None:
        check_unquantized(model, "train")
        self.bits_activations = full_is_none(bits_activations, "bits_activations")
        self.bits_weights = full_is_none(bits_weights, "bits_weights", self.weight_widths)
        self.bits_bias = bits_bias
        self.bits, self._waits = self.bits_weights, False
        super().__init__(
            model,
            optimizer,
            self.bits_activations,
            self.bits_weights,
            bits_bias,
            OrderedDict(parse_overrides(overrides)),
        )
        for pattern, changes in self.overrides.items():
            for key in changes:
                if key not in BIT_SETTINGS:
                    raise QuantizationError(
                        f"override {pattern!r}: unknown setting {key!r}; "
                        f"choose from {', '.join(BIT_SETTINGS)}"
                    )
        self._weights: dict[str, tuple[nn.Module, int]] = {}
        self._own_width: set[str] = set()
        self.bits_schedule: dict[int, int] = {}
        self.prepared = False

    @abstractmethod
    def quantize_weight(self, weight: Tensor, bits: int) -> Tensor:
        """The quantized image of a weight, with a gradient to it."""

    @abstractmethod
    def activation_quantizer(self, module: nn.Module, bits: int) -> nn.Module:
        """What quantizes the output of an activation or element-wise module."""

    def prepare_model(self, dummy_input: Any = None) -> nn.Module:
        """Puts the quantization into the model.

        Args:
            dummy_input: ignored; kept for the original's callers.

        Raises:
            QuantizationError: an override that matches nothing, or a second call.
        """
        if self.prepared:
            raise QuantizationError("prepare_model was called already")
        super().prepare_model(dummy_input)
        self.prepared = True
        self.quantize_params()
        return self.model

    def _prepare_model_impl(self) -> None:
        device = next((p.device for p in self.model.parameters()), None)
        convert_model_to_modular(self.model)
        targets = self._targets()
        if not targets:
            raise QuantizationError(
                "this model has no module that can be quantized: a layer that is the whole model "
                "is wrapped in an nn.Module of its own first"
            )
        matched = match_overrides(self.overrides, targets)
        floats: dict[int, nn.Parameter] = {}
        shared: dict[int, tuple[str, int | None]] = {}
        for name, module in targets.items():
            changes = matched.get(name, {})
            if isinstance(module, nn.Linear | nn.Embedding):
                bits = changes.get("bits_weights", self.bits_weights)
                bits = full_is_none(bits, name, self.weight_widths)
                other, others = shared.setdefault(id(module.weight), (name, bits))
                if bits != others:
                    raise QuantizationError(
                        f"overrides: '{other}' and '{name}' are tied to one matrix, which cannot "
                        f"have {others or 32} and {bits or 32} bits_weights: give both the same"
                    )
                if "bits_weights" in changes:
                    self._own_width.add(name)
                if (name in self._own_width) != (other in self._own_width) and self.bits_schedule:
                    raise QuantizationError(
                        f"overrides: '{other}' and '{name}' are tied to one matrix, which cannot "
                        "follow bits_schedule by half: give bits_weights to both, or to neither"
                    )
                if bits is not None:
                    self._take_weight(name, module, bits, floats)
            else:
                bits = full_is_none(changes.get("bits_activations", self.bits_activations), name)
                if bits is not None:
                    parent, _, leaf = name.rpartition(".")
                    quantized = QuantizedActivation(module, self.activation_quantizer(module, bits))
                    setattr(self.model.get_submodule(parent), leaf, quantized.to(device))
        self._refresh_before_forward()

    @property
    def exact_in_bf16(self) -> bool:
        """Does bf16 hold all that this rounds to, so that products in bf16 round nothing again?"""
        return False

    def wait(self) -> None:
        """Leave the model in floats until `begin_epoch`."""
        self._set_waits(True)
        self.quantize_params()

    def begin_epoch(self, epoch: int, *, first: bool = False) -> bool:
        """Before each epoch of its policy, counted from 0, and whether it is the `first` of them,
        with this epoch's masks on the weights: whether it quantizes, or weights have fewer bits,
        only from now on."""
        began = self._waits
        self._set_waits(False)
        return began

    def widths(self) -> str:
        """The bits of now, as the log says them."""
        has = {"weights": self.bits, "activations": self.bits_activations}
        told = [f"{bits}-bit {what}" for what, bits in has.items() if bits]
        return " and ".join(told) or "the quantizer's overrides"

    def begin_batch(self, step: int) -> None:
        """Before each batch of those epochs, counted from 0 over the whole training."""

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs and no buffer of the model has, JSON-able."""
        return {"waits": self._waits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave, once the model has its parameters and buffers back."""
        self._set_waits(bool(state.get("waits", False)))

    def quantize_params(self) -> None:
        """Refreshes the quantized image of every weight from its float parameter."""
        for name in self._weights:
            self._refresh(name)

    def plain_model(self) -> nn.Module:
        """A copy with the quantized values as ordinary weights and `torch.nn`'s layers.

        It has the parameters of the model before preparation, so it is what to save. Activations
        are those of the float model: quantize them after training if they were quantized in it.
        """
        self.quantize_params()
        values = {name: module.weight for name, (module, _) in self._weights.items()}
        for module, _ in self._weights.values():
            module.weight = None  # type: ignore[assignment]  # graphs cannot be copied
        try:
            plain = copy.deepcopy(self.model)
        finally:
            for name, (module, _) in self._weights.items():
                module.weight = values[name]
        kept: dict[int, nn.Parameter] = {}
        for name in self._weights:
            module = plain.get_submodule(name)
            held = module.get_parameter(_FLOATS)
            value = values[name]
            assert isinstance(value, Tensor)
            baked = kept.setdefault(id(held), nn.Parameter(value.detach().clone()))
            del module.weight
            module.register_parameter(_FLOATS, None)
            module.register_parameter("weight", baked)
            for held_by_codes in (*CODE_BUFFERS, *LEARNED):
                module._buffers.pop(held_by_codes, None)
                module._parameters.pop(held_by_codes, None)
        for module in plain.modules():
            module._forward_pre_hooks.clear()
            for leaf, child in list(module.named_children()):
                if isinstance(child, QuantizedActivation):
                    setattr(module, leaf, child.wrapped_module)
        return convert_model_to_pytorch(plain)

    def _targets(self) -> dict[str, nn.Module]:
        kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Embedding, *_ACTIVATIONS)
        if self.quantizes_eltwise:
            kinds = (*kinds, *_ELTWISE)
        return {n: m for n, m in self.model.named_modules() if n and isinstance(m, kinds)}

    def _take_weight(
        self, name: str, module: nn.Module, bits: int, floats: dict[int, nn.Parameter]
    ) -> None:
        weight = module.get_parameter("weight")
        held = floats.setdefault(id(weight), weight)  # tied layers train one parameter
        del module.weight
        module.register_parameter(_FLOATS, held)
        self._weights[name] = (module, bits)

    def floats(self, name: str) -> nn.Parameter:
        """The parameter that trains, of a quantized module."""
        return self._weights[name][0].get_parameter(_FLOATS)

    def _quantize(self, name: str) -> None:
        module, bits = self._weights[name]
        module.weight = self.quantize_weight(self.floats(name), bits)

    def _refresh(self, name: str) -> None:
        if self._waits:
            floats = self.floats(name)
            # Like an image no parameter of the module, whatever is computed with it.
            self._weights[name][0].weight = floats.view_as(floats)
        else:
            self._quantize(name)

    def _set_waits(self, waits: bool) -> None:
        self._waits = waits
        for module in self.model.modules():
            if isinstance(module, QuantizedActivation):
                module.waits = waits

    def _refresh_before_forward(self) -> None:
        recurrent = {
            prefix + "."
            for prefix, module in self.model.named_modules()
            if isinstance(module, ModularRecurrent)
        }
        owners: dict[str, list[str]] = {}
        for name in self._weights:
            owner = next((p[:-1] for p in recurrent if name.startswith(p)), name)
            owners.setdefault(owner, []).append(name)
        for owner, names in owners.items():

            def refresh(_module: nn.Module, _inputs: Any, names: list[str] = names) -> None:
                for name in names:
                    self._refresh(name)

            module = self.model.get_submodule(owner) if owner else self.model
            module.register_forward_pre_hook(refresh)
