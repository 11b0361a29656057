"""Quantization of a trained model, by calibrated statistics or dynamically."""

from __future__ import annotations

import copy
import warnings
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from lmbench.distiller.errors import did_you_mean
from lmbench.distiller.modules import (
    convert_model_to_modular,
)
from lmbench.distiller.quantization.calibration import ActivationStats, load_stats, stats_for
from lmbench.distiller.quantization.clipping import ClipMode, parse_clip
from lmbench.distiller.quantization.command_line import quantizer_arguments
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.fused import install_fused
from lmbench.distiller.quantization.modes import LinearQuantMode, check_bits
from lmbench.distiller.quantization.net_aware import cell_roles, narrowed, rectified_sums
from lmbench.distiller.quantization.replacements import ACTIVATIONS, WRAPPERS, Replacements
from lmbench.distiller.quantization.settings import (
    ModuleQuantMode,
    ModuleSettings,
    QuantSettings,
    parse_overrides,
)
from lmbench.distiller.quantization.weights import (
    RangeLinearEmbeddingWrapper,
    RangeLinearQuantParamLayerWrapper,
)
from lmbench.distiller.quantization.wrappers import RangeLinearQuantWrapper, check_unquantized

__all__ = [
    "PostTrainLinearQuantizer",
    "SaturationWarning",
    "modular_copy",
    "quantizable_modules",
    "quantize",
    "saturating_modules",
    "saturation_warning",
]

_QUANTIZABLE = (nn.Linear, nn.Embedding, *ACTIVATIONS, *WRAPPERS)


class SaturationWarning(UserWarning):
    """Accumulators are too narrow for the largest sums."""


def saturating_modules(model: nn.Module) -> list[str]:
    """The quantized linear layers whose sums can exceed their accumulators."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, RangeLinearQuantParamLayerWrapper) and module.may_saturate()
    ]


def saturation_warning(names: list[str]) -> str:
    """What to do about `saturating_modules`, in a line."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"sums of {names[0]}{more} can exceed their accumulators and saturate: widen bits_accum, "
        "or leave it out for a width that holds"
    )


