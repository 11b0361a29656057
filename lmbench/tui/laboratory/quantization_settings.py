"""The draft's quantization settings: what each module gets under them, and how a key changes them.

`Settings` are the engine's as plain values (`QuantSettings.to_dict`). What is in force for a module
is computed by the engine's own `QuantSettings.settings_of`; no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmbench.distiller.quantization.modes import ClipMode, LinearQuantMode
from lmbench.distiller.quantization.settings import QuantSettings, canonical
from lmbench.jobs.hosts.laboratory_messages import Module
from lmbench.report.quantized_modules import MODE_WORDS

__all__ = [
    "CLIPS",
    "MODES",
    "PRECISIONS",
    "InForce",
    "Settings",
    "differences",
    "no_choice",
    "with_next",
    "without_own",
]

Settings = Mapping[str, Any]

PRECISIONS = ("int8", "int6", "int4", "code3", "code2", "fp16", "bf16", "fp32")
CLIPS = tuple(clip.name for clip in ClipMode)
# The columns that share a code's scales where not whole rows do, as in the preset `int4-weights`.
_CODE_GROUP = 64
# What N_STD keeps where it is chosen here.
_N_STDS = 3.0
_LINEAR_MODES = ("SYMMETRIC", "SYMMETRIC_RESTRICTED", "ASYMMETRIC_SIGNED", "ASYMMETRIC_UNSIGNED")
MODES: tuple[Any, ...] = (
    {"activations": "ASYMMETRIC_SIGNED", "weights": "SYMMETRIC"},
    *_LINEAR_MODES,
)

_FLOATS = {"16": "fp16", "bf16": "bf16", "32": "fp32", "64": "fp64"}
_ACTIVATIONS = ("Sigmoid", "Tanh", "ReLU")


class InForce:
    """What the engine makes of a module under these settings, and the words for it."""

    def __init__(self, settings: Settings, module: Module) -> None:
        whole = QuantSettings.from_dict(settings)
        self.module = module
        self.settings = chosen = whole.settings_of(module.name, module.role)
        obeys = module.type not in _ACTIVATIONS or whole.activation_obeys_precision(module.name)
        self._table = module.type == "Embedding"
        self.floating = chosen.precision is not None and obeys
        integers = not self.floating
        self._acts = integers and not self._table and chosen.bits_activations is not None
        self._weights = integers and module.weights > 0 and chosen.bits_weights is not None
        self.codes = self._weights and chosen.codes
        # What a module that leaves codes rounds by.
        self.other_rounding = "nearest" if whole.base.codes else whole.base.rounding

    @property
    def in_floats(self) -> bool:
        """Is it left in floats, by a precision or since it has no bits?"""
        return not self._acts and not self._weights

    @property
    def precision(self) -> str:
        """``fp16``, or the bits of weights (w; c where they are codes) and activations: ``w8 a8``,
        ``c3 a8``, ``w4 a–``, ``a8``."""
        chosen = self.settings
        if self.floating:
            return _FLOATS[str(chosen.precision)]
        if self.in_floats:
            return "fp32"
        weights = f"{'c' if self.codes else 'w'}{_bits(chosen.bits_weights)}"
        if self._table:
            return weights
        acts = f"a{_bits(chosen.bits_activations)}"
        return f"{weights} {acts}" if self.module.weights else acts

    @property
    def clip(self) -> str:
        """How its activations saturate, in lower case; "" where they are floats."""
        chosen = self.settings
        return _clip(chosen.clip_acts.name, chosen.clip_n_stds) if self._acts else ""

    @property
    def channels(self) -> str:
        """Has each row of the weights a range of its own (yes or no), or so many weights of a row
        one (64)? "" where no weights are quantized."""
        if not self._weights:
            return ""
        chosen = self.settings
        rows = chosen.per_row_embedding if self._table else chosen.per_channel_wts
        size = chosen.group_size
        if size is not None and size < self.module.columns:
            return str(size)
        # A group as wide as a row is the row.
        return "yes" if rows or self.codes or size is not None else "no"

    @property
    def mode(self) -> str:
        """``sym``, ``asym``, or of weights and activations apart: ``sym/asym``; "" for floats."""
        return "/".join(dict.fromkeys(MODE_WORDS[mode.name] for mode in self.modes))

    @property
    def modes(self) -> list[LinearQuantMode]:
        """Of weights and activations, as far as they are quantized; codes have none."""
        mode = self.settings.mode
        return [mode.weights] * (self._weights > self.codes) + [mode.activations] * self._acts


def _bits(value: int | None) -> str:
    return "–" if value is None else str(value)


def _clip(name: str, stds: float | None) -> str:
    """``avg``, or for N_STD how many: ``3 std``."""
    return f"{stds:g} std" if name == "N_STD" and stds else name.lower()


# -- changing ----------------------------------------------------------------------------------


def with_next(
    settings: Settings, what: str, module: Module, every: Sequence[Module] = ()
) -> dict[str, Any]:
    """The settings with the next choice of `what` (precision, clip, channels, mode) for the
    module, or for every one where those are given: then after the module's, if it has one."""
    among = (m for m in (module, *every) if not no_choice(settings, what, m))
    entry = _NEXT[what](InForce(settings, next(among, module)), bool(every))
    return _with_all(settings, entry, every) if every else _with_own(settings, module, entry)


