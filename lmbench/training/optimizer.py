"""The optimizer that the settings ask for, one of torch's own."""

from __future__ import annotations

import torch
from torch import nn

from lmbench.config import TrainConfig

__all__ = ["build_optimizer"]


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD, or AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), over the model's parameters.

    On CUDA in one kernel over all of them.
    """
    parameters = list(model.parameters())
    fused = parameters[0].device.type == "cuda"
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=fused,
        )
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=fused,
    )
