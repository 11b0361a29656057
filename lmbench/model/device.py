"""The one place that decides where to compute, and how wide sums and products are there."""

from __future__ import annotations

import torch
from torch import Tensor

from lmbench.config import MachineConfig
from lmbench.errors import LmbenchError

__all__ = ["allow_tf32", "choose_device", "in_float64", "widest"]

# Apple's GPUs have no float64; torch raises where one is asked for.
_NO_FLOAT64 = frozenset({"mps"})


def choose_device(config: MachineConfig, gpus: int = 1, local: int = 0) -> torch.device:
    """The device that the settings mean.

    ``auto`` takes the first CUDA device, else the CPU: Apple's MPS has to be asked for by name,
    as its recurrent kernels are not the same to the last bit from one version to the next.

    Args:
        gpus: how many processes of this machine train together, each on a GPU of its own; for them
            ``auto`` means CUDA.
        local: which of them this one is.

    Raises:
        LmbenchError: a device was asked for that is not there.
    """
    wanted = "cuda" if config.cuda else config.device
    if wanted == "auto":
        wanted = "cuda" if gpus > 1 or torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        has = f"torch sees {count} CUDA device{'s' if count != 1 else ''}"
        if gpus > max(1, count):
            raise LmbenchError(f"--gpus {gpus}: {has}; ask for no more, or see lmbench doctor")
        if (device.index or 0) >= count:
            raise LmbenchError(f"--device {wanted}: {has}; use --device cpu, or see lmbench doctor")
        return torch.device("cuda", local if device.index is None else device.index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise LmbenchError("--device mps: torch cannot use MPS on this machine; use --device cpu")
    return device


def allow_tf32(allowed: bool) -> None:
    """Whether this process's fp32 products on CUDA may round their operands to TF32.

    Both of torch's switches: cuDNN, which computes recurrent layers, has one of its own, which
    torch leaves on even where the plain products are fp32.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def widest(device: torch.device) -> torch.dtype:
    """The widest float that this device adds in: float64, or float32 where it has none."""
    return torch.float32 if device.type in _NO_FLOAT64 else torch.float64


def in_float64(value: Tensor) -> Tensor:
    """`value` in float64, to be added to sums over many windows.

    On its own device, so that nothing waits for it, but on the CPU where the device has no
    float64.
    """
    return (value if widest(value.device) == torch.float64 else value.cpu()).double()