def no_choice(settings: Settings, what: str, module: Module) -> str:
    """Why there is nothing to choose for the module, in words; "" where there is."""
    if what == "precision":
        return ""
    now = InForce(settings, module)
    if now.in_floats:
        return "is computed in floats: b changes that"
    if what == "mode" and not now.modes:
        return "has codes alone, which have no mode"
    if what == "channels" and now.codes and module.columns <= _CODE_GROUP:
        return f"has rows of {module.columns}: too few to be divided"
    if what == "channels" and not now.channels:
        return "has no quantized weights, so no channels"
    if what == "clip" and not now.clip:
        return "has no activations that are clipped"
    return ""


def _after(choices: Sequence[Any], now: Any) -> Any:
    place = choices.index(now) + 1 if now in choices else 0
    return choices[place % len(choices)]


def _next_precision(now: InForce, everywhere: bool) -> dict[str, Any]:
    shown = now.precision
    bits = re.search(r"\d+", shown)
    kind = "code" if now.codes else "int"
    name = shown if now.in_floats else f"{kind}{bits[0]}" if bits else ""
    possible = [p for p in PRECISIONS if now.module.weights or not p.startswith("code")]
    chosen = _after(possible, name)
    entry: dict[str, Any] = {"precision": None}
    if not chosen.startswith(("int", "code")):
        entry["precision"] = chosen.removeprefix("fp")
    elif now.module.weights:
        codes = chosen.startswith("code")
        entry["bits_weights"] = int(chosen[-1])
        entry["rounding"] = "codes" if codes else now.other_rounding
    else:
        entry["bits_activations"] = int(chosen[-1])
    if everywhere:
        entry["fp_activations"] = entry["precision"] is not None
    return entry


def _next_clip(now: InForce, everywhere: bool) -> dict[str, Any]:
    possible = [clip for clip in CLIPS if _can_have(clip, now)]
    chosen = _after(possible, now.settings.clip_acts.name)
    return {"clip_acts": chosen, "clip_n_stds": _N_STDS if chosen == "N_STD" else None}


def _can_have(clip: str, now: InForce) -> bool:
    """Is there such a clip mode for so many bits?"""
    return ClipMode[clip].has_width(now.settings.bits_activations)


def _next_channels(now: InForce, everywhere: bool) -> dict[str, Any]:
    if now.codes:
        return {"group_size": _CODE_GROUP if now.channels == "yes" else None}
    rows = now.channels != "yes"
    entry = {"per_channel_wts": rows, "per_row_embedding": rows, "group_size": None}
    if not everywhere:
        del entry["per_channel_wts" if now.module.type == "Embedding" else "per_row_embedding"]
    return entry


