"""`Quantizer`: replaces modules of a model by quantized ones, under the original's interface.

A subclass fills `replacement_factory` and `param_quantization_fn` in its constructor; which bits
each module gets follows from the defaults and the overrides.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.optim import Optimizer

from lmbench.distiller.name_patterns import matches
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.script_helpers import normalize_module_name

__all__ = [
    "BIT_SETTINGS",
    "FP_BKP_PREFIX",
    "QBits",
    "Quantizer",
    "hack_float_backup_parameter",
    "has_bias",
    "update_optimizer",
]

FP_BKP_PREFIX = "float_"
_WITH_WEIGHTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding)
BIT_SETTINGS = ("bits_activations", "bits_weights", "bits_bias")


class QBits(NamedTuple):
    """Bits of a module's outputs, weights and bias; None leaves them alone."""

    acts: int | None
    wts: int | None
    bias: int | None


class _ParamToQuant(NamedTuple):
    """A parameter that `quantize_params` quantizes.

    Attributes:
        fp_attr_name: where the floats are; with a float copy another name than `q_attr_name`.
        q_attr_name: where the quantized values go.
    """

    module: nn.Module
    module_name: str
    fp_attr_name: str
    q_attr_name: str
    num_bits: int


def has_bias(module: nn.Module) -> bool:
    """Whether the module has a bias."""
    return getattr(module, "bias", None) is not None


def hack_float_backup_parameter(module: nn.Module, name: str, num_bits: int) -> None:
    """The parameter becomes `float_NAME`, and NAME a buffer for its quantized values.

    Raises:
        ValueError: the module has no such parameter.
    """
    parameter = dict(module.named_parameters(recurse=False)).get(name)
    if parameter is None:
        raise ValueError(f"{type(module).__name__} has no parameter named {name!r}")
    delattr(module, name)
    module.register_parameter(FP_BKP_PREFIX + name, parameter)
    module.register_buffer(name, torch.zeros_like(parameter))


