"""Quantization settings that are being made up, as plain values: what a module gets, and changes.

`Settings` is what `QuantSettings.to_dict` of the engine gives: the base, and overrides by regular
expression of which the first that matches a module's whole name wins. The engine checks and obeys
them; here they are only shown and changed. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lmbench.jobs.probing import Module
from lmbench.report.quantization import MODE_WORDS

__all__ = [
    "CLIPS",
    "MODES",
    "PRECISIONS",
    "Settings",
    "channels_of",
    "clip_of",
    "differences",
    "mode_of",
    "no_choice",
    "precision_of",
    "resolved",
    "turned",
    "without_own",
]

Settings = Mapping[str, Any]

PRECISIONS = ("int8", "int6", "int4", "fp16", "bf16", "fp32")
CLIPS = ("NONE", "AVG", "GAUSS", "LAPLACE", "MSE", "PERCENTILE", "KL")
_MIXED = {"activations": "ASYMMETRIC_SIGNED", "weights": "SYMMETRIC"}
MODES: tuple[Any, ...] = (
    _MIXED, "SYMMETRIC", "SYMMETRIC_RESTRICTED", "ASYMMETRIC_SIGNED", "ASYMMETRIC_UNSIGNED",
)  # fmt: skip

_FLOATS = {"16": "fp16", "bf16": "bf16", "32": "fp32", "64": "fp64"}
_ACTIVATIONS = ("Sigmoid", "Tanh", "ReLU")
_ALIASES = {"bits_parameters": "bits_weights", "fpq_module": "precision"}


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An override with every setting under its own name."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if key in ("fp16", "bf16"):
            if value:
                found["precision"] = "16" if key == "fp16" else "bf16"
        else:
            found[_ALIASES.get(key, key)] = value
    return found


def _override(settings: Settings, name: str) -> dict[str, Any]:
    for pattern, entry in settings.get("overrides", {}).items():
        if re.fullmatch(pattern, name):
            return _plain(entry)
    return {}


def resolved(settings: Settings, name: str) -> dict[str, Any]:
    """The settings that hold for a module."""
    base = {key: value for key, value in settings.items() if key != "overrides"}
    return base | _override(settings, name)


def precision_of(settings: Settings, module: Module) -> str:
    """``fp16``, or the bits of weights and activations: ``w8 a8``, ``w4 a–``, ``a8``."""
    if not settings:
        return "fp32"
    own, chosen = _override(settings, module.name), resolved(settings, module.name)
    precision = chosen.get("precision")
    obeys = module.type not in _ACTIVATIONS or settings.get("fp_activations") or "precision" in own
    if precision is not None and obeys:
        return _FLOATS.get(str(precision), str(precision))
    acts, weights = chosen.get("bits_activations"), chosen.get("bits_weights")
    if module.type == "Embedding":
        return "fp32" if weights is None else f"w{weights}"
    if not module.weights:
        return "fp32" if acts is None else f"a{acts}"
    if weights is None and acts is None:
        return "fp32"
    return f"w{_bits(weights)} a{_bits(acts)}"


def _bits(value: Any) -> str:
    return "–" if value is None else str(value)


def _floating(settings: Settings, module: Module) -> bool:
    return precision_of(settings, module).startswith(("fp", "bf"))


def clip_of(settings: Settings, module: Module) -> str:
    """How the module's activations saturate, in lower case; "" where they are floats."""
    chosen = resolved(settings, module.name)
    plain = _floating(settings, module) or chosen.get("bits_activations") is None
    return "" if plain or module.type == "Embedding" else str(chosen["clip_acts"]).lower()


def channels_of(settings: Settings, module: Module) -> bool | None:
    """Has each row of the weights a range of its own? None where there are no weights."""
    if not module.weights or _floating(settings, module):
        return None
    key = "per_row_embedding" if module.type == "Embedding" else "per_channel_wts"
    return bool(resolved(settings, module.name).get(key))


def mode_of(settings: Settings, module: Module) -> str:
    """``sym``, ``asym``, or of activations and weights apart: ``asym/sym``; "" for floats."""
    if _floating(settings, module):
        return ""
    return _mode(resolved(settings, module.name).get("mode"))


def _mode(mode: Any) -> str:
    if isinstance(mode, Mapping):
        return f"{_mode(mode.get('activations'))}/{_mode(mode.get('weights'))}"
    return MODE_WORDS.get(str(mode), str(mode).lower())


# -- changing ----------------------------------------------------------------------------------


