"""The settings of a quantization: of the whole model, and of one module after overrides.

No torch here: the workbench shows by this what the engine will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

from lmbench.distiller.errors import did_you_mean
from lmbench.distiller.name_patterns import check_pattern, matches
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.modes import (
    BITS,
    CODE_BITS,
    ClipMode,
    LinearQuantMode,
    check_bits,
    parse_clip,
    parse_mode,
)
from lmbench.distiller.yaml_values import read_yaml

__all__ = [
    "PRECISIONS",
    "ModuleQuantMode",
    "ModuleSettings",
    "QuantSettings",
    "Role",
    "TensorQuantSettings",
    "canonical",
    "match_overrides",
    "parse_overrides",
]

PRECISIONS = ("16", "bf16", "32", "64")
ROUNDINGS = ("nearest", "gptq", "codes", "calibrated-codes")
Role = Literal["", "step", "whole", "state"]
"""What a module is in its recurrent cell: one of `ModularCell.STEPS`, `WHOLE`, `MEMORY`, or none of
them."""
_STEP_BITS = 16
_WIDEST_ACCUM = 48
_WIDEST_MULTIPLIER = 32
# Clip modes of whole tensors, not of their rows.
_WHOLE_TENSORS = (ClipMode.N_STD, ClipMode.KL)


@dataclass(frozen=True)
class ModuleQuantMode:
    """Modes of activations and weights, which may differ."""

    activations: LinearQuantMode = LinearQuantMode.SYMMETRIC
    weights: LinearQuantMode = LinearQuantMode.SYMMETRIC

    @classmethod
    def parse(cls, value: Any) -> ModuleQuantMode:
        """From a mode, its name, or a mapping with `activations` and `weights`."""
        if isinstance(value, ModuleQuantMode):
            return value
        if isinstance(value, Mapping):
            unknown = set(value) - {"activations", "weights"}
            if unknown:
                raise QuantizationError(
                    f"mode: {sorted(unknown)[0]!r} is unknown: use 'activations' and 'weights'"
                )
            default = LinearQuantMode.SYMMETRIC
            return cls(
                parse_mode(value.get("activations", default)),
                parse_mode(value.get("weights", default)),
            )
        both = parse_mode(value)
        return cls(both, both)

    def plain(self) -> str | dict[str, str]:
        """For a file."""
        if self.activations is self.weights:
            return self.activations.name
        return {"activations": self.activations.name, "weights": self.weights.name}


class TensorQuantSettings(NamedTuple):
    """How one tensor of a module is quantized: the original's `range_linear.QuantSettings`."""

    num_bits: int | None
    quant_mode: LinearQuantMode
    clip_mode: ClipMode
    clip_n_stds: float | None
    clip_half_range: bool
    per_channel: bool


