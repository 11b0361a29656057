"""The settings of a packed file. No torch here."""

from __future__ import annotations

from typing import Literal

from lmbench.config.machine import COMPRESSION, DATA, DEVICE, MACHINE, MachineConfig
from lmbench.config.setting import setting

__all__ = ["PackConfig"]


class PackConfig(MachineConfig):
    """One small file with everything that generating and scoring need."""

    device: str = setting(
        "auto",
        "does nothing: a file is made on the CPU",
        group=MACHINE,
        pattern=DEVICE,  # older runs have one
        hidden=True,
    )
    weights: Literal["auto", "fp32", "fp16", "int8", "int4"] = setting(
        "auto",
        "how dense values are stored; auto keeps what the run computes with",
        group=COMPRESSION,
    )
    biases: Literal["fp32", "fp16", "int8"] = setting(
        "fp32",
        "how biases are stored; fp32 becomes fp16 where --weights is fp16, int8 has one scale for "
        "each vector",
        group=COMPRESSION,
    )
    sparse: Literal["auto", "never", "always"] = setting(
        "auto", "store zeros as a bitmask where that is smaller", group=COMPRESSION
    )
    thin: bool = setting(
        True,
        "leave out the hidden units that nothing reads (pruned as a whole), which makes a smaller "
        "dense model of the same outputs",
        group=COMPRESSION,
    )
    zstd: bool = setting(
        False, "compress with zstd, and masks of zeros by entropy coding", group=COMPRESSION
    )
    checkpoint: Literal["best", "last"] = setting("best", "which checkpoint of the run", group=DATA)
