"""Quantization settings that are being made up, as plain values: what a module gets, and changes.

`Settings` is what `QuantSettings.to_dict` of the engine gives: the base, and overrides by regular
expression of which the first that matches a module's whole name wins. A module that none matches
may have a role in its cell that changes what it gets (`cell_roles`). The engine checks and obeys
all this; here it is only shown and changed. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmbench.distiller.cell_roles import in_force
from lmbench.jobs.hosts.laboratory_messages import Module
from lmbench.report.quantized_modules import MODE_WORDS

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
CLIPS = ("NONE", "AVG", "N_STD", "GAUSS", "LAPLACE", "MSE", "PERCENTILE", "KL")
# The best clipping of these is tabulated, up to so many bits.
_TABULATED, _TABULATED_BITS = ("GAUSS", "LAPLACE"), 8
# What N_STD keeps where it is chosen here.
_N_STDS = 3.0
_LINEAR_MODES = ("SYMMETRIC", "SYMMETRIC_RESTRICTED", "ASYMMETRIC_SIGNED", "ASYMMETRIC_UNSIGNED")
MODES: tuple[Any, ...] = (
    {"activations": "ASYMMETRIC_SIGNED", "weights": "SYMMETRIC"},
    *_LINEAR_MODES,
)

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


def _pattern(settings: Settings, name: str) -> str | None:
    """Of the overrides the one that a module gets."""
    patterns = settings.get("overrides", {})
    return next((pattern for pattern in patterns if re.fullmatch(pattern, name)), None)


def _override(settings: Settings, name: str) -> dict[str, Any]:
    pattern = _pattern(settings, name)
    return {} if pattern is None else _plain(settings["overrides"][pattern])


def resolved(settings: Settings, module: Module) -> dict[str, Any]:
    """The settings that are in force for a module."""
    base = {key: value for key, value in settings.items() if key != "overrides"}
    if _pattern(settings, module.name) is not None:
        return base | _override(settings, module.name)
    bits, clip = in_force(
        module.role,
        base["bits_activations"],
        base["clip_acts"],
        floating=base["precision"] is not None,
        net_aware=base["net_aware"],
        bits_state=base.get("bits_state"),
        clip_state=base.get("clip_state"),
    )
    return base | {"bits_activations": bits, "clip_acts": clip}


def precision_of(settings: Settings, module: Module) -> str:
    """``fp16``, or the bits of weights and activations: ``w8 a8``, ``w4 a–``, ``a8``."""
    own, chosen = _override(settings, module.name), resolved(settings, module)
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


def _quantized(settings: Settings, module: Module) -> tuple[bool, bool]:
    """Are the module's activations integers, and its weights?"""
    if _floating(settings, module):
        return False, False
    chosen = resolved(settings, module)
    acts = module.type != "Embedding" and chosen["bits_activations"] is not None
    return acts, module.weights > 0 and chosen["bits_weights"] is not None


def clip_of(settings: Settings, module: Module) -> str:
    """How the module's activations saturate, in lower case; "" where they are floats."""
    acts, _ = _quantized(settings, module)
    return _clip(resolved(settings, module)) if acts else ""


def _clip(chosen: Mapping[str, Any]) -> str:
    """``avg``, or for N_STD how many: ``3 std``."""
    clip, stds = chosen["clip_acts"], chosen.get("clip_n_stds")
    return f"{stds:g} std" if clip == "N_STD" and stds else str(clip).lower()


def channels_of(settings: Settings, module: Module) -> str:
    """Has each row of the weights a range of its own (yes or no), or so many weights of a row one
    (64)? "" where no weights are quantized."""
    _, weights = _quantized(settings, module)
    if not weights:
        return ""
    chosen = resolved(settings, module)
    table = module.type == "Embedding"
    rows = chosen["per_row_embedding" if table else "per_channel_wts"]
    size = chosen["group_size"]
    # One scale for a whole table is that of its outputs, whatever the groups.
    if size is not None and size < module.columns and (rows or not table):
        return str(size)
    return "yes" if rows else "no"


def mode_of(settings: Settings, module: Module) -> str:
    """``sym``, ``asym``, or of activations and weights apart: ``asym/sym``; "" for floats."""
    return "/".join(dict.fromkeys(_mode(mode) for mode in _modes(settings, module)))


def _modes(settings: Settings, module: Module) -> list[str]:
    """Of activations and weights, as far as they are quantized."""
    mode = resolved(settings, module)["mode"]
    acts, weights = _quantized(settings, module)
    sides = ("activations",) * acts + ("weights",) * weights
    return [mode[side] if isinstance(mode, Mapping) else mode for side in sides]


# -- changing ----------------------------------------------------------------------------------


def turned(
    settings: Settings, what: str, module: Module, every: Sequence[Module] = ()
) -> dict[str, Any]:
    """The settings with the next choice of `what` (precision, clip, channels, mode) for the
    module, or for every one where those are given: then after the module's, if it has one."""
    among = (m for m in (module, *every) if not no_choice(settings, what, m))
    entry = _NEXT[what](settings, next(among, module), bool(every))
    return _with_all(settings, entry, every) if every else _with_own(settings, module, entry)


