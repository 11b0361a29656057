"""What a quantizer knows of a recurrent cell beforehand, from the cell's own arithmetic."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from ..modules import ModularCell
from .calibration import ActivationStats
from .clipping import ClipMode
from .settings import ModuleSettings

__all__ = ["gate_limits", "narrowed", "rectified_sums", "remembering", "widened"]

# The original's, for the gate sums of an LSTM.
_SIGMOID_LIMIT, _TANH_LIMIT = 6.0, 4.0
_STEP_BITS = 16


def gate_limits(model: nn.Module) -> dict[str, float]:
    """For sums that only sigmoids and tanhs consume, how large a value they can tell apart."""
    limits: dict[str, float] = {}
    for prefix, cell in _cells(model):
        for total, consumers in cell.FEEDS.items():
            kinds = {type(cell.get_submodule(name)) for name in consumers}
            if kinds <= {nn.Sigmoid, nn.Tanh}:
                limit = _SIGMOID_LIMIT if nn.Sigmoid in kinds else _TANH_LIMIT
                limits[f"{prefix}.{total}"] = limit
    return limits


def narrowed(stats: ActivationStats, model: nn.Module) -> ActivationStats:
    """A copy of the statistics in which gate sums end at their limits."""
    stats = copy.deepcopy(stats)
    for name, limit in gate_limits(model).items():
        if name in stats:
            output = stats[name]["output"]
            for key in ("min", "max", "avg_min", "avg_max"):
                if key in output:
                    output[key] = min(max(output[key], -limit), limit)
    return stats


def rectified_sums(model: nn.Module) -> frozenset[str]:
    """Gate sums that only a ReLU consumes: half their range is never used."""
    return frozenset(
        f"{prefix}.{total}"
        for prefix, cell in _cells(model)
        for total, consumers in cell.FEEDS.items()
        if all(isinstance(cell.get_submodule(name), nn.ReLU) for name in consumers)
    )


def widened(model: nn.Module, resolved: Mapping[str, ModuleSettings]) -> dict[str, ModuleSettings]:
    """Of these modules those whose settings the arithmetic of their cell changes.

    `ModularCell.STEPS` are kept in 16 bits, and neither they nor `ModularCell.WHOLE` are clipped.
    """
    changed: dict[str, ModuleSettings] = {}
    for prefix, cell in _cells(model):
        for leaf in (*cell.STEPS, *cell.WHOLE):
            name = f"{prefix}.{leaf}"
            chosen = resolved.get(name)
            if chosen is None or chosen.bits_activations is None or chosen.precision is not None:
                continue
            bits = chosen.bits_activations
            changed[name] = replace(
                chosen,
                bits_activations=max(bits, _STEP_BITS) if leaf in cell.STEPS else bits,
                clip_acts=ClipMode.NONE,
            )
    return changed


def remembering(
    model: nn.Module, resolved: Mapping[str, ModuleSettings], clip: ClipMode
) -> dict[str, ModuleSettings]:
    """Of these modules those that keep a state (`ModularCell.MEMORY`), with `clip` for its range.

    The ranges of an LSTM's cell state differ tenfold between stretches of one text, and averages of
    them with the text; what a few units count up to must not cost the others their resolution.
    """
    names = [f"{prefix}.{leaf}" for prefix, cell in _cells(model) for leaf in cell.MEMORY]
    return {
        name: replace(resolved[name], clip_acts=clip)
        for name in names
        if name in resolved and resolved[name].bits_activations is not None
    }


def _cells(model: nn.Module) -> list[tuple[str, ModularCell]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, ModularCell)]
