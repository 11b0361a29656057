"""How fast a run goes and what it takes of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
import pynvml
import torch

__all__ = ["Meter"]


class Meter:
    """Tokens a second since the last reading, memory in bytes, utilisation in percent.

    On CUDA, memory is what torch has allocated there and utilisation is the card's, by NVML; on
    the CPU they are this process's resident memory and its share of the cores (200 = two cores).
    A reading that fails is no reason to end a run: it is the one before, 0 where there is none.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._memory, self._percent = 0, 0.0
        self._utilisation = _cuda_utilisation(device) if device.type == "cuda" else None
        self.utilisation()  # psutil counts from the first reading on
        self._waited = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin to count anew, after validation."""
        self._since = self.now()

    def now(self) -> float:
        """Seconds of a clock that stands still while the run waits."""
        return time.perf_counter() - self._waited

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done in it takes no time: a run that is paused is not slow."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - began

    def rate(self, tokens: int) -> float:
        """Tokens a second, for `tokens` that were worked on since the last call."""
        now = self.now()
        elapsed, self._since = now - self._since, now
        return tokens / elapsed if elapsed > 0 else 0.0

    def memory(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        with suppress(psutil.Error, OSError):
            self._memory = self._process.memory_info().rss
        return self._memory

    def utilisation(self) -> float:
        read = self._utilisation or self._process.cpu_percent
        with suppress(psutil.Error, pynvml.NVMLError, OSError):
            self._percent = read()
        return self._percent


def _cuda_utilisation(device: torch.device) -> Callable[[], float] | None:
    try:
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        # A card without NVML (some virtual ones): the curve shows the process's CPU share.
        return None
    return lambda: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
