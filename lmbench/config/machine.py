"""Where and how precisely a run computes; the headings that settings stand under. No torch here."""

from __future__ import annotations

from typing import Literal

from lmbench.config.setting import Config, setting
from lmbench.errors import LmbenchError

__all__ = [
    "ADAPTATION",
    "ADVANCED",
    "COMPRESSION",
    "DATA",
    "DEVICE",
    "MACHINE",
    "MODEL",
    "OUTPUT",
    "REGULARISATION",
    "SAMPLING",
    "TRAINING",
    "Accuracy",
    "MachineConfig",
    "RuntimeConfig",
    "SplitName",
]

SplitName = Literal["train", "valid", "test"]

Accuracy = Literal["exact", "close", "coarse"]
"""How near a runtime's perplexity is to fp32's.

``exact``: fp32 arithmetic, to rounding. ``close``: within 0.1% (fp16, bf16, int8). ``coarse``:
within 1% (4-bit decoder).
"""

MODEL = "Model"
DATA = "Data"
TRAINING = "Training"
MACHINE = "Machine"
COMPRESSION = "Compression"
OUTPUT = "Output"
SAMPLING = "Sampling"
ADAPTATION = "Adaptation to the text"
REGULARISATION = "Regularisation"
ADVANCED = "Advanced"

DEVICE = r"^(auto|cpu|mps|cuda(:\d+)?)$"
"""What a device may be called."""


class MachineConfig(Config):
    """Where and how precisely a run computes."""

    device: str = setting(
        "auto",
        "the devices to compute on: auto, cpu, cuda, cuda:N, mps; auto takes a GPU where there "
        "is one",
        group=MACHINE,
        pattern=DEVICE,
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


class RuntimeConfig(MachineConfig):
    """What executes a trained model."""

    runtime: str = setting(
        "as-is",
        "what executes the model; as-is runs it in the form it has, a packed file's integers on "
        "their own kernels; auto takes the fastest here of those that --accuracy allows",
        group=MACHINE,
    )
    accuracy: Accuracy = setting(
        "close",
        "how near to fp32 --runtime auto must stay: exact computes in fp32; close also in fp16, "
        "bf16 or int8, perplexity within 0.1%; coarse also with a 4-bit decoder, within 1%",
        group=MACHINE,
    )

    def check(self) -> None:
        if self.accuracy != "close" and self.runtime != "auto":
            raise LmbenchError(
                f"--accuracy {self.accuracy} is for --runtime auto to choose by: add that, or "
                "leave it out"
            )