def turned(settings: Settings, what: str, module: Module, *, everywhere: bool) -> dict[str, Any]:
    """The settings with the next choice of `what` (precision, clip, channels, mode) for the
    module, or for all modules."""
    entry = _NEXT[what](settings, module, everywhere)
    return _with_all(settings, entry) if everywhere else _with_own(settings, module.name, entry)


def no_choice(settings: Settings, what: str, module: Module) -> str:
    """Why there is nothing to choose for the module, in words; "" where there is."""
    if what == "precision":
        return ""
    if _floating(settings, module):
        return "is computed in floats: b changes that"
    if what == "channels" and not module.weights:
        return "has no weights, so no channels"
    if what == "clip" and not clip_of(settings, module):
        return "has no activations that are clipped"
    return ""


def _after(choices: tuple[Any, ...], now: Any) -> Any:
    place = choices.index(now) + 1 if now in choices else 0
    return choices[place % len(choices)]


def _next_precision(settings: Settings, module: Module, everywhere: bool) -> dict[str, Any]:
    shown = precision_of(settings, module)
    bits = re.search(r"\d+", shown)
    now = shown if _floating(settings, module) else f"int{bits[0]}" if bits else ""
    chosen = _after(PRECISIONS, now)
    entry: dict[str, Any] = {"precision": None}
    if chosen.startswith("int"):
        key = "bits_weights" if module.weights else "bits_activations"
        entry[key] = int(chosen.removeprefix("int"))
    else:
        entry["precision"] = chosen.removeprefix("fp")
    if everywhere:
        entry["fp_activations"] = entry["precision"] is not None
    return entry


def _next_clip(settings: Settings, module: Module, everywhere: bool) -> dict[str, Any]:
    return {"clip_acts": _after(CLIPS, resolved(settings, module.name).get("clip_acts"))}


def _next_channels(settings: Settings, module: Module, everywhere: bool) -> dict[str, Any]:
    now = bool(channels_of(settings, module))
    if everywhere:
        return {"per_channel_wts": not now, "per_row_embedding": not now}
    key = "per_row_embedding" if module.type == "Embedding" else "per_channel_wts"
    return {key: not now}


def _next_mode(settings: Settings, module: Module, everywhere: bool) -> dict[str, Any]:
    return {"mode": _after(MODES, resolved(settings, module.name).get("mode"))}


_NEXT = {
    "precision": _next_precision,
    "clip": _next_clip,
    "channels": _next_channels,
    "mode": _next_mode,
}


def _with_own(settings: Settings, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The module's own override in front of all others, with what another one gave it before."""
    own = re.escape(name)
    rest = {k: v for k, v in settings["overrides"].items() if k != own}
    return {**settings, "overrides": {own: _override(settings, name) | dict(entry), **rest}}


def _with_all(settings: Settings, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The base changed, and no override that says otherwise."""
    overrides = {}
    for pattern, old in settings["overrides"].items():
        left = {k: v for k, v in _plain(old).items() if k not in entry}
        if left:
            overrides[pattern] = left
    return {**settings, **entry, "overrides": overrides}


def without_own(settings: Settings, name: str) -> dict[str, Any]:
    """The settings without what was changed for this module alone."""
    rest = {k: v for k, v in settings["overrides"].items() if k != re.escape(name)}
    return {**settings, "overrides": rest}


def differences(settings: Settings, base: Settings) -> list[str]:
    """What differs from `base`, in words, the base's own settings first."""
    found = []
    for key, value in settings.items():
        if key != "overrides" and value != base.get(key):
            found.append(_said(key, value))
    before = base.get("overrides", {})
    for pattern, entry in settings.get("overrides", {}).items():
        if before.get(pattern) != entry:
            old = _plain(before.get(pattern, {}))
            words = [_said(k, v) for k, v in _plain(entry).items() if v is not None or old.get(k)]
            name = pattern.replace("\\", "")
            found.append(f"{name}: {' '.join(words)}")
    found += [f"{p}: as all" for p in before if p not in settings.get("overrides", {})]
    return found


def _said(key: str, value: Any) -> str:
    match key:
        case "bits_weights":
            return f"w{_bits(value)}"
        case "bits_activations":
            return f"a{_bits(value)}"
        case "precision":
            return "int" if value is None else _FLOATS.get(str(value), str(value))
        case "clip_acts":
            return f"clip {str(value).lower()}"
        case "mode":
            return _mode(value)
        case "per_channel_wts" | "per_row_embedding":
            return "per channel" if value else "one scale"
    return f"{key.replace('_', ' ')} {value}"
