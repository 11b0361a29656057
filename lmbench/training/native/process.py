"""Whether this process may and can use the kernels on AMX, and what they share."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

from lmbench.compile_kernels import NativeUnavailableError, Unit
from lmbench.training import cpu_info
from lmbench.training.precision import Precision

__all__ = ["TERMS", "allow", "find", "has_amx", "openmp", "openmp_library", "usable"]

TERMS: dict[Precision, int] = {"fp32": 3, "bf16": 1}
"""Parts of an operand, of 24 bits or of 8, that are multiplied; see tiles.h."""

# GNU's, LLVM's, Intel's.
_OPENMP = ("libgomp", "libomp.", "libiomp5")

_allowed = True

T = TypeVar("T")


def allow(yes: bool) -> None:
    """See `lmbench.training.native.choose.allow`."""
    global _allowed
    _allowed = yes


def find(unit: Unit, prepare: Callable[[ctypes.CDLL], T | None]) -> T:
    """The unit's library as `prepare` makes it, compiled if it has to be.

    Raises:
        NativeUnavailableError: it is not allowed or cannot be had.
    """
    if not _allowed:
        raise NativeUnavailableError("this process does without them")
    if not has_amx():
        raise NativeUnavailableError("the processor has no AMX")
    found = prepare(unit.library())
    if found is None:
        raise NativeUnavailableError("the system does not let this process use AMX")
    return found


def usable(unit: Unit, prepare: Callable[[ctypes.CDLL], T | None]) -> T | None:
    """What `find` finds, or None."""
    try:
        return find(unit, prepare)
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
def has_amx() -> bool:
    """Has the processor AMX? Checked first, so that others need not wait for a compiler."""
    flags = cpu_info.described().get("flags", "").split()
    return {"amx_tile", "amx_bf16", "avx512_bf16"} <= set(flags)