@dataclass(frozen=True)
class ModuleSettings:
    """How one module is quantized; every field can be set in an override.

    Attributes:
        bits_activations: 2 to 16, or None to leave inputs and outputs alone.
        bits_weights: 2 to 16, or None; 1 to 4 where they are codes.
        bits_accum: width of the accumulators, 8 to 48; None for one that sums of 65,536 products
            cannot exceed, at least 32 and at most 48.
        mode: of activations and weights.
        clip_acts: how activation ranges are chosen.
        clip_n_stds: for N_STD.
        clip_half_range: the output passes a ReLU.
        clip_weights: how weight ranges are chosen.
        per_channel_wts: a range for each output of a linear layer.
        per_row_embedding: a range for each row of an embedding; else one for all, taken from its
            calibrated output as the original does.
        group_size: a range for so many weights of a row; None for whole rows.
        rounding: "nearest", "gptq" (error compensation, see `rounding`), "codes" (sums of scaled
            signs, see `codes`), with scales for each row, or group of one, of its own: mode,
            clip_weights, per_channel_wts and per_row_embedding are then of no account; or
            "calibrated-codes", such codes as change the layer's output least.
        scale_approx_mult_bits: activation scales as integer multiplier and shift.
        input_overrides: {input number: {bits_activations, mode, clip_acts, clip_n_stds,
            from_output}}.
        precision: compute the module in "16", "bf16", "32" or "64" bit floats instead.
    """

    bits_activations: int | None = 8
    bits_weights: int | None = 8
    bits_accum: int | None = None
    mode: ModuleQuantMode = field(default_factory=ModuleQuantMode)
    clip_acts: ClipMode = ClipMode.NONE
    clip_n_stds: float | None = None
    clip_half_range: bool = False
    clip_weights: ClipMode = ClipMode.NONE
    per_channel_wts: bool = False
    per_row_embedding: bool = True
    group_size: int | None = None
    rounding: str = "nearest"
    scale_approx_mult_bits: int | None = None
    input_overrides: Mapping[int, Mapping[str, Any]] | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        check_bits(self.bits_activations, "bits_activations")
        # Sums are exact in float64, whose integers end at 2^53: a sum that is just over the
        # accumulator's limit must still be exact to be seen and saturated.
        accum = self.bits_accum
        if accum is not None and not (isinstance(accum, int) and 8 <= accum <= _WIDEST_ACCUM):
            raise QuantizationError(f"bits_accum: {self.bits_accum!r} is out of range, use 8 to 48")
        mult = self.scale_approx_mult_bits
        if mult is not None and not (type(mult) is int and 2 <= mult <= _WIDEST_MULTIPLIER):
            raise QuantizationError(
                f"scale_approx_mult_bits: {str(mult)[:40]} is out of range, use 2 to 32"
            )
        if self.precision is not None and self.precision not in PRECISIONS:
            raise QuantizationError(
                f"precision {self.precision!r} is unknown: use one of {', '.join(PRECISIONS)}"
            )
        if self.rounding not in ROUNDINGS:
            raise QuantizationError(
                f"rounding {self.rounding!r} is unknown: use one of {', '.join(ROUNDINGS)}"
            )
        what = "bits_weights" + (" with rounding: codes" if self.codes else "")
        check_bits(self.bits_weights, what, CODE_BITS if self.codes else BITS)
        if self.group_size is not None and type(self.group_size) is not int:
            raise QuantizationError(f"group_size: {str(self.group_size)[:40]!r} is no whole number")
        stds = self.clip_n_stds
        if stds is not None and not (isinstance(stds, int | float) and stds >= 0):
            raise QuantizationError(f"clip_n_stds: {str(stds)[:40]!r} is no number from 0 on")
        if self.codes and self.group_size is not None and self.group_size % 8:
            raise QuantizationError(
                f"group_size: {self.group_size} with rounding: codes: use a multiple of 8"
            )
        if self.group_size is not None and self.group_size < 1:
            raise QuantizationError(f"group_size: {self.group_size} is less than 1")
        by_rows = self.per_channel_wts or self.group_size is not None
        if self.clip_weights in _WHOLE_TENSORS and by_rows:
            name = self.clip_weights.name
            raise QuantizationError(f"clip mode {name} is not supported per channel: use MSE")
        # The original's callers give 0 beside other clip modes.
        if ClipMode.N_STD in (self.clip_acts, self.clip_weights) and not stds:
            raise QuantizationError("clip mode N_STD needs clip_n_stds, above 0")

    @property
    def codes(self) -> bool:
        """Are weights sums of scaled signs, see `codes`?"""
        return self.rounding in ("codes", "calibrated-codes")

    @property
    def has_embedding_rows(self) -> bool:
        """Has an embedding more than one scale?"""
        return self.per_row_embedding or self.group_size is not None

    def check_embedding(self, name: str) -> None:
        """Raises QuantizationError where the rows of an embedding cannot be clipped so."""
        integers = self.bits_weights is not None and self.precision is None and not self.codes
        if integers and self.has_embedding_rows and self.clip_weights in _WHOLE_TENSORS:
            raise QuantizationError(
                f"{name}: clip mode {self.clip_weights.name} is not supported per row: use MSE, or "
                "one scale for the embedding (per_row_embedding: false)"
            )

    @property
    def needs_moments(self) -> bool:
        """Does it look at the moments of a layer's inputs?"""
        return self.rounding in ("gptq", "calibrated-codes")

    @property
    def accumulator_bits(self) -> int:
        """The width of the accumulators, given or chosen."""
        if self.bits_accum is not None:
            return self.bits_accum
        weights = 8 if self.codes else self.bits_weights or 0
        product = (self.bits_activations or 0) + weights
        return min(max(product + 16, 32), _WIDEST_ACCUM)

    def plain(self) -> dict[str, Any]:
        """For a file."""
        found = asdict(self)
        found["mode"] = self.mode.plain()
        found["clip_acts"], found["clip_weights"] = self.clip_acts.name, self.clip_weights.name
        if found["input_overrides"] is None:
            del found["input_overrides"]
        return found


