"""What this machine has for training, and what would make it faster here."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from lmbench.config import TrainConfig
from lmbench.corpus import data_list
from lmbench.deploy.native import why_unavailable
from lmbench.report.numbers import size
from lmbench.session.shared_folder import file_system, is_shared, problem_with
from lmbench.training import cpu_info, native
from lmbench.training.precision import WORTH, measure_speedup
from lmbench.training.process_setup import usable_cores

__all__ = ["Finding", "advice", "bf16_speedup", "examine"]

# How wide a layer may be for cuDNN's small persistent kernels, forward and backward: the limits by
# which torch chooses (`use_rnn_persist_small_h` in ATen/native/cudnn/RNN.cpp). The large ones it
# takes for single layers in fp16 alone, which nothing here trains.
_PERSIST_GATED, _PERSIST_ELMAN = (192, 128), (384, 256)
# Units too many that still count as a near miss.
_NEAR = 16


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `good` is None where it is neither good nor bad."""

    what: str
    value: str
    good: bool | None = None


def bf16_speedup() -> float:
    """How many times as fast as in fp32 the CPU multiplies in bf16; measured anew."""
    return measure_speedup(torch.device("cpu"))


def examine(home: Path, speedup: float) -> list[Finding]:
    """Python, torch, devices, threads, memory, compiled kernels, terminal and corpora.

    Args:
        speedup: of bf16 on the CPU (`bf16_speedup`).
    """
    memory = psutil.virtual_memory()
    found = [
        Finding("Python", platform.python_version(), True),
        Finding("torch", torch.__version__, True),
        Finding("processor", f"{cpu_info.name()}, {torch.backends.cpu.get_cpu_capability()}"),
        Finding("threads", f"{usable_cores()} of {os.cpu_count()} logical cores"),
        Finding("bf16 on CPU", f"{speedup:.1f} times fp32's products", speedup >= WORTH),
        Finding("memory", f"{size(memory.available)} of {size(memory.total)} free"),
    ]
    found += _gpus()
    missing = why_unavailable()
    found.append(Finding("compiled kernels", missing or "built", missing is None))
    found.append(_training_kernels())
    found += [_terminal(), _working_folder(home)]
    for entry in data_list(home):
        where = str(entry.path) if entry.path else ("built in" if entry.is_here else "not here")
        found.append(Finding(f"corpus {entry.name}", where, entry.is_here or None))
    return found


def _training_kernels() -> Finding:
    """Ours, which need the compiler, too, and a processor that gains from them."""
    what, kernels = "kernels that train", native.best()
    if kernels == "torch":
        return Finding(what, "torch's, on this processor")
    missing = native.why_not(kernels)
    value = f"torch's, and none for {kernels.upper()}: {missing}" if missing else kernels.upper()
    return Finding(what, value, missing is None)


def _gpus() -> list[Finding]:
    if not torch.cuda.is_available():
        mps = torch.backends.mps.is_available()
        return [Finding("GPU", "Apple MPS (--device mps)" if mps else "none that torch can use")]
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        value = f"{name}, {size(free)} of {size(total)} free"
        found.append(Finding(f"GPU cuda:{index}", value, True))
    found.append(Finding("cuDNN", str(torch.backends.cudnn.version())))
    return found


def _working_folder(home: Path) -> Finding:
    """Does it keep what runs rely on, and can other machines see it?"""
    system = file_system(home)
    try:
        problem = problem_with(home)
    except (OSError, subprocess.SubprocessError) as error:
        problem = str(error)
    if problem is not None:
        return Finding("working folder", f"{home}: {problem}", False)
    seen = "others can see it" if is_shared(system) else "probably seen by this machine alone"
    kept = "renames are atomic, files are seen once closed"
    return Finding("working folder", f"{home}, {system or 'unknown'}: {kept}; {seen}", True)


def _terminal() -> Finding:
    colours = os.environ.get("COLORTERM") or os.environ.get("TERM") or "unknown"
    size = "no terminal"
    try:
        columns, rows = os.get_terminal_size()
        size = f"{columns}x{rows}"
    except OSError:
        columns, rows = 80, 24
    good = columns >= 80 and rows >= 24
    plain = " (NO_COLOR is set)" if os.environ.get("NO_COLOR") else ""
    return Finding("terminal", f"{size}, {colours}{plain}", good)


def advice(home: Path, config: TrainConfig, speedup: float) -> list[str]:
    """What would make training faster here, most first; sizes that just miss a fast kernel.

    Args:
        speedup: of bf16 on the CPU (`bf16_speedup`).
    """
    lines = []
    if torch.cuda.is_available():
        lines += _cuda_advice(config)
    elif speedup < WORTH:
        lines.append("this CPU gains nothing from bf16: a GPU, or a smaller vocabulary, would help")
    if not torch.cuda.is_available():
        kernels = native.best()
        draws = kernels in ("avx2", "avx512") and not native.why_not(kernels)
        if draws and config.precision in ("auto", "fp32") and not config.gradient_samples:
            lines.insert(
                0, "with --gradient-samples 256 a step takes 0.5 to 0.6 of its time on this CPU"
            )
    if psutil.getloadavg()[0] > 0.5 * usable_cores():
        lines.append(
            f"other programs keep {psutil.getloadavg()[0]:.1f} cores busy: training will be slower"
        )
    if not any(entry.name == "wikitext-2" and entry.is_here for entry in data_list(home)):
        lines.append("`lmbench data get wikitext-2` brings the corpus of the published tables")
    return lines


def _cuda_advice(config: TrainConfig) -> list[str]:
    elman = config.model.startswith("RNN")
    forward, backward = _PERSIST_ELMAN if elman else _PERSIST_GATED
    if not backward < config.nhid <= forward + _NEAR:
        return []
    return [
        f"--nhid {config.nhid} just misses cuDNN's small persistent kernels: of {config.model} "
        f"they hold up to {backward} units backward and {forward} forward"
    ]
