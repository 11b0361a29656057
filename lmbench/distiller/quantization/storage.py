"""A quantized model as tensors and JSON, from which it comes back exactly, and its size.

The tensors are integers, scales and zero points, and whatever was not quantized; the JSON says
which wrapper stands where. Nothing of the statistics or of the original weights is needed to
load. A weight that two modules share (an embedding and a tied decoder) is stored once when both
quantized it alike.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.post_training import (
    PostTrainLinearQuantizer,
    SaturationWarning,
    modular_copy,
)
from lmbench.distiller.quantization.settings import QuantSettings
from lmbench.distiller.quantization.weights import (
    RangeLinearEmbeddingWrapper,
    RangeLinearQuantParamLayerWrapper,
)
from lmbench.distiller.quantization.wrappers import is_quantized

__all__ = ["export_state", "quantized_bytes", "restore"]

FORMAT = 1
_WeightWrapper = (RangeLinearEmbeddingWrapper, RangeLinearQuantParamLayerWrapper)


def export_state(
    model: nn.Module, settings: QuantSettings, dynamic: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What must be kept of a quantized model.

    Args:
        model: from `quantize`.
        settings: what it was quantized with.
        dynamic: it was quantized without statistics.

    Returns:
        Tensors by name, ready for safetensors, and an entry ready for JSON.

    Raises:
        QuantizationError: the model is not quantized.
    """
    if not is_quantized(model):
        raise QuantizationError("this model is not quantized: there is nothing to export")
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        twin = next((kept for kept, other in tensors.items() if _same(tensor, other)), None)
        if twin is not None:
            shared[name] = twin
        else:
            tensors[name] = tensor.detach().cpu().contiguous()
    meta = {
        "format": FORMAT,
        "settings": settings.to_dict(),
        "dynamic": dynamic,
        "shared": shared,
    }
    return tensors, meta


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or a.numel() < 64:
        return False
    return bool(torch.equal(a.cpu(), b))


