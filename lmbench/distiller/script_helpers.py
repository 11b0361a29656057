"""Small functions that scripts written for the original call."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor, nn

from lmbench.distiller.reports.tensor_sparsity import size_to_str


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
