"""The one place that decides where to compute."""

from __future__ import annotations

import torch

from lmbench.config import MachineConfig
from lmbench.errors import LmbenchError

__all__ = ["choose_device"]


def choose_device(config: MachineConfig) -> torch.device:
    """The device that the settings mean.

    ``auto`` takes the first CUDA device, else the CPU: Apple's MPS has to be asked for by name,
    as its recurrent kernels are not the same to the last bit from one version to the next.

    Raises:
        LmbenchError: a device was asked for that is not there.
    """
    wanted = "cuda" if config.cuda else config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            has = f"torch sees {count} CUDA device{'s' if count != 1 else ''}"
            raise LmbenchError(f"--device {wanted}: {has}; use --device cpu, or see lmbench doctor")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise LmbenchError("--device mps: torch cannot use MPS on this machine; use --device cpu")
    return device