def restore(model: nn.Module, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> nn.Module:
    """The quantized model again, equal to the last bit.

    Args:
        model: of the same structure, with any weights; it is not changed.
        tensors, meta: from `export_state`.

    Raises:
        QuantizationError: a newer format, or tensors of another model.
    """
    _check(meta, tensors)
    if meta["format"] > FORMAT:
        raise QuantizationError(
            f"this quantized model has format {meta['format']}, newer than {FORMAT}: update lmbench"
        )
    plain = modular_copy(model)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()  # quickly rounded
    entries = _nearest(meta["settings"], dynamic=meta["dynamic"])
    if not any(name.endswith("float_weight") for name in tensors):
        # As it was written before floats were kept.
        entries["save_fp_weights"] = False
    settings = QuantSettings.from_dict(entries)
    stats = None if meta["dynamic"] else _placeholders(plain, tensors)
    quantizer = PostTrainLinearQuantizer(plain, settings=settings, model_activation_stats=stats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaturationWarning)
        quantized = quantizer.prepare_model()
    state = dict(tensors) | {name: tensors[kept] for name, kept in meta["shared"].items()}
    for name, tensor in quantized.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        is_one = name in state and state[name].numel() == 1 < tensor.numel()
        if leaf in ("w_scale", "w_zero_point") and is_one:
            # Some clip modes find one scale for all rows.
            getattr(quantized.get_submodule(owner), leaf).data = torch.empty_like(state[name])
    own = quantized.state_dict()
    for name in sorted(set(own) ^ set(state)):
        raise QuantizationError(f"these tensors are of another model: {name!r} does not match")
    for name, tensor in state.items():
        if own[name].shape != tensor.shape:
            raise QuantizationError(
                f"these tensors are of another model: {name!r} is {tuple(tensor.shape)}, "
                f"not {tuple(own[name].shape)}"
            )
    quantized.load_state_dict(state)
    return quantized


def _check(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse metadata that `export_state` cannot have written, whatever its format."""
    settings, shared = meta.get("settings"), meta.get("shared")
    whole = (
        type(meta.get("format")) is int
        and type(meta.get("dynamic")) is bool
        and isinstance(settings, Mapping)
        and isinstance(settings.get("overrides"), Mapping)
        and all(isinstance(entry, Mapping) for entry in settings["overrides"].values())
        and isinstance(shared, Mapping)
        and all(isinstance(kept, str) and kept in tensors for kept in shared.values())
    )
    if not whole:
        raise QuantizationError("its description of the quantization is damaged; quantize again")


_RANGES = {"clip_acts", "clip_state", "clip_weights", "also_clip_weights", "clip_n_stds"}


def _nearest(settings: Mapping[str, Any], *, dynamic: bool) -> dict[str, Any]:
    """The settings with plain choices where only loaded numbers will count.

    How ranges were found and weights rounded is in the tensors; finding them anew, from weights
    that are about to be overwritten, would cost time and could need what is no longer there. A
    `dynamic` model finds those of its inputs anew at each pass.
    """
    in_tensors = _RANGES - {"clip_acts", "clip_n_stds"} if dynamic else _RANGES

    def plain(entry: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in entry.items() if key not in in_tensors}
        if kept.get("input_overrides"):
            inputs = kept["input_overrides"].items()
            kept["input_overrides"] = {number: plain(own) for number, own in inputs}
        if "rounding" in kept:
            # Codes have tensors of their own.
            codes = kept["rounding"] in ("codes", "calibrated-codes")
            kept["rounding"] = "codes" if codes else "nearest"
        return kept

    overrides = {pattern: plain(entry) for pattern, entry in settings["overrides"].items()}
    return plain(settings) | {"overrides": overrides}


def _placeholders(model: nn.Module, tensors: Iterable[str]) -> dict[str, Any]:
    """Statistics with which every buffer gets its shape, of as many inputs as have a scale among
    these tensors."""
    entry = {"min": -1.0, "max": 1.0, "avg_min": -1.0, "avg_max": 1.0, "mean": 0.0, "std": 1.0}
    inputs: dict[str, dict[int, dict[str, float]]] = {}
    for name in tensors:
        if found := re.fullmatch(r"(.+)\.input_(\d{1,4})_scale", name):
            inputs.setdefault(found[1], {})[int(found[2])] = dict(entry)
    return {
        name: {"inputs": inputs.get(name, {}), "output": dict(entry)}
        for name, module in model.named_modules()
        if next(module.children(), None) is None
    }


def quantized_bytes(model: nn.Module) -> dict[str, int]:
    """How small a quantized model is when integers are packed to their width.

    Returns:
        Bytes of `weights` (bits packed), `scales` (scale as float32, zero point in the weight's
        width), `biases` (32 bits), `other` (whatever was not quantized) and `total`. Shared
        weights count once.
    """
    sizes = {"weights": 0, "scales": 0, "biases": 0, "other": 0}
    seen: list[tuple[Tensor, Tensor]] = []
    inside: set[str] = set()
    for name, module in model.named_modules():
        if not isinstance(module, _WeightWrapper):
            continue
        inside.add(name + ".")
        if isinstance(module, RangeLinearQuantParamLayerWrapper) and module.bias_fp is not None:
            sizes["biases"] += 4 * module.bias_fp.numel()
        pair = (module.weight_q, module.w_scale)
        if any(_same(pair[0], q) and torch.equal(pair[1], s) for q, s in seen):
            continue
        seen.append(pair)
        bits = module.num_bits_params
        sizes["weights"] += -(-module.weight_q.numel() * bits // 8)
        if hasattr(module, "w_steps"):  # in half precision
            sizes["scales"] += 2 * module.get_buffer("w_steps").numel()
            continue
        ranges = _distinct_ranges(module)
        zero_bits = 0 if module.mode.weights.symmetric else bits
        sizes["scales"] += ranges * 4 + -(-ranges * zero_bits // 8)
    counted: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if any(name.startswith(prefix) for prefix in inside):
            continue
        if not any(_same(parameter.detach(), kept) for kept in counted):
            counted.append(parameter.detach().cpu())
            sizes["other"] += parameter.numel() * parameter.element_size()
    sizes["total"] = sum(sizes.values())
    return sizes


def _distinct_ranges(
    module: RangeLinearEmbeddingWrapper | RangeLinearQuantParamLayerWrapper,
) -> int:
    """How many scales are stored: grouped ones are repeated over their columns in memory."""
    scale = module.w_scale
    if scale.dim() < 2 or scale.shape[1] == 1:
        return scale.numel()
    group = module.group_size or scale.shape[1]
    return scale.shape[0] * -(-scale.shape[1] // group)
