"""Whether this process may and can use the kernels on AMX, and what they share."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from lmbench.compiled import NativeUnavailableError, Unit
from lmbench.training.precision import Precision

__all__ = ["TERMS", "allow", "find", "has_amx", "openmp", "usable"]

TERMS: dict[Precision, int] = {"fp32": 3, "bf16": 1}
"""Parts of an operand, of 24 bits or of 8, that are multiplied; see tiles.h."""

_allowed = True

T = TypeVar("T")


def allow(yes: bool) -> None:
    """Let this process use the kernels, or not: a run that began without them goes on without."""
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
    """Where torch's OpenMP begins a parallel region, if it is one that says so (GNU's, LLVM's)."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    mapped = (line.split(maxsplit=5)[-1] for line in lines)
    path = next((p for p in mapped if Path(p).name.startswith(("libgomp", "libiomp5"))), None)
    if path is None:
        return None
    start = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
    return ctypes.cast(start, ctypes.c_void_p).value if start else None


@cache
def has_amx() -> bool:
    """Does the processor say so? Asked first, so that others need not wait for a compiler."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    return {"amx_tile", "amx_bf16", "avx512_bf16"} <= set(flags)