_MODULE_FIELDS = {entry.name for entry in fields(ModuleSettings)}
_ALIASES = {"bits_parameters": "bits_weights", "fpq_module": "precision"}
_OF_INPUTS = ("bits_activations", "mode", "clip_acts", "clip_n_stds", "from_output")
_SWITCHES = {"clip_half_range", "per_channel_wts", "per_row_embedding", "also_clip_weights"}
_ACCEPTED = sorted(
    _MODULE_FIELDS
    | set(_ALIASES)
    | {"fp16", "bf16", "also_clip_weights", "mode_activations", "mode_weights"}
)


def canonical(changes: Mapping[str, Any]) -> dict[str, Any]:
    """An override with each setting under its own name: `fp16: true` is `precision: "16"`."""
    found: dict[str, Any] = {}
    for key, value in changes.items():
        if key in ("fp16", "bf16"):
            if value:
                found["precision"] = "16" if key == "fp16" else "bf16"
            else:
                found.setdefault("precision", None)
        else:
            found[_ALIASES.get(key, key)] = value
    return found


def _apply(base: ModuleSettings, changes: Mapping[str, Any], where: str) -> ModuleSettings:
    """The settings with some of them changed, from plain values."""
    values: dict[str, Any] = {}
    for key, value in canonical(changes).items():
        if key in _SWITCHES:
            _check_switch(value, f"{where}: {key}")
        if key == "also_clip_weights":
            values["_also_clip_weights"] = value
        elif key in ("mode_activations", "mode_weights"):
            # After a mode of both, which may stand behind it.
            values["_" + key] = parse_mode(value)
        elif key == "bits_bias":
            continue  # biases take the accumulator's width, as in the original
        elif key in _MODEL_FIELDS:
            raise QuantizationError(
                f"{where}: {key!r} is of the whole model: give it beside the overrides, not in one"
            )
        elif key not in _MODULE_FIELDS:
            raise QuantizationError(
                f"{where}: {key!r} is not a setting {did_you_mean(key, _ACCEPTED)}"
            )
        elif key == "mode":
            values[key] = ModuleQuantMode.parse(value)
        elif key in ("clip_acts", "clip_weights"):
            values[key] = parse_clip(value)
        elif key == "precision":
            values[key] = None if value is None else str(value)
        elif key == "input_overrides":
            values[key] = _of_inputs(value, where)
        else:
            values[key] = value
    for side in ("activations", "weights"):
        own = values.pop(f"_mode_{side}", None)
        if own is not None:
            values["mode"] = replace(values.get("mode", base.mode), **{side: own})
    also = values.pop("_also_clip_weights", None)
    if also is not None:
        values["clip_weights"] = values.get("clip_acts", base.clip_acts) if also else ClipMode.NONE
    try:
        return replace(base, **values)
    except QuantizationError as error:
        raise QuantizationError(f"{where}: {error}") from None
    except TypeError as error:
        raise QuantizationError(f"{where}: a setting has the wrong type: {error}") from None


