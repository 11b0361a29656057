"""What a quantize run's settings mean to the engine, and how it runs a model over text.

The laboratory does the same with the same functions, so that its prices are those of the runs that
are made of them. Imports torch: for workers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.config import QuantizeConfig
from lmbench.corpus import Corpus
from lmbench.corpus.batches import batchify, count_windows, windows
from lmbench.distiller.quantization import (
    Budget,
    QuantizationError,
    QuantSettings,
    load_preset,
    load_settings,
)
from lmbench.errors import LmbenchError
from lmbench.model import RNNModel
from lmbench.training.evaluate import Evaluation, evaluate

__all__ = [
    "budget_of",
    "calibration_rows",
    "describe",
    "needs_moments",
    "score_rows",
    "scored",
    "settings_of",
    "window_steps",
]

_COLUMNS = 10
_BPTT = 35

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_DEFAULT = "int8-best"


def settings_of(config: QuantizeConfig, file: Path | None = None) -> QuantSettings:
    """The preset or file that is named (int8-best where none is), single settings over it.

    Args:
        file: where the file that is named is read from: `own_files.settings_file`, or a run's copy.

    Raises:
        LmbenchError: both are named, or a setting is wrong; says which.
    """
    if config.preset and config.config:
        raise LmbenchError("--preset and --config both name settings: give one of them")
    try:
        if config.config:
            base = load_settings(file or Path(config.config))
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


def needs_moments(settings: QuantSettings) -> bool:
    """Does any module round with error compensation, for which inputs' moments are needed?"""
    rules = [settings.base.rounding, *(o.get("rounding") for o in settings.overrides.values())]
    return "gptq" in rules


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


def calibration_rows(corpus: Corpus, split: str, tokens: int, device: torch.device) -> Tensor:
    """The text that activation ranges are taken from: ids [rows, columns].

    Raises:
        LmbenchError: it is too short to run.
    """
    data = score_rows(corpus, split, tokens, device)
    if len(data) < 2:
        raise LmbenchError(
            f"the calibration set is empty: {tokens} tokens of {split} leave nothing to run; use "
            f"at least {2 * _COLUMNS}"
        )
    return data


def score_rows(corpus: Corpus, split: str, tokens: int, device: torch.device) -> Tensor:
    """The first `tokens` of a split (0 for all of it) as ids [rows, columns]."""
    return batchify(corpus.split(split)[: tokens or None], _COLUMNS, device)


def scored(
    model: nn.Module, data: Tensor, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """The loss of a model, quantized or not, on rows of ids."""
    assert isinstance(model, RNNModel)
    return evaluate(model, data, _BPTT, progress)


def window_steps(
    data: Tensor, most: int | None = None
) -> tuple[Iterator[Callable[[nn.Module], Any]], int]:
    """The windows of `data` as functions that run a model, its state carried along; how many."""
    count = min(most or 10**9, count_windows(len(data), _BPTT))

    def generate() -> Iterator[Callable[[nn.Module], Any]]:
        state: list[Any] = [None]
        for number, (input, _) in enumerate(windows(data, _BPTT)):
            if number == count:
                return

            def step(model: nn.Module, input: Tensor = input) -> None:
                hidden = state[0] if state[0] is not None else _first_state(model)
                _, state[0] = model(input, hidden)

            yield step

    return generate(), count


def _first_state(model: nn.Module) -> Any:
    assert isinstance(model, RNNModel)
    return model.init_hidden(_COLUMNS)
