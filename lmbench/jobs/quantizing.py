"""What a quantize run's settings mean to the engine. Imports torch: for workers."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from lmbench.config import QuantizeConfig
from lmbench.distiller.quantization import (
    Budget,
    QuantizationError,
    QuantSettings,
    load_preset,
    load_settings,
)
from lmbench.errors import LmbenchError

__all__ = ["budget_of", "describe", "settings_of"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_DEFAULT = "int8-best"


def settings_of(config: QuantizeConfig) -> QuantSettings:
    """The preset or file that is named (int8-best where none is), single settings over it.

    Raises:
        LmbenchError: both are named, or a setting is wrong; says which.
    """
    if config.preset and config.config:
        raise LmbenchError("--preset and --config both name settings: give one of them")
    try:
        if config.config:
            base = load_settings(Path(config.config))
        else:
            base = load_preset(config.preset or _DEFAULT)
        return QuantSettings.from_dict({**base.to_dict(), **_changes(config)})
    except QuantizationError as error:
        raise LmbenchError(str(error)) from None


def _changes(config: QuantizeConfig) -> dict[str, Any]:
    """The single settings that were given, in the engine's own words."""
    given: dict[str, Any] = {
        "bits_activations": config.bits_activations,
        "bits_weights": config.bits_parameters,
        "bits_accum": config.bits_accum,
        "clip_n_stds": config.clip_n_stds,
        "per_channel_wts": config.per_channel,
        "rounding": config.rounding,
        "mode": config.mode and config.mode.upper().replace("-", "_"),
        "clip_acts": config.clip_acts and config.clip_acts.upper().replace("-", "_"),
    }
    return {name: value for name, value in given.items() if value is not None}


def describe(config: QuantizeConfig) -> str:
    """What a run is called when it was given no name."""
    if config.auto:
        return f"auto {config.budget or ''}".strip()
    if config.config:
        return Path(config.config).stem
    return config.preset or ("custom" if _changes(config) else _DEFAULT)


def budget_of(config: QuantizeConfig) -> Budget:
    """The budget of ``--auto``: bytes such as 4MB, or a share of perplexity such as 1%.

    Raises:
        LmbenchError: none is given, or it is neither.
    """
    text = (config.budget or "").strip()
    if match := re.fullmatch(r"([\d.]+)\s*%", text):
        return Budget(loss=math.log1p(float(match[1]) / 100.0))
    match = re.fullmatch(r"([\d.]+)\s*([KMG]?i?B?)", text, re.IGNORECASE)
    if match and match[2].upper() in _UNITS:
        return Budget(bytes=int(float(match[1]) * _UNITS[match[2].upper()]))
    raise LmbenchError(f"--budget {text!r}: use a size such as 4MB, or a loss such as 1%")