def _check_switch(value: object, where: str) -> None:
    if type(value) is not bool:
        raise QuantizationError(f"{where}: {str(value)[:40]!r} is not true or false")


def _of_inputs(value: Any, where: str) -> dict[int, dict[str, Any]]:
    """``input_overrides`` as a mapping of numbers to settings."""
    where = f"{where}: input_overrides"
    try:
        found = {int(index): dict(entry) for index, entry in (value or {}).items()}
    except (AttributeError, TypeError, ValueError):
        raise QuantizationError(
            f"{where}: {str(value)[:40]!r} is no mapping of numbers of inputs to settings"
        ) from None
    for index, entry in found.items():
        place, own = f"{where}: {index}", dict(entry)
        for key in own:
            if key not in _OF_INPUTS:
                raise QuantizationError(
                    f"{place}: {key!r} is not a setting of an input {did_you_mean(key, _OF_INPUTS)}"
                )
        _check_switch(own.pop("from_output", False), f"{place}: from_output")
        if own.get("bits_activations", 8) is None:
            raise QuantizationError(
                f"{place}: bits_activations: null is of a whole module: leave it out here for the "
                "module's"
            )
        if "mode" in own:
            own["mode"] = parse_mode(own["mode"])  # one, not those of two sides
        # The module may have what this clip mode needs.
        _apply(ModuleSettings(clip_n_stds=1.0), own, place)
    return found


