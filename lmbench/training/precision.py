"""`--precision auto`: bf16 where this machine multiplies it faster, found out once."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Literal

import torch

from lmbench.session.remembered import recall, remember
from lmbench.training import cpu_info, decoder_products

__all__ = ["WORTH", "Precision", "choose_precision", "measure_speedup"]

Precision = Literal["fp32", "bf16"]

WORTH = 1.3
"""How much faster bf16's products must be to be worth its rounding."""

# Of the decoder's product at the default size a few columns are enough to tell the two apart.
_ROWS, _WIDTH, _WORDS = 700, 200, 4096
_REPEATS = 9
# Where a product takes so long, one look at each tells them apart.
_ENOUGH_SECONDS = 0.25


def choose_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """The arithmetic to train in: what is `wanted`, and for ``auto`` the one that pays here.

    ``auto`` times one product in both, the first time on this device with this torch and number
    of threads, and remembers the answer in the user's cache folder, so that every later run, and a
    resumed one above all, computes alike.
    """
    if wanted != "auto":
        return wanted
    key = machine_key(device)
    speedup = recall("precision", key)
    if not isinstance(speedup, int | float):
        speedup = round(measure_speedup(device), 2)
        remember("precision", key, speedup)
    return "bf16" if speedup >= WORTH else "fp32"


def machine_key(device: torch.device) -> str:
    """What the answer depends on: the chip, torch's version and, on CPU, the threads."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    name = _processor() if device.type == "cpu" else f"{device.type} of {_processor()}"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _processor() -> str:
    """The processor's name, as exactly as the system gives it."""
    found = cpu_info.described()
    if not found:
        return platform.processor() or platform.machine()
    # Virtual machines hide the model's name; family and instructions tell such machines apart.
    wanted = ("model name", "cpu family", "model", "CPU part")
    known = " ".join(found[name] for name in wanted if name in found)
    return f"{known or platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def measure_speedup(device: torch.device) -> float:
    """How many times as fast a decoder's product is in bf16 as in fp32; takes some 50 ms, and half
    a second on a processor that has to emulate bf16."""
    # Numbers of its own: a run is seeded before it asks, and must not depend on who asked first.
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(_ROWS, _WIDTH, device=device, generator=generator)
    weight = torch.randn(_WORDS, _WIDTH, device=device, generator=generator)
    bias = torch.zeros(_WORDS, device=device)
    out = torch.empty(_ROWS, _WORDS, device=device)
    hidden_half, weight_half = hidden.bfloat16(), weight.bfloat16()
    out_half = out.bfloat16()

    def fp32() -> None:
        decoder_products.logits(hidden, weight, bias, out)

    def bf16() -> None:
        torch.mm(hidden_half, weight_half.t(), out=out_half)

    fp32_seconds, bf16_seconds = _best_times((fp32, bf16), device)
    return fp32_seconds / bf16_seconds


def _best_times(works: tuple[Callable[[], None], ...], device: torch.device) -> list[float]:
    """The shortest time of each, taken in turns: what other processes take is left out."""
    best = [float("inf")] * len(works)
    first = time.perf_counter()
    for repeat in range(_REPEATS + 1):
        for at, work in enumerate(works):
            began = time.perf_counter()
            work()
            _wait(device)
            # The first round only wakes the libraries.
            if repeat:
                best[at] = min(best[at], time.perf_counter() - began)
        if repeat and time.perf_counter() - first > _ENOUGH_SECONDS:
            break
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
