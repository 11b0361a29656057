"""The runtimes by name: which there are, what each can run, and building one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from lmbench.deploy.loaded_model import Loaded
from lmbench.deploy.runtimes.interface import Accuracy, Runtime, Score, State
from lmbench.errors import LmbenchError

__all__ = [
    "RUNTIMES",
    "Accuracy",
    "Runtime",
    "RuntimeEntry",
    "Score",
    "State",
    "build_runtime",
    "supported",
]


@dataclass(frozen=True)
class RuntimeEntry:
    """A runtime's place in the registry; nothing is imported until `build` is called."""

    name: str
    about: str
    """One line for help and tables."""

    accuracy: Accuracy
    build: Callable[[Loaded], Runtime]
    refusal: Callable[[Loaded], str | None]
    """Why this machine or model cannot use it, or None where it can."""


def _any(loaded: Loaded) -> str | None:
    return None


def _plain(loaded: Loaded) -> str | None:
    return None if loaded.plain else "a quantizer has wrapped its modules, which run as they are"


def _on_cpu(loaded: Loaded) -> str | None:
    return _plain(loaded) or _elsewhere(loaded, "cpu", "the model is not on the CPU")


def _on_cuda(loaded: Loaded) -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device is here"
    return _plain(loaded) or _elsewhere(loaded, "cuda", "the model is not on the GPU")


def _elsewhere(loaded: Loaded, kind: str, reason: str) -> str | None:
    return None if loaded.device.type == kind else f"{reason} (--device {kind})"


def _entry(
    name: str,
    about: str,
    accuracy: Accuracy,
    build: str,
    refusal: str | Callable[[Loaded], str | None],
) -> RuntimeEntry:
    """An entry whose functions, written ``module.function`` of this package, load late."""
    return RuntimeEntry(
        name,
        about,
        accuracy,
        _later(build),
        _later(refusal) if isinstance(refusal, str) else refusal,
    )


def _later(where: str) -> Callable[[Loaded], Any]:
    """A function that is imported when it is called."""
    module, _, name = where.rpartition(".")

    def call(loaded: Loaded) -> Any:
        return getattr(import_module(f"lmbench.deploy.runtimes.{module}"), name)(loaded)

    return call


_DENSE = (
    _entry("naive", "torch's own layers, the yardstick", "exact", "naive.NaiveRuntime", _any),
    _entry(
        "torch", "torch in fp32, cells stepped by hand", "exact", "torch_cells.TorchRuntime", _plain
    ),
    _entry("fp16", "the same, products in fp16", "close", "torch_cells.Fp16Runtime", _plain),
    _entry("bf16", "the same, products in bf16", "close", "torch_cells.Bf16Runtime", _plain),
    _entry("onnx", "ONNX Runtime in fp32", "exact", "onnx_runtime.FloatRuntime", _on_cpu),
    _entry("int8", "ONNX Runtime in int8", "close", "onnx_runtime.Int8Runtime", _on_cpu),
    _entry("int4", "the same with a 4-bit decoder", "coarse", "onnx_runtime.Int4Runtime", _on_cpu),
    _entry("cuda", "fp32 on the GPU, a step captured", "exact", "cuda_graph.CudaRuntime", _on_cuda),
)

# On what compression leaves: see `lmbench.deploy.native` and `lmbench.deploy.runtimes.bsr`.
_COMPRESSED = (
    _entry(
        "native-int8",
        "compiled kernels, int8 weights",
        "close",
        "native.Int8Runtime",
        "native.refusal",
    ),
    _entry(
        "native-int4",
        "compiled kernels, 4-bit weights as packed",
        "close",
        "native.Int4Runtime",
        "native.int4_refusal",
    ),
    _entry(
        "sparse-int8",
        "compiled kernels, bitmask and int8 values",
        "close",
        "native.SparseInt8Runtime",
        "native.sparse_refusal",
    ),
    _entry(
        "block-int8",
        "compiled kernels, int8 blocks that are not zero",
        "close",
        "native.BlockInt8Runtime",
        "native.block_refusal",
    ),
    _entry(
        "bsr",
        "torch's block-sparse products, 8x8 blocks in fp32",
        "exact",
        "bsr.BsrRuntime",
        "bsr.refusal",
    ),
)

RUNTIMES: Mapping[str, RuntimeEntry] = {entry.name: entry for entry in (*_DENSE, *_COMPRESSED)}


def supported(loaded: Loaded) -> list[RuntimeEntry]:
    """The runtimes that can run this model on this machine."""
    return [entry for entry in RUNTIMES.values() if entry.refusal(loaded) is None]


def build_runtime(name: str, loaded: Loaded) -> Runtime:
    """The runtime of that name over this model.

    ``torch`` stands for torch in general: a model whose modules a quantizer has wrapped is run
    by ``naive``, as it is.

    Raises:
        LmbenchError: no such runtime, or it cannot run this model here; says which can.
    """
    if name == "torch" and not loaded.plain:
        name = "naive"
    entry = RUNTIMES.get(name)
    if entry is None:
        raise LmbenchError(f"runtime '{name}': use one of {', '.join(RUNTIMES)}, as-is or auto")
    reason = entry.refusal(loaded)
    if reason:
        can = ", ".join(e.name for e in supported(loaded))
        raise LmbenchError(f"runtime '{name}' cannot run {loaded.title}: {reason}; use {can}")
    return entry.build(loaded)