def no_choice(settings: Settings, what: str, module: Module) -> str:
    """Why there is nothing to choose for the module, in words; "" where there is."""
    if what == "precision":
        return ""
    if _floating(settings, module):
        return "is computed in floats: b changes that"
    if what == "channels" and not channels_of(settings, module):
        return "has no quantized weights, so no channels"
    if what == "clip" and not clip_of(settings, module):
        return "has no activations that are clipped"
    return ""


def _after(choices: Sequence[Any], now: Any) -> Any:
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
    now = resolved(settings, module)
    chosen = _after([clip for clip in CLIPS if _can_have(clip, now)], now["clip_acts"])
    return {"clip_acts": chosen, "clip_n_stds": _N_STDS if chosen == "N_STD" else None}


def _can_have(clip: str, chosen: Mapping[str, Any]) -> bool:
    """Is there such a clip mode for so many bits?"""
    return clip not in _TABULATED or (chosen["bits_activations"] or 0) <= _TABULATED_BITS


def _next_channels(settings: Settings, module: Module, everywhere: bool) -> dict[str, Any]:
    rows = channels_of(settings, module) != "yes"
    entry = {"per_channel_wts": rows, "per_row_embedding": rows, "group_size": None}
    if not everywhere:
        del entry["per_channel_wts" if module.type == "Embedding" else "per_row_embedding"]
    return entry


def _next_mode(settings: Settings, module: Module, everywhere: bool) -> dict[str, Any]:
    modes = _modes(settings, module)
    if len(modes) == 1 and not everywhere:
        return {"mode": _after(_LINEAR_MODES, modes[0])}
    return {"mode": _after(MODES, resolved(settings, module)["mode"])}


_NEXT = {
    "precision": _next_precision,
    "clip": _next_clip,
    "channels": _next_channels,
    "mode": _next_mode,
}


_OF_THE_STATE = {"bits_activations": "bits_state", "clip_acts": "clip_state"}


def _with_own(settings: Settings, module: Module, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The module's own override in front of all others, with what was in force for it before:
    another override's, or what its role gave it, which an override ends."""
    if _pattern(settings, module.name) is not None:
        before = _override(settings, module.name)
    else:
        before = {k: v for k, v in resolved(settings, module).items() if v != settings[k]}
    own = re.escape(module.name)
    rest = {k: v for k, v in settings["overrides"].items() if k != own}
    return {**settings, "overrides": {own: before | dict(entry), **rest}}


def _with_all(
    settings: Settings, entry: Mapping[str, Any], modules: Sequence[Module]
) -> dict[str, Any]:
    """The base changed, and nothing that says otherwise: no override, and no role."""
    overrides = {}
    for pattern, old in settings["overrides"].items():
        left = {k: v for k, v in _plain(old).items() if k not in entry}
        if left:
            overrides[pattern] = left
    changed = {**settings, **entry, "overrides": overrides}
    if any(module.role == "state" for module in modules):
        changed |= {own: None for key, own in _OF_THE_STATE.items() if key in entry}
    # The last first: each one's own override comes in front.
    for module in reversed(modules):
        now, wanted = resolved(changed, module), entry
        if "clip_acts" in entry and not _can_have(entry["clip_acts"], now):
            before = resolved(settings, module)
            wanted = {key: before[key] for key in entry}
        apart = {k: v for k, v in wanted.items() if now[k] != v}
        if apart:
            changed = _with_own(changed, module, apart)
    return changed


def without_own(settings: Settings, name: str) -> dict[str, Any]:
    """The settings without what was changed for this module alone."""
    rest = {k: v for k, v in settings["overrides"].items() if k != re.escape(name)}
    return {**settings, "overrides": rest}


def differences(settings: Settings, base: Settings) -> list[str]:
    """What differs from `base`, in words, the base's own settings first."""
    found = []
    for key, value in settings.items():
        if key not in ("overrides", "clip_n_stds") and value != base.get(key):
            found.append(_said(key, settings))
    before = base.get("overrides", {})
    for pattern, given in settings.get("overrides", {}).items():
        if before.get(pattern) != given:
            entry, old = _plain(given), _plain(before.get(pattern, {}))
            told = [k for k, v in entry.items() if v is not None or old.get(k)]
            words = [_said(key, entry) for key in told if key != "clip_n_stds"]
            name = pattern.replace("\\", "")
            found.append(f"{name}: {' '.join(words)}")
    found += [f"{p}: as all" for p in before if p not in settings.get("overrides", {})]
    return found


def _said(key: str, entry: Mapping[str, Any]) -> str:
    """A setting of the base or of an override; how many of N_STD is told with the clip mode."""
    value = entry[key]
    match key:
        case "bits_weights":
            return f"w{_bits(value)}"
        case "bits_activations":
            return f"a{_bits(value)}"
        case "precision":
            return "int" if value is None else _FLOATS.get(str(value), str(value))
        case "clip_acts":
            return f"clip {_clip(entry)}"
        case "bits_state":
            return f"cell state {'as all' if value is None else f'a{value}'}"
        case "clip_state":
            return f"cell state {'as all' if value is None else f'clip {value.lower()}'}"
        case "mode":
            return _mode(value)
        case "per_channel_wts" | "per_row_embedding":
            return "per channel" if value else "one scale"
    return f"{key.replace('_', ' ')} {value}"


def _mode(mode: Any) -> str:
    if isinstance(mode, Mapping):
        return f"{_mode(mode.get('activations'))}/{_mode(mode.get('weights'))}"
    return MODE_WORDS.get(str(mode), str(mode).lower())
