"""Calling codes.cpp and codes_avx2.cpp: the passes over a weight that trains in codes."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lmbench.compile_kernels import Unit
from lmbench.training.native.process import Kernels, allowed, openmp, usable

__all__ = ["UNITS", "CodePasses", "code_passes", "prepared"]

_AVX2 = Unit(Path(__file__).with_name("codes_avx2.cpp"))
UNITS: dict[Kernels, Unit] = {
    "amx": Unit(Path(__file__).with_name("codes.cpp")),
    "avx512": _AVX2,
    "avx2": _AVX2,
}


class _Codes(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "columns", "group")),
        *((name, ctypes.c_int32) for name in ("bits", "most", "threads")),
        *(
            (name, ctypes.c_void_p)
            for name in ("weight", "unit", "steps", "image", "grad", "used", "slopes", "parallel")
        ),
    )


class CodePasses:
    """What `lmbench.distiller.quantization.trained_codes` takes in place of torch's operations."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def image(self, weight: Tensor, unit: Tensor, steps: Tensor, group: int) -> Tensor:
        """The image of weights (R, C) under steps (k, R, groups), to the bit; zeros stay."""
        image = torch.empty_like(weight)
        task = _task(weight, group, image=image, unit=unit, steps=steps)
        task.bits = len(steps)
        self._library.lmb_codes_image(ctypes.byref(task))
        return image

    def step_gradients(
        self, weight: Tensor, image: Tensor, grad: Tensor, used: Tensor, most: int, group: int
    ) -> Tensor:
        """Those of the steps (R, groups), summed in another order."""
        slopes = torch.empty_like(used)
        task = _task(weight, group, image=image, grad=grad, used=used, slopes=slopes)
        task.most = most
        self._library.lmb_codes_slopes(ctypes.byref(task))
        return slopes


def _task(weight: Tensor, group: int, **others: Tensor) -> _Codes:
    task = _Codes(*weight.shape, group, threads=torch.get_num_threads(), parallel=openmp())
    for name, tensor in ("weight", weight), *others.items():
        # The kernel trusts what it is given.
        wanted = torch.uint8 if name == "steps" else torch.float32
        if tensor.dtype != wanted or tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise TypeError(f"{name} must be contiguous {wanted} on the CPU")
        setattr(task, name, tensor.data_ptr())
    return task


def code_passes() -> CodePasses | None:
    """The passes, compiled if they have to be; None where they may not or cannot be used."""
    kernels = allowed()
    return usable(UNITS[kernels], prepared, kernels) if kernels in UNITS else None


@cache
def prepared(library: ctypes.CDLL) -> CodePasses | None:
    """The library's passes; None where the system does not let this process use them."""
    return CodePasses(library) if library.lmb_codes_fits() else None