def _next_mode(now: InForce, everywhere: bool) -> dict[str, Any]:
    if len(now.modes) == 1 and not everywhere:
        return {"mode": _after(_LINEAR_MODES, now.modes[0].name)}
    return {"mode": _after(MODES, now.settings.mode.plain())}


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
    base = QuantSettings.from_dict(settings).base.plain()
    before = InForce(settings, module).settings.plain()
    changed = {key: value for key, value in before.items() if value != base.get(key)}
    own = re.escape(module.name)
    rest = {k: v for k, v in settings["overrides"].items() if k != own}
    return {**settings, "overrides": {own: changed | dict(entry), **rest}}


def _with_all(
    settings: Settings, entry: Mapping[str, Any], modules: Sequence[Module]
) -> dict[str, Any]:
    """The base changed, and nothing that says otherwise: no override, and no role."""
    overrides = {}
    for pattern, old in settings["overrides"].items():
        left = {k: v for k, v in canonical(old).items() if k not in entry}
        if left:
            overrides[pattern] = left
    changed = {**settings, **entry, "overrides": overrides}
    if any(module.role == "state" for module in modules):
        changed |= {own: None for key, own in _OF_THE_STATE.items() if key in entry}
    # The last first: each one's own override comes in front.
    for module in reversed(modules):
        now, wanted = InForce(changed, module), entry
        if "clip_acts" in entry and not _can_have(entry["clip_acts"], now):
            before = InForce(settings, module).settings.plain()
            wanted = {key: before[key] for key in entry}
        plain = now.settings.plain()
        apart = {key: value for key, value in wanted.items() if plain.get(key, value) != value}
        if apart:
            changed = _with_own(changed, module, apart)
    return changed


def without_own(settings: Settings, name: str, base: Settings) -> dict[str, Any]:
    """The settings without what was changed for this module alone: it has its own of `base`."""
    own, overrides = re.escape(name), dict(settings["overrides"])
    kept = base.get("overrides", {}).get(own)
    if kept is None:
        overrides.pop(own, None)
    elif own in overrides:
        overrides[own] = kept
    else:
        overrides = {own: kept, **overrides}
    return {**settings, "overrides": overrides}


def differences(settings: Settings, base: Settings) -> list[str]:
    """What differs from `base`, in words, the base's own settings first."""
    changed = [k for k, v in settings.items() if k != "overrides" and v != base.get(k)]
    found = _all_described(changed, settings)
    before = base.get("overrides", {})
    for pattern, given in settings.get("overrides", {}).items():
        if before.get(pattern) != given:
            entry, old = canonical(given), canonical(before.get(pattern, {}))
            shown = [k for k, v in entry.items() if v is not None or old.get(k)]
            words = _all_described(shown, {"rounding": settings.get("rounding"), **entry})
            name = pattern.replace("\\", "")
            found.append(f"{name}: {' '.join(words)}")
    found += [f"{p}: as all" for p in before if p not in settings.get("overrides", {})]
    return found


def _all_described(keys: list[str], entry: Mapping[str, Any]) -> list[str]:
    """Of settings of the base or of an override those that no other one's words say."""
    said = {"clip_n_stds"}
    if "bits_weights" in keys and entry.get("rounding") == "codes":
        said.add("rounding")
    return [_described(key, entry) for key in keys if key not in said]


def _described(key: str, entry: Mapping[str, Any]) -> str:
    """One setting, in the words of the table of modules."""
    value = entry[key]
    match key:
        case "bits_weights":
            codes = str(entry.get("rounding")).endswith("codes")
            return f"{'c' if codes else 'w'}{_bits(value)}"
        case "bits_activations":
            return f"a{_bits(value)}"
        case "precision":
            return "int" if value is None else _FLOATS.get(str(value), str(value))
        case "clip_acts":
            return f"clip {_clip(value, entry.get('clip_n_stds'))}"
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
        return f"{_mode(mode.get('weights'))}/{_mode(mode.get('activations'))}"
    return MODE_WORDS.get(str(mode), str(mode).lower())
