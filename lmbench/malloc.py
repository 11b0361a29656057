"""Settings of the C library's malloc, which act on the whole process. No torch."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["ARENA_MAX", "MMAP_MAX", "TRIM_THRESHOLD", "set_malloc"]

# From glibc's malloc.h, which Python does not carry.
TRIM_THRESHOLD = -1
MMAP_MAX = -4
ARENA_MAX = -8


def set_malloc(options: dict[int, int]) -> bool:
    """Set each of these options; whether the C library has them (glibc only)."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl has no mallopt
        return False
    return all(libc.mallopt(option, value) for option, value in options.items())