def parse_overrides(
    overrides: str | Mapping[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """Overrides from YAML text or a mapping: {regular expression: {setting: value}}.

    Raises:
        QuantizationError: not a mapping of mappings, or not a regular expression.
    """
    if overrides is None:
        return {}
    if isinstance(overrides, str):
        text = overrides
        overrides = read_yaml(text, "as text", kind="overrides", error=QuantizationError) or {}
    if not isinstance(overrides, Mapping):
        raise QuantizationError("overrides: expected a mapping of patterns to settings")
    parsed: dict[str, dict[str, Any]] = {}
    for pattern, changes in overrides.items():
        if not isinstance(changes, Mapping):
            raise QuantizationError(f"override {pattern!r}: expected a mapping of settings")
        try:
            check_pattern(str(pattern))
        except ValueError as error:
            raise QuantizationError(
                f"override {pattern!r} is no regular expression: {error}"
            ) from error
        parsed[str(pattern)] = dict(changes)
    return parsed


def match_overrides(
    overrides: Mapping[str, Mapping[str, Any]], names: Iterable[str]
) -> dict[str, Mapping[str, Any]]:
    """For each name the settings of the first pattern that matches all of it.

    Raises:
        QuantizationError: a pattern that matches no name.
    """
    found: dict[str, Mapping[str, Any]] = {}
    candidates = list(names)
    for pattern, changes in overrides.items():
        matching = [name for name in candidates if matches(pattern, name)]
        if not matching:
            raise QuantizationError(
                f"override {pattern!r} matches no module {did_you_mean(pattern, candidates)}"
            )
        for name in matching:
            found.setdefault(name, changes)
    return found


@dataclass(frozen=True)
class QuantSettings:
    """Settings of a whole model.

    Attributes:
        base: what holds for every module without an override.
        overrides: {regular expression: {setting: value}}, the first match of a full name wins.
        net_aware: let the cells' own arithmetic have a say: narrow gate sums to what their
            activations can tell apart; see `ModularCell` for what else.
        bits_state: bits of an LSTM's cell state, 2 to 16; None: as bits_activations.
        clip_state: how the range of an LSTM's cell state is chosen; None: as clip_acts.
        inputs_quant_auto_fallback: quantize an input that carries no scale by its statistics.
        fp_activations: with a precision for all, also compute sigmoids and tanhs in it.
        save_fp_weights: keep the weights as they were beside the integers.
    """

    base: ModuleSettings = field(default_factory=ModuleSettings)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    net_aware: bool = True
    bits_state: int | None = None
    clip_state: ClipMode | None = None
    inputs_quant_auto_fallback: bool = True
    fp_activations: bool = False
    save_fp_weights: bool = False

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any], where: str = "settings") -> QuantSettings:
        """From plain values, as a YAML file gives them: module settings and model settings mixed.

        Raises:
            QuantizationError: an unknown setting or a wrong value.
        """
        model = {key: entries[key] for key in _MODEL_FIELDS if key in entries}
        for key, value in model.items():
            if key == "bits_state":
                check_bits(value, f"{where}: bits_state")
            elif key == "clip_state":
                model[key] = None if value is None else parse_clip(value)
            else:
                _check_switch(value, f"{where}: {key}")
        rest = {k: v for k, v in entries.items() if k not in _MODEL_FIELDS and k != "overrides"}
        rest.pop("description", None)
        base = _apply(ModuleSettings(), rest, where)
        overrides = parse_overrides(entries.get("overrides"))
        for pattern, changes in overrides.items():
            # Told now, not when a model is there to match them.
            _apply(base, changes, f"override {pattern!r}")
        return cls(base, overrides, **model)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, plain enough for JSON."""
        return {
            **self.base.plain(),
            "net_aware": self.net_aware,
            "bits_state": self.bits_state,
            "clip_state": self.clip_state.name if self.clip_state else None,
            "inputs_quant_auto_fallback": self.inputs_quant_auto_fallback,
            "fp_activations": self.fp_activations,
            "save_fp_weights": self.save_fp_weights,
            "overrides": {key: dict(value) for key, value in self.overrides.items()},
        }

    def pattern_of(self, name: str) -> str | None:
        """The override that a module gets: the first that matches all of its name."""
        return next((pattern for pattern in self.overrides if matches(pattern, name)), None)

    def settings_of(self, name: str, role: Role = "") -> ModuleSettings:
        """A module's settings: the base's, changed by its role, and then by its override.

        Raises:
            QuantizationError: its override is wrong.
        """
        pattern = self.pattern_of(name)
        if pattern is None:
            return self._in_role(role)
        in_role = self._in_role(role)
        return _apply(in_role, self.overrides[pattern], f"override {pattern!r}")

    def _in_role(self, role: Role) -> ModuleSettings:
        """Net-aware, steps are kept in 16 bits, and neither they nor what is to stay whole are
        clipped. A state may have bits and a clip mode of its own: a few units of an LSTM's cell
        state count upwards into the tens while the rest stay within two, and the ranges differ
        tenfold between stretches of one text."""
        base, bits = self.base, self.base.bits_activations
        if bits is None or base.precision is not None:
            return base
        if self.net_aware and role in ("step", "whole"):
            bits = max(bits, _STEP_BITS) if role == "step" else bits
            return replace(base, bits_activations=bits, clip_acts=ClipMode.NONE)
        if role == "state":
            clip = base.clip_acts if self.clip_state is None else self.clip_state
            bits = bits if self.bits_state is None else self.bits_state
            return replace(base, bits_activations=bits, clip_acts=clip)
        return base

    def activation_obeys_precision(self, name: str) -> bool:
        """Is a sigmoid, tanh or ReLU of this name computed in its `precision`, where it has one?
        Else it is quantized as if it had none."""
        changes = canonical(self.overrides.get(self.pattern_of(name) or "", {}))
        return self.fp_activations or changes.get("precision") is not None

    def resolve(
        self, names: Iterable[str], roles: Mapping[str, Role] | None = None
    ) -> dict[str, ModuleSettings]:
        """Each module's settings; `roles` are by name, those that have one.

        Raises:
            QuantizationError: an override that matches nothing or is wrong.
        """
        found, names = roles or {}, list(names)
        match_overrides(self.overrides, names)
        return {name: self.settings_of(name, found.get(name, "")) for name in names}


_MODEL_FIELDS = {entry.name for entry in fields(QuantSettings)} - {"base", "overrides"}
