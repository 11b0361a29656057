"""Settings of a process that trains or evaluates, made once, before it allocates anything.

They act on the whole process, so only workers (and the benchmark's own processes) call this.
"""

from __future__ import annotations

import os

import torch

from lmbench.malloc import MMAP_MAX, TRIM_THRESHOLD, set_malloc
from lmbench.model.device import allow_tf32
from lmbench.training.precision import Precision

__all__ = ["compute_in", "prepare_worker"]

_INT_MAX = 2**31 - 1


def prepare_worker(*, threads: int = 0, device: str = "cpu") -> None:
    """Make this process ready to compute, in full fp32 (see `compute_in`).

    Args:
        threads: CPU threads; 0 takes one for each core that this process may use.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    """
    keep_memory()
    torch.set_num_threads(threads or usable_cores())
    if device.startswith("cuda"):
        # With a workspace of its own for each stream cuBLAS gives the same sum on every run; read
        # when the first handle is made, and never overriding what the user set.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Streams, captures and generators without a card of their own take the current one, which
        # is the first until something else is said.
        torch.cuda.set_device(torch.device(device).index or 0)
    compute_in("fp32")


def compute_in(precision: Precision) -> None:
    """Let this process's products be as fine as `precision` asks.

    Asked for fp32, they are fp32 on every device. In bf16 the few that are left in fp32 may as
    well take the tensor cores, by TF32, which is still finer than bf16.
    """
    allow_tf32(precision == "bf16")


def keep_memory() -> bool:
    """Let malloc keep what is freed; whether the C library can do it (glibc only).

    By default glibc maps every block above 32 MB anew and gives it back when it is freed, so the
    kernel zeroes the pages of the logits, 93 MB at the default size, at every step. Kept in the
    heap, they are zeroed once: the plain fp32 step at the default size becomes a quarter to a
    third faster. The process holds on to its peak memory until it ends.
    """
    return set_malloc({MMAP_MAX: 0, TRIM_THRESHOLD: _INT_MAX})


def usable_cores() -> int:
    """Cores this process may use: physical ones (torch's own count), within its affinity mask.

    A second hyperthread on a core has no multiplier of its own and only adds switching.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(torch.get_num_threads(), allowed or 1))