def quantizable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that can be quantized, by name, in the order of the model."""
    return {n: m for n, m in model.named_modules() if n and isinstance(m, _QUANTIZABLE)}


class PostTrainLinearQuantizer:
    """Replaces the modules of a model by wrappers that compute on integers.

    Args:
        model: changed in place by `prepare_model`. Convert its recurrent layers first
            (`convert_model_to_modular`), or pass it to `quantize`, which does and copies it.
        bits_activations: 2 to 16, or None to quantize weights alone.
        bits_parameters: 2 to 16, or None.
        bits_accum: width of the accumulators.
        overrides: YAML text or mapping {regular expression: {setting: value}}; the first that
            matches a module's full name wins. Settings: the fields of `ModuleSettings`, and
            `fp16` or `bf16`.
        mode: a `LinearQuantMode`, its name, a `ModuleQuantMode`, or a mapping with `activations`
            and `weights`.
        clip_acts: how activation ranges are chosen.
        per_channel_wts: a range for each output of a linear layer.
        model_activation_stats: statistics, or the path of their YAML; None quantizes linear
            layers dynamically, by what is in each input, and nothing else.
        fp16: compute everything in 16-bit floats.
        clip_n_stds: for N_STD.
        clip_half_range: outputs pass a ReLU.
        scale_approx_mult_bits: activation scales as integer multiplier and shift.
        inputs_quant_auto_fallback: quantize an input that carries no scale by its statistics.
        fpq_module: compute everything but sigmoids and tanhs in "16", "bf16", "32" or "64".
        save_fp_weights: keep the weights as they were beside the integers.
        also_clip_weights: choose weight ranges by `clip_acts` too.
        settings: everything above (but the statistics) in one; it then replaces them.
        input_moments: as `Replacements` takes them.

    The arguments are the original's, with its defaults; `{encoder: {per_row_embedding: true}}`
    gives an embedding a scale for each row, as `settings` do.

    Raises:
        QuantizationError: bits out of range, an unknown setting, or a quantized model.
    """

    def __init__(
        self,
        model: nn.Module,
        bits_activations: int | None = 8,
        bits_parameters: int | None = 8,
        bits_accum: int = 32,
        overrides: str | Mapping[str, Any] | None = None,
        mode: LinearQuantMode | ModuleQuantMode | Mapping[str, Any] | str = (
            LinearQuantMode.SYMMETRIC
        ),
        clip_acts: ClipMode | str = ClipMode.NONE,
        per_channel_wts: bool = False,
        model_activation_stats: ActivationStats | str | Path | None = None,
        fp16: bool = False,
        clip_n_stds: float | None = None,
        clip_half_range: bool = False,
        scale_approx_mult_bits: int | None = None,
        inputs_quant_auto_fallback: bool = True,
        fpq_module: str | int | None = None,
        save_fp_weights: bool = False,
        also_clip_weights: bool = False,
        *,
        settings: QuantSettings | None = None,
        input_moments: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_unquantized(model)
        self.model = model
        if settings is None:
            check_bits(bits_parameters, "bits_parameters")
            clip = parse_clip(clip_acts)
            precision = None if fpq_module is None else str(fpq_module)
            base = ModuleSettings(
                bits_activations,
                bits_parameters,
                bits_accum,
                ModuleQuantMode.parse(mode),
                clip,
                clip_n_stds,
                clip_half_range,
                clip if also_clip_weights else ClipMode.NONE,
                per_channel_wts,
                per_row_embedding=False,
                scale_approx_mult_bits=scale_approx_mult_bits,
                precision="16" if fp16 else precision,
            )
            settings = QuantSettings(
                base,
                parse_overrides(overrides),
                inputs_quant_auto_fallback=inputs_quant_auto_fallback,
                fp_activations=fp16,
                save_fp_weights=save_fp_weights,
            )
        self.settings = settings
        self.input_moments = input_moments
        stats = model_activation_stats
        self.model_activation_stats = None if stats is None else load_stats(stats)
        self.module_settings: dict[str, ModuleSettings] = {}

    @classmethod
    def from_args(cls, model: nn.Module, args: Namespace) -> PostTrainLinearQuantizer:
        """A quantizer from the flags of `add_post_train_quant_args`."""
        if args.qe_config_file:
            from lmbench.distiller.schedules.build import config_component_from_file_by_class

            return config_component_from_file_by_class(model, args.qe_config_file, cls.__name__)
        return cls(model, **quantizer_arguments(args))

    @property
    def linear_quant_params(self) -> OrderedDict[str, Tensor]:
        """Of a prepared model, every calibrated scale and zero point, by name."""
        return OrderedDict(self.named_linear_quant_params())

    def named_linear_quant_params(
        self, yield_clipping_params: bool = False, filter: bool = False
    ) -> Iterator[tuple[str, Tensor]]:
        """`linear_quant_params` one by one.

        Args:
            yield_clipping_params: the original's; it changes nothing.
            filter: leave out those of weights whose floats are not kept.
        """
        for name, module in self.model.named_modules():
            if isinstance(module, RangeLinearQuantWrapper | RangeLinearEmbeddingWrapper):
                for own, value in module.named_linear_quant_params(filter):
                    yield f"{name}.{own}", value

    def set_linear_quant_param(self, name: str, val: float | Tensor) -> None:
        """Changes one of `linear_quant_params`.

        Raises:
            QuantizationError: there is none of this name.
        """
        module, _, own = name.rpartition(".")
        wrapper = dict(self.model.named_modules()).get(module)
        if not isinstance(wrapper, RangeLinearQuantWrapper | RangeLinearEmbeddingWrapper):
            known = self.linear_quant_params
            raise QuantizationError(f"{name!r} cannot be set {did_you_mean(name, known)}")
        wrapper.set_linear_quant_param(own, val)
        self.force_readjust_wrappers()

    def force_readjust_wrappers(self) -> None:
        """Lets every wrapper compute anew what follows from its and its neighbours' scales."""
        for module in self.model.modules():
            if isinstance(module, RangeLinearQuantWrapper):
                module.readjust()

    def update_linear_quant_params(self, new_config: Mapping[str, float | Tensor]) -> None:
        """Changes several of them."""
        for name, val in new_config.items():
            self.set_linear_quant_param(name, val)

    def prepare_model(self, dummy_input: Any = None) -> nn.Module:
        """Quantizes the model in place and returns it, in evaluation mode.

        `model_activation_stats` are then as narrowed by what is known of the model.

        Args:
            dummy_input: ignored; the original traces a graph with it.

        Raises:
            QuantizationError: statistics of another model, an override that matches nothing, a
                setting that a module cannot have, or a second call.
        """
        modules, resolved = self._chosen()
        self.module_settings = resolved
        half_range = frozenset[str]()
        if self.settings.net_aware:
            half_range = rectified_sums(self.model)
            if self.model_activation_stats is not None:
                self.model_activation_stats = narrowed(self.model_activation_stats, self.model)
        replacements = Replacements(self.settings, self.input_moments)
        for name, module in modules.items():
            chosen = resolved[name]
            own = self._own_stats(name, module, chosen)
            try:
                replacement = replacements.of(
                    name, module, chosen, own, chosen.clip_half_range or name in half_range
                )
            except QuantizationError as error:
                raise QuantizationError(f"module {name}: {error}") from None
            if replacement is not None:
                _put(self.model, module, replacement)
        narrow = saturating_modules(self.model)
        if narrow:
            warnings.warn(saturation_warning(narrow), SaturationWarning, stacklevel=2)
        install_fused(self.model)
        return self.model.eval()

    def save_per_layer_parameters(self, save_dir: str | Path = "") -> None:
        """Writes the settings of each module of a prepared model to ``layer_quant_params.yaml``.

        They are in the form of `overrides`, and give the same model again.
        """
        if not self.module_settings:
            raise QuantizationError("save_per_layer_parameters: call prepare_model first")
        plain = {name: chosen.plain() for name, chosen in self.module_settings.items()}
        text = yaml.safe_dump(plain, sort_keys=False)
        (Path(save_dir) / "layer_quant_params.yaml").write_text(text, encoding="utf-8")

    def check(self) -> None:
        """See that overrides and statistics fit the model, which may be on the device "meta".

        Raises:
            QuantizationError: statistics of another model, an override that matches nothing, or an
                embedding whose rows cannot be clipped so.
        """
        modules, resolved = self._chosen()
        for name, module in modules.items():
            if isinstance(module, nn.Embedding):
                resolved[name].check_embedding(name)
            self._own_stats(name, module, resolved[name])

    def _chosen(self) -> tuple[dict[str, nn.Module], dict[str, ModuleSettings]]:
        """The modules that can be quantized, and the settings of each."""
        check_unquantized(self.model)
        modules = quantizable_modules(self.model)
        if not modules:
            raise QuantizationError("this model has no module that can be quantized")
        resolved = self.settings.resolve(modules, cell_roles(self.model))
        for name, module in modules.items():
            obeys = self.settings.activation_obeys_precision(name)
            if isinstance(module, ACTIVATIONS) and not obeys:
                resolved[name] = replace(resolved[name], precision=None)
        return modules, resolved

    def _own_stats(
        self, name: str, module: nn.Module, chosen: ModuleSettings
    ) -> dict[str, Any] | None:
        floating = chosen.precision is not None
        needs = chosen.bits_activations is not None and not floating
        if isinstance(module, nn.Embedding):
            needs = not (chosen.has_embedding_rows or chosen.codes or floating)
        stats = self.model_activation_stats
        return stats_for(stats, name, module) if stats is not None and needs else None


def quantize(
    model: nn.Module,
    settings: QuantSettings,
    stats: ActivationStats | str | Path | None = None,
    input_moments: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A quantized copy of a model, ready to evaluate.

    Args:
        model: any model; its recurrent layers are made modular in the copy.
        settings: see `QuantSettings`, `load_preset`.
        stats: from `calibrate` on the modular model (`modular_copy`); None for dynamic
            quantization of the linear layers.
        input_moments: from `collect_input_moments`, for settings with `rounding: gptq`.

    Raises:
        QuantizationError: see `PostTrainLinearQuantizer`.
    """
    quantizer = PostTrainLinearQuantizer(
        modular_copy(model),
        settings=settings,
        model_activation_stats=stats,
        input_moments=input_moments,
    )
    return quantizer.prepare_model()


def modular_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose recurrent layers are modular; ties are kept."""
    check_unquantized(model, "start from")
    return convert_model_to_modular(copy.deepcopy(model)).eval()


def _put(model: nn.Module, module: nn.Module, replacement: nn.Module) -> None:
    """In every place where the module stands."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is module:
                parent._modules[name] = replacement
