"""The original's module of helpers: measures of sparsity, and what tells loggers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Size, Tensor, nn

from lmbench.distiller.reports.tensor_sparsity import (
    density,
    density_2D,
    density_3D,
    density_ch,
    density_cols,
    density_rows,
    model_find_module,
    model_find_module_name,
    model_find_param,
    model_find_param_name,
    model_numel,
    size_to_str,
    sparsity,
    sparsity_2D,
    sparsity_3D,
    sparsity_blocks,
    sparsity_ch,
    sparsity_cols,
    sparsity_matrix,
    sparsity_rows,
    volume,
)

if TYPE_CHECKING:
    from lmbench.distiller.reports.data_loggers import DataLogger

__all__ = [
    "density",
    "density_2D",
    "density_3D",
    "density_ch",
    "density_cols",
    "density_rows",
    "has_children",
    "log_activation_statistics",
    "log_activation_statsitics",
    "log_training_progress",
    "log_weights_sparsity",
    "model_device",
    "model_find_module",
    "model_find_module_name",
    "model_find_param",
    "model_find_param_name",
    "model_numel",
    "model_sparsity",
    "normalize_module_name",
    "pretty_int",
    "set_deterministic",
    "set_seed",
    "size2str",
    "size_to_str",
    "sparsity",
    "sparsity_2D",
    "sparsity_3D",
    "sparsity_blocks",
    "sparsity_ch",
    "sparsity_cols",
    "sparsity_matrix",
    "sparsity_rows",
    "to_np",
    "volume",
]


class _Collector(Protocol):
    stat_name: str

    def value(self) -> Mapping[str, float]: ...


def log_training_progress(
    stats_dict: tuple[str, Mapping[str, float]],
    params_dict: Iterable[tuple[str, Tensor]] | None,
    epoch: int,
    steps_completed: int,
    total_steps: float,
    log_freq: int,
    loggers: Iterable[DataLogger],
) -> None:
    """Tell every logger how far the training is, and how the parameters are distributed.

    Args:
        stats_dict: a group such as ``Performance/Training/``, and its values by name.
        params_dict: what ``model.named_parameters()`` gives, or None.
        epoch: from 0.
        steps_completed: of this epoch.
        total_steps: of an epoch.
        log_freq: steps between two calls.
        loggers: see `data_loggers`.
    """
    # named_parameters() is an iterator, which the first logger would use up.
    params = None if params_dict is None else list(params_dict)
    for logger in loggers:
        logger.log_training_progress(stats_dict, epoch, steps_completed, total_steps, freq=log_freq)
        logger.log_weights_distribution(params, steps_completed)


def log_weights_sparsity(model: nn.Module, epoch: int, loggers: Iterable[DataLogger]) -> None:
    """Tell every logger how sparse the weights are."""
    for logger in loggers:
        logger.log_weights_sparsity(model, epoch)


def log_activation_statistics(
    epoch: int, phase: str, loggers: Iterable[DataLogger], collector: _Collector | None
) -> None:
    """Tell every logger what a collector saw; nothing without a collector."""
    if collector is None:
        return
    for logger in loggers:
        logger.log_activation_statistic(phase, collector.stat_name, collector.value(), epoch)


# Older releases of the original spell it so.
log_activation_statsitics = log_activation_statistics


def model_sparsity(
    model: nn.Module, param_dims: Sequence[int] = (2, 4), param_types: Sequence[str] = ("weight",)
) -> float:
    """The share of zeros in percent, in parameters of these dimensions whose name holds a type."""
    found = [
        param
        for name, param in model.named_parameters()
        if param.dim() in param_dims and any(kind in name for kind in param_types)
    ]
    total = sum(param.numel() for param in found)
    zeros = sum(param.numel() - int(torch.count_nonzero(param.detach())) for param in found)
    return 100 * zeros / total if total else 0.0


def model_device(model: nn.Module) -> torch.device | str:
    """Where the parameters are; ``cpu`` for a model without any."""
    first = next(model.parameters(), None)
    return "cpu" if first is None else first.device


def to_np(var: Tensor) -> np.ndarray[Any, Any]:
    """The values as an array of numpy."""
    return var.detach().cpu().numpy()


def size2str(torch_size: Size | Tensor) -> str:
    """``(97, 24)``, of a size or of a tensor."""
    return size_to_str(torch_size.shape if isinstance(torch_size, Tensor) else torch_size)


def pretty_int(i: int) -> str:
    """``1,234``."""
    return f"{i:,}"


def normalize_module_name(layer_name: str) -> str:
    """The name of a layer without the ``module`` that `nn.DataParallel` puts into it."""
    return ".".join(part for part in layer_name.split(".") if part != "module")


def has_children(module: nn.Module) -> bool:
    """Whether there are modules inside."""
    return next(module.children(), None) is not None


def set_seed(seed: int) -> None:
    """Seed the generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_deterministic(seed: int = 0) -> None:
    """`set_seed`, and choose cuDNN's algorithms that repeat themselves."""
    set_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
