"""Where and how precisely a run computes; the headings that settings stand under. No torch here."""

from __future__ import annotations

from typing import Literal

from lmbench.setting import Config, setting

__all__ = [
    "ADVANCED",
    "COMPRESSION",
    "DATA",
    "MACHINE",
    "MODEL",
    "OUTPUT",
    "SAMPLING",
    "TRAINING",
    "MachineConfig",
    "SplitName",
]

SplitName = Literal["train", "valid", "test"]

MODEL = "Model"
DATA = "Data"
TRAINING = "Training"
MACHINE = "Machine"
COMPRESSION = "Compression"
OUTPUT = "Output"
SAMPLING = "Sampling"
ADVANCED = "Advanced"


class MachineConfig(Config):
    """Where and how precisely a run computes."""

    device: str = setting(
        "auto",
        "where to compute: auto, cpu, cuda, cuda:N or mps; auto takes a GPU where there is one",
        group=MACHINE,
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
    )
    cuda: bool = setting(False, "the same as --device cuda", group=MACHINE, hidden=True)
    threads: int = setting(
        0,
        "CPU threads; 0 takes one for each core",
        group=MACHINE,
        ge=0,
        le=1024,
        unit="threads",
    )
