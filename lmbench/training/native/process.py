"""Which kernels this process may and can use, and what they share."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import torch

from lmbench.compile_kernels import NativeUnavailableError, Unit
from lmbench.training import cpu_info
from lmbench.training.precision import Precision

__all__ = [
    "TERMS", "Kernels", "allow", "allowed", "best", "find", "openmp", "openmp_library", "usable",
]  # fmt: skip

Kernels = Literal["amx", "avx512", "avx2", "torch"]
"""What a training on CPU is computed by. ``torch`` is none of ours; ``avx512`` are those of AVX2,
but for the gradients of all words, which torch's products, twice as wide, have sooner."""

TERMS: dict[Precision, int] = {"fp32": 3, "bf16": 1}
"""Parts of an operand, of 24 bits or of 8, that are multiplied; see tiles.h."""

_NEEDED: dict[Kernels, set[str]] = {
    "amx": {"amx_tile", "amx_bf16", "avx512_bf16"},
    "avx512": {"avx2", "fma", "avx512f"},
    "avx2": {"avx2", "fma"},
}

# GNU's, LLVM's, Intel's.
_OPENMP = ("libgomp", "libomp.", "libiomp5")

# None: the best of this processor.
_allowed: Kernels | None = None

T = TypeVar("T")


def allow(kernels: Kernels) -> None:
    """See `lmbench.training.native.choose.allow`."""
    global _allowed
    _allowed = kernels


def allowed() -> Kernels:
    """Those that this process may use, if they can be had."""
    return _allowed or best()


def best() -> Kernels:
    """The fastest that this processor has the instructions for."""
    for kernels in _NEEDED:
        if _has(kernels):
            return kernels
    return "torch"


def find(unit: Unit, prepare: Callable[[ctypes.CDLL], T | None], kernels: Kernels = "amx") -> T:
    """The unit's library, one of `kernels`, as `prepare` makes it, compiled if it has to be.

    Raises:
        NativeUnavailableError: it is not allowed or cannot be had.
    """
    if _allowed not in (None, kernels):
        raise NativeUnavailableError("this process does without them")
    # Asked of Linux first, so that others need not wait for a compiler.
    if not _has(kernels):
        raise NativeUnavailableError(f"the processor has no {kernels.upper()}")
    found = prepare(unit.library())
    if found is None:
        raise NativeUnavailableError(f"the system does not let this process use {kernels.upper()}")
    return found


def usable(
    unit: Unit, prepare: Callable[[ctypes.CDLL], T | None], kernels: Kernels = "amx"
) -> T | None:
    """What `find` finds, or None."""
    try:
        return find(unit, prepare, kernels)
    except NativeUnavailableError:
        return None


@cache
def openmp() -> int | None:
    """Where torch's OpenMP begins a parallel region, if it exports that (GNU's, LLVM's)."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        path = openmp_library(lines, Path(torch.__file__).resolve().parent)
        start = None if path is None else getattr(ctypes.CDLL(path), "GOMP_parallel", None)
    except OSError:
        return None
    return ctypes.cast(start, ctypes.c_void_p).value if start else None


def openmp_library(maps: list[str], torch_folder: Path) -> str | None:
    """Of the files that a process has mapped the OpenMP that torch computes with.

    Another package may have brought a copy of its own: the one that lies with torch goes first.
    What a link is called (conda's libgomp.so.1 is LLVM's) is not what is mapped.
    """
    mapped = [line.split(maxsplit=5)[-1] for line in maps]
    found = [path for path in mapped if Path(path).name.startswith(_OPENMP)]
    with_torch = (torch_folder, torch_folder.with_name("torch.libs"))
    own = (path for path in found if any(map(Path(path).is_relative_to, with_torch)))
    return next(own, next(iter(found), None))


@cache
def _flags() -> set[str]:
    return set(cpu_info.described().get("flags", "").split())


def _has(kernels: Kernels) -> bool:
    return kernels in _NEEDED and _NEEDED[kernels] <= _flags()
