"""Every setting of a quantization, and the two small languages among them: budgets and overrides.

No torch here: the command line and the workbench's form read both, so that a slip is told before
anything is loaded. What the settings mean to the engine stands in `lmbench.jobs.quantization`.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from lmbench.config.machine import ADVANCED, COMPRESSION, DATA, MACHINE, MachineConfig, SplitName
from lmbench.config.setting import as_number, flag_of, setting
from lmbench.errors import LmbenchError

__all__ = ["QuantizeConfig", "parse_budget", "parse_override"]

_Mode = Literal["symmetric", "symmetric-restricted", "asymmetric-signed", "asymmetric-unsigned"]
_Clip = Literal["none", "avg", "n-std", "gauss", "laplace", "mse", "percentile", "kl"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"

_ENTRY = re.compile(r"\s*([a-z_0-9]+)\s*=\s*([^=,]*?)\s*")
_PLAIN: dict[str, Any] = {"null": None, "none": None}
_PLAIN |= {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NAMED = ("mode", "mode_activations", "mode_weights", "clip_acts", "clip_weights")


class QuantizeConfig(MachineConfig):
    """Post-training quantization: calibrate, quantize, evaluate."""

    preset: str | None = setting(
        None,
        "settings by name; `lmbench quantize --list-presets` shows them",
        group=COMPRESSION,
        choices_from="quantization_presets",
    )
    config: str | None = setting(None, "settings from a YAML file", group=COMPRESSION)
    mode: _Mode | None = setting(
        None, "linear quantization mode of weights and activations", group=COMPRESSION
    )
    bits_activations: int | None = setting(
        None, "bits of activations", group=COMPRESSION, ge=2, le=16, unit="bits"
    )
    bits_parameters: int | None = setting(
        None,
        "bits of weights; 1 only with --rounding codes or calibrated-codes",
        group=COMPRESSION,
        ge=1,
        le=16,
        unit="bits",
    )
    bits_accum: int | None = setting(
        None, "bits of the accumulators", group=COMPRESSION, ge=8, le=48, unit="bits"
    )
    clip_acts: _Clip | None = setting(None, "how activations saturate", group=COMPRESSION)
    clip_n_stds: float | None = setting(
        None, "number of standard deviations kept by n-std", group=COMPRESSION, gt=0.0
    )
    per_channel: bool | None = setting(
        None, "one scale for each output channel of the weights", group=COMPRESSION
    )
    rounding: Literal["nearest", "gptq", "codes", "calibrated-codes"] | None = setting(
        None,
        "how weights are rounded: to nearest, with error compensation, or to codes, sums of 1 to 4 "
        "scaled signs, fitted to the weights or to what comes of them",
        group=COMPRESSION,
    )
    auto: bool = setting(
        False, "search clip mode and bits per module for a budget", group=COMPRESSION
    )
    budget: str | None = setting(
        None,
        "what --auto keeps to: bytes (4MB) or a loss of perplexity (1%)",
        group=COMPRESSION,
    )
    calibrate_on: SplitName = setting("train", "split whose activations set the ranges", group=DATA)
    calibration_tokens: int = setting(
        100_000, "tokens of calibration", group=DATA, ge=20, unit="tokens"
    )
    eval_tokens: int = setting(
        0, "tokens of each split to score; 0 scores all", group=DATA, ge=0, unit="tokens"
    )
    seed: int = setting(1111, "random seed", group=MACHINE, ge=0, lt=2**63)
    override: tuple[str, ...] = setting(
        (),
        "settings for some modules, as PATTERN:setting=value,…; the pattern is a regular "
        "expression for whole names, and the first that matches wins, these before a file's",
        group=ADVANCED,
    )
    mode_activations: _Mode | None = setting(
        None, "mode of activations, where it is another than --mode", group=ADVANCED
    )
    mode_weights: _Mode | None = setting(
        None, "mode of weights, where it is another than --mode", group=ADVANCED
    )
    bits_state: int | None = setting(
        None,
        "bits of an LSTM's cell state, where they are others than --bits-activations",
        group=ADVANCED,
        ge=2,
        le=16,
        unit="bits",
    )
    clip_state: _Clip | None = setting(
        None,
        "how an LSTM's cell state saturates, where it is another than --clip-acts",
        group=ADVANCED,
    )
    weights_only: bool = setting(False, "leave activations as they are", group=ADVANCED)
    clip_weights: _Clip | None = setting(None, "how weights saturate", group=ADVANCED)
    group_size: int | None = setting(
        None,
        "one scale for this many weights of a row; left out: one for each row, or for the matrix "
        "without --per-channel",
        group=ADVANCED,
        ge=1,
        unit="weights",
    )
    per_row_embedding: bool | None = setting(
        None, "a scale for each row of the embedding, else the original's one", group=ADVANCED
    )
    precision: Literal["16", "bf16", "32", "64"] | None = setting(
        None,
        "compute all but sigmoids and tanhs in floats of this width in place of integers",
        group=ADVANCED,
    )
    fp16: bool = setting(
        False, "everything in 16-bit floats: --precision 16 --fp-activations", group=ADVANCED
    )
    fp_activations: bool | None = setting(
        None, "with --precision, sigmoids and tanhs in it too", group=ADVANCED
    )
    net_aware: bool | None = setting(
        None, "narrow gate sums to what sigmoid and tanh tell apart", group=ADVANCED
    )
    clip_half_range: bool | None = setting(
        None, "take outputs as what a ReLU leaves of them", group=ADVANCED
    )
    scale_approx_mult_bits: int | None = setting(
        None,
        "activation scales as an integer of so many bits and a shift",
        group=ADVANCED,
        label="scale mult bits",
        ge=2,
        le=32,
        unit="bits",
    )
    inputs_quant_auto_fallback: bool | None = setting(
        None,
        "quantize an input that carries no scale by its statistics",
        group=ADVANCED,
        label="input fallback",
    )
    save_fp_weights: bool | None = setting(
        None, "keep the weights as they were beside the integers", group=ADVANCED
    )
    stats: str | None = setting(
        None,
        "activation statistics from a YAML file (of an earlier run, or of the original) in place "
        "of a calibration",
        group=ADVANCED,
    )
    dynamic: bool = setting(
        False,
        "no statistics: linear layers by each input's own range, the rest in floats",
        group=ADVANCED,
    )

    def conflicts(self) -> dict[str, str]:
        """What is wrong between settings that are right alone: {setting: words}."""
        found: dict[str, str] = {}
        if self.auto and not self.budget:
            found["budget"] = "--auto needs one: a size such as 4MB, or a loss such as 1%"
        elif self.budget and not self.auto:
            found["budget"] = f"{self.budget!r} is what --auto keeps to: add --auto, or leave it"
        elif self.budget:
            try:
                parse_budget(self.budget)
            except ValueError as error:
                found["budget"] = str(error)
        if self.stats and self.dynamic:
            found["dynamic"] = "takes no statistics, and --stats gives some: leave one of them"
        if self.auto and self.rounding in ("codes", "calibrated-codes"):
            found["rounding"] = "--auto chooses between 8 and 4 bits, which are no codes: leave one"
        for name in ("bits_parameters", "clip_acts"):
            if self.auto and getattr(self, name) is not None:
                found[name] = "--auto chooses it for each module: leave one of them"
        if self.fp16 and self.precision not in (None, "16"):
            found["fp16"] = f"--precision {self.precision} is another width: leave one of them"
        if self.weights_only and self.bits_activations is not None:
            found["weights_only"] = "--bits-activations quantizes activations: leave one of them"
        patterns: set[str] = set()
        for text in self.override:
            try:
                pattern, _ = parse_override(text)
            except ValueError as error:
                found.setdefault("override", str(error))
                continue
            if pattern in patterns:
                found.setdefault(
                    "override", f"{pattern!r} is given twice: write all its settings after one"
                )
            patterns.add(pattern)
        return found

    def check(self) -> None:
        for name, words in self.conflicts().items():
            raise LmbenchError(f"{flag_of(name)}: {words}")


def parse_budget(text: str) -> tuple[int | None, float | None]:
    """``4MB`` as (bytes, None); ``1%`` of perplexity as (None, nats a token).

    Raises:
        ValueError: it is neither, or nothing; says so in words.
    """
    wanted = text.strip()
    share = re.fullmatch(rf"{_NUMBER}\s*%", wanted)
    size = re.fullmatch(rf"{_NUMBER}\s*([KMG]?i?B?)", wanted, re.IGNORECASE)
    if share and 0 < float(share[1]) < math.inf:
        return None, math.log1p(float(share[1]) / 100.0)
    if size and size[2].upper() in _UNITS:
        count = float(size[1]) * _UNITS[size[2].upper()]
        if 1 <= count < math.inf:
            return int(count), None
    raise ValueError(f"{text!r}: use a size such as 4MB, or a loss such as 1%")


def parse_override(text: str) -> tuple[str, dict[str, Any]]:
    """``decoder:bits_weights=8,fp16=no`` as (pattern, {setting: plain value}).

    The last colon before a setting parts the two, so a pattern may hold colons. ``none`` and
    ``null`` are None; modes and clip modes may be written as the flags are.

    Raises:
        ValueError: it is none, or its pattern no regular expression; says so in words.
    """
    pattern, colon, rest = text.rpartition(":")
    entries = [_ENTRY.fullmatch(part) for part in rest.split(",")]
    if not pattern or not colon or not all(entries):
        raise ValueError(f"{text!r}: write PATTERN:setting=value,… such as decoder:bits_weights=8")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    settings = {match[1]: _value(match[1], match[2]) for match in entries if match}
    if len(settings) < len(entries):
        raise ValueError(f"{text!r}: gives a setting twice; leave one of them out")
    return pattern, settings


def _value(name: str, text: str) -> Any:
    if name in _NAMED:
        return text.upper().replace("-", "_")
    if text.lower() in _PLAIN:
        return _PLAIN[text.lower()]
    return as_number(text)
