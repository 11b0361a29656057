"""The optimizer that the settings ask for, one of torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.graph import increment_version

from lmbench.config import TrainConfig

__all__ = ["build_optimizer"]


def _never_compiled() -> None:
    """Have torch's optimizers call their own methods as they are. Each has torch.compile told first
    not to compile it, which loads it: 800 modules and as much time as torch itself takes."""
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None:
            # Where `torch._disable_dynamo` keeps what it calls from the second time on.
            plain.__dynamo_disable = plain


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD, or AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), over the model's parameters.

    On CUDA in one kernel over all of them.
    """
    _never_compiled()
    parameters = list(model.parameters())
    fused = parameters[0].device.type == "cuda"
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=fused,
        )
    else:
        optimizer = torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    optimizer.register_step_post_hook(_note_change)
    return optimizer


def _note_change(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """A fused step does not say that it changed the weights; what is made of them (`TrainedCodes`)
    is made anew where their version is another."""
    for group in optimizer.param_groups:
        increment_version(group["params"])
