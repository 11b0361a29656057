"""How a model runs in the form it has: the runtime that its weights were made for."""

from __future__ import annotations

from collections.abc import Iterator

from lmbench.deploy.loaded_model import Loaded
from lmbench.deploy.packed_file.writing import PackedModel
from lmbench.deploy.runtimes.table import RUNTIMES

__all__ = ["natural_runtime"]


def natural_runtime(loaded: Loaded) -> str:
    """The runtime that computes with the stored numbers themselves.

    Integers of a packed file run on the compiled kernels of their layout, modules that a quantizer
    has wrapped as they are, and floats in torch; so do integers where the kernels cannot be had or
    another device than the CPU was asked for, on the fp32 weights that the file unpacks to.
    """
    if not loaded.plain:
        return "naive"
    if isinstance(loaded, PackedModel) and loaded.device.type == "cpu":
        for name in _kernels(loaded):
            if RUNTIMES[name].refusal(loaded) is None:
                return name
    return "torch"


def _kernels(loaded: PackedModel) -> Iterator[str]:
    """The kernels for the layouts of this file's matrices, the most particular first."""
    specs = [spec for spec in loaded.packed.specs.values() if len(spec.shape) == 2]
    if any(spec.values == "int4" for spec in specs):
        yield "native-int4"
    integers = {spec.layout for spec in specs if spec.values == "int8"}
    if "block" in integers:
        yield "block-int8"
    # A bitmask pays in bytes from fewer zeros on than in time; then the dense kernel is next.
    if "bitmask" in integers:
        yield "sparse-int8"
    if integers:
        yield "native-int8"
