"""What a quantizer knows of a recurrent cell beforehand, from the cell's own arithmetic."""

from __future__ import annotations

import copy

from torch import nn

from lmbench.distiller.modules import ModularCell
from lmbench.distiller.quantization.calibration import ActivationStats
from lmbench.distiller.quantization.settings import Role

__all__ = ["cell_roles", "gate_limits", "narrowed", "rectified_sums"]

# The original's, for the gate sums of an LSTM.
_SIGMOID_LIMIT, _TANH_LIMIT = 6.0, 4.0


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


def cell_roles(model: nn.Module) -> dict[str, Role]:
    """The modules that have a role in their cell, by name."""
    roles: dict[str, Role] = {}
    for prefix, cell in _cells(model):
        leaves: dict[Role, tuple[str, ...]] = {
            "step": cell.STEPS,
            "whole": cell.WHOLE,
            "state": cell.MEMORY,
        }
        for role, names in leaves.items():
            roles |= {f"{prefix}.{name}": role for name in names}
    return roles


def _cells(model: nn.Module) -> list[tuple[str, ModularCell]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, ModularCell)]