class Quantizer:
    """Base of quantizers; the arguments and the hooks are the original's.

    Args:
        model: changed in place by `prepare_model`.
        optimizer: gets the parameters that the preparation makes; needed with a float copy.
        bits_activations, bits_weights, bits_bias: None leaves them alone. Convolutions, linear
            layers and embeddings have weights and biases.
        overrides: OrderedDict, or its YAML, {regular expression: {bits_activations, bits_weights,
            bits_bias, arguments of the replacing function}}; the first that matches a whole name
            wins.
        train_with_fp_copy: train `float_NAME` and compute with NAME, its quantized image.

    Attributes:
        replacement_factory: {module type: function(module, name, qbits_map, **overrides) → the
            module that replaces it, or the same}.
        param_quantization_fn: function(parameter, meta) → its quantized image; `meta.num_bits`.
        module_qbits_map: the `QBits` of each module, by name.
        module_overrides_map: the other overrides of each module, by name.
        params_to_quantize: filled by `prepare_model`.

    Raises:
        TypeError: the overrides have no order.
        ValueError: a float copy without an optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        bits_activations: int | None = None,
        bits_weights: int | None = None,
        bits_bias: int | None = None,
        overrides: str | Mapping[str, Any] | None = None,
        train_with_fp_copy: bool = False,
    ) -> None:
        if train_with_fp_copy and optimizer is None:
            raise ValueError("optimizer: train_with_fp_copy makes parameters, so it needs one")
        self.model = model
        self.optimizer = optimizer
        self.default_qbits = QBits(bits_activations, bits_weights, bits_bias)
        self.overrides = _ordered(overrides)
        self.train_with_fp_copy = train_with_fp_copy
        self.replacement_factory: dict[type[nn.Module], Callable[..., nn.Module] | None]
        self.replacement_factory = defaultdict(lambda: None)
        self.param_quantization_fn: Callable[[Tensor, Any], Tensor] | None = None
        self.params_to_quantize: list[_ParamToQuant] = []
        self.modules_processed: dict[nn.Module, tuple[str, nn.Module | None]] = OrderedDict()
        self.module_qbits_map: dict[str, QBits] = {}
        self.module_overrides_map: dict[str, dict[str, Any]] = {}
        self.model.quantizer_metadata = {  # type: ignore[assignment]
            "type": type(self),
            "params": {
                "bits_activations": bits_activations,
                "bits_weights": bits_weights,
                "bits_bias": bits_bias,
                "overrides": copy.deepcopy(self.overrides),
            },
        }
        for name, module in model.named_modules():
            bits, rest = self._override_of(normalize_module_name(name))
            self._add_qbits_entry(name, type(module), bits)
            self.module_overrides_map[name] = rest

    def _override_of(self, name: str) -> tuple[QBits, dict[str, Any]]:
        for pattern, entry in self.overrides.items():
            if matches(pattern, name):
                bits = QBits(
                    *(
                        entry.get(key, default)
                        for key, default in zip(BIT_SETTINGS, self.default_qbits, strict=True)
                    )
                )
                return bits, OrderedDict((k, v) for k, v in entry.items() if k not in BIT_SETTINGS)
        return self.default_qbits, OrderedDict()

    def _add_qbits_entry(self, module_name: str, module_type: type, qbits: QBits) -> None:
        if module_type not in _WITH_WEIGHTS:
            qbits = QBits(qbits.acts, None, None)
        self.module_qbits_map[module_name] = qbits

    def prepare_model(self, dummy_input: Any = None) -> nn.Module:
        """Quantizes the model in place and returns it.

        Args:
            dummy_input: given to `_pre_prepare_model`; the original also traces a graph with it.

        Raises:
            TypeError: an override that the replacing function does not take.
            ValueError: overrides of a module that is not quantized.
        """
        before = list(self.model.parameters())
        self._pre_prepare_model(dummy_input)
        self._prepare_model_impl()
        self._update_optimizer(before)
        self._post_prepare_model()
        if before:
            self.model.to(before[0].device)
        return self.model

    def _pre_prepare_model(self, dummy_input: Any) -> None:
        """For subclasses: before modules are replaced."""

    def _post_prepare_model(self) -> None:
        """For subclasses: after all else."""

    def _prepare_model_impl(self) -> None:
        """Replaces the modules and lists the parameters to quantize."""
        self._pre_process_container(self.model)
        for module_name, module in self.model.named_modules():
            bits = self.module_qbits_map.get(module_name, QBits(None, None, None))
            for name in dict(module.named_parameters(recurse=False)):
                num_bits = bits.bias if name.endswith("bias") else bits.wts
                if num_bits is None:
                    continue
                floats = name
                if self.train_with_fp_copy:
                    hack_float_backup_parameter(module, name, num_bits)
                    floats = FP_BKP_PREFIX + name
                self.params_to_quantize.append(
                    _ParamToQuant(module, module_name, floats, name, num_bits)
                )

    def _pre_process_container(self, container: nn.Module, prefix: str = "") -> None:
        # Not named_children, which leaves out the second name of a shared module.
        for name, module in list(container._modules.items()):
            if module is None:
                continue
            full_name = prefix + name
            if module in self.modules_processed:
                first, replacement = self.modules_processed[module]
                warnings.warn(
                    # Callers filter by these words, which are the original's.
                    f"Module '{full_name}' references to same module as '{first}'.",
                    stacklevel=2,
                )
                if replacement is not None:
                    setattr(container, name, replacement)
                continue
            replacement = self._replacement(module, full_name)
            if replacement is not module:
                self.modules_processed[module] = full_name, replacement
                setattr(container, name, replacement)
                if not _has_children(module) and _has_children(replacement):
                    self._map_inside(full_name, replacement)
            else:
                self.modules_processed[module] = full_name, None
            if _has_children(module):
                self._pre_process_container(module, full_name + ".")

    def _replacement(self, module: nn.Module, name: str) -> nn.Module:
        bits, own = self.module_qbits_map[name], self.module_overrides_map[name]
        if bits.acts is None and bits.wts is None:
            if own:
                raise ValueError(
                    f"overrides of {name!r}: {', '.join(own)} without bits: it is not quantized"
                )
            return module
        replace = self.replacement_factory.get(type(module))
        if replace is None:
            return module
        accepted = _accepted(replace)
        unknown = [key for key in own if accepted is not None and key not in accepted]
        if unknown:
            raise TypeError(
                f"overrides of {name!r}: {type(self).__name__} takes no {', '.join(unknown)} "
                f"for {type(module).__name__}"
            )
        return replace(module, name, self.module_qbits_map, **own)

    def _map_inside(self, name: str, replacement: nn.Module) -> None:
        """A module without children became one with some, which have its bits."""
        bits = self.module_qbits_map[name]
        for inner, module in replacement.named_modules():
            if inner:
                self._add_qbits_entry(f"{name}.{inner}", type(module), bits)
        self.module_qbits_map[name] = QBits(bits.acts, None, None)

    def quantize_params(self) -> None:
        """Puts the quantized image of each parameter in its place.

        Raises:
            QuantizationError: there are some, and the subclass set no `param_quantization_fn`.
        """
        for meta in self.params_to_quantize:
            if self.param_quantization_fn is None:
                raise QuantizationError(
                    f"{type(self).__name__} has parameters to quantize: set param_quantization_fn"
                )
            image = self.param_quantization_fn(getattr(meta.module, meta.fp_attr_name), meta)
            if self.train_with_fp_copy:
                setattr(meta.module, meta.q_attr_name, image)
            else:
                getattr(meta.module, meta.q_attr_name).data = image.detach()

    def _get_updated_optimizer_params_groups(self) -> list[dict[str, Any]]:
        """For subclasses: all groups of the optimizer, in place of those it has."""
        return [{"params": list(self.model.parameters())}]

    def _get_new_optimizer_params_groups(self) -> list[dict[str, Any]]:
        """For subclasses: groups of new parameters, with settings of their own."""
        return []

    def _update_optimizer(self, before: Iterable[nn.Parameter]) -> None:
        if self.optimizer is None:
            return
        replace = Quantizer._get_updated_optimizer_params_groups
        if type(self)._get_updated_optimizer_params_groups is not replace:
            groups = self._get_updated_optimizer_params_groups()
            made = type(self.optimizer)(groups, **self.optimizer.defaults)
            self.optimizer.param_groups = made.param_groups
            return
        update_optimizer(
            self.optimizer, self.model, before, self._get_new_optimizer_params_groups()
        )


def update_optimizer(
    optimizer: Optimizer,
    model: nn.Module,
    before: Iterable[nn.Parameter],
    groups: Iterable[dict[str, Any]] = (),
) -> None:
    """Parameters that left the model leave its optimizer; new ones join the group of those.

    Args:
        before: the model's parameters before it was changed.
        groups: of new parameters that get a group of their own.

    Raises:
        QuantizationError: those that left were in several groups.
    """
    old = {id(p) for p in before}
    now = {id(p): p for p in model.parameters()}
    own = [{**group, "params": list(group["params"])} for group in groups]
    apart = {id(p) for group in own for p in group["params"]}
    gone = old - set(now)
    fresh = [p for key, p in now.items() if key not in old and key not in apart]
    homes = [g for g in optimizer.param_groups if any(id(p) in gone for p in g["params"])]
    if fresh and gone and len(homes) != 1:
        raise QuantizationError(
            "the optimizer holds the replaced weights in several groups: make it after "
            "prepare_model"
        )
    for group in homes:
        for parameter in group["params"]:
            if id(parameter) in gone:
                optimizer.state.pop(parameter, None)
        group["params"] = [p for p in group["params"] if id(p) not in gone]
    if fresh:
        (homes[0] if homes else optimizer.param_groups[0])["params"].extend(fresh)
    for group in own:
        if group["params"]:
            optimizer.add_param_group(group)


def _ordered(overrides: str | Mapping[str, Any] | None) -> OrderedDict[str, dict[str, Any]]:
    if isinstance(overrides, str):
        overrides = OrderedDict(yaml.safe_load(overrides) or {})
    if overrides is None:
        return OrderedDict()
    if not isinstance(overrides, OrderedDict):
        raise TypeError("overrides: must be a collections.OrderedDict, YAML text or None")
    return copy.deepcopy(overrides)


def _has_children(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _accepted(function: Callable[..., Any]) -> set[str] | None:
    """The names of its arguments; None where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
