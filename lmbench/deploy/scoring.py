"""How a packed model will run: the runtime that its layout was made for."""

from __future__ import annotations

from lmbench.deploy.native import why_unavailable
from lmbench.deploy.packed import PackedModel

__all__ = ["natural_runtime"]


def natural_runtime(loaded: PackedModel) -> str:
    """The runtime that computes with the stored numbers themselves.

    Integers run on the compiled kernels of their layout; floats, and integers where the kernels
    cannot be had, in torch on the fp32 weights that the file unpacks to.
    """
    specs = [spec for spec in loaded.packed.specs.values() if len(spec.shape) == 2]
    if why_unavailable() or not any(spec.values in ("int8", "int4") for spec in specs):
        return "torch"
    if any(spec.values == "int4" for spec in specs):
        return "native-int4"
    for layout, name in (("block", "block-int8"), ("bitmask", "sparse-int8")):
        if any(spec.layout == layout for spec in specs):
            return name
    return "native-int8"
