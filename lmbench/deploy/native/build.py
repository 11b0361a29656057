"""The kernels' library."""

from __future__ import annotations

import ctypes
from pathlib import Path

from lmbench.compile_kernels import NativeUnavailableError, Unit

__all__ = ["KERNELS", "library", "why_unavailable"]

KERNELS = Unit(
    Path(__file__).with_name("kernels.cpp"),
    without=(("-DLMBENCH_NO_AMX",), ("-DLMBENCH_NO_AMX", "-DLMBENCH_NO_AVX512")),
)


def library() -> ctypes.CDLL:
    """The kernels, compiled if they have to be (see `Unit.library`)."""
    return KERNELS.library()


def why_unavailable() -> str | None:
    """None where the kernels can be used, else the reason in one line."""
    try:
        library()
    except NativeUnavailableError as error:
        return f"the compiled kernels are not available: {error}"
    return None
