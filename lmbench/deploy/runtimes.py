"""The runtimes by name: which there are, what each can run, and building one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lmbench.deploy.load import Loaded
from lmbench.deploy.runtime import Accuracy, Runtime, Score, State
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


def _naive(loaded: Loaded) -> Runtime:
    from lmbench.deploy.naive import NaiveRuntime

    return NaiveRuntime(loaded)


def _later(module: str, name: str) -> Callable[[Loaded], Any]:
    """A function of `module`, imported when it is called."""

    def call(loaded: Loaded) -> Any:
        return getattr(import_module(module), name)(loaded)

    return call


def _compressed(
    name: str, about: str, accuracy: Accuracy, module: str, build: str, refusal: str
) -> RuntimeEntry:
    where = f"lmbench.deploy.{module}"
    return RuntimeEntry(name, about, accuracy, _later(where, build), _later(where, refusal))


# On what compression leaves: see `lmbench.deploy.native` and `lmbench.deploy.bsr`.
_COMPRESSED = (
    _compressed(
        "native-int8",
        "compiled kernels, int8 weights",
        "close",
        "native.runtime",
        "Int8Runtime",
        "refusal",
    ),
    _compressed(
        "native-int4",
        "compiled kernels, 4-bit weights in groups",
        "coarse",
        "native.runtime",
        "Int4Runtime",
        "int4_refusal",
    ),
    _compressed(
        "sparse-int8",
        "compiled kernels, bitmask and int8 values",
        "close",
        "native.runtime",
        "SparseInt8Runtime",
        "sparse_refusal",
    ),
    _compressed(
        "block-int8",
        "compiled kernels, int8 blocks that are not zero",
        "close",
        "native.runtime",
        "BlockInt8Runtime",
        "block_refusal",
    ),
    _compressed(
        "bsr",
        "torch's block-sparse products, 8x8 blocks in fp32",
        "exact",
        "bsr",
        "BsrRuntime",
        "refusal",
    ),
)

RUNTIMES: Mapping[str, RuntimeEntry] = {
    entry.name: entry
    for entry in (
        RuntimeEntry("naive", "torch's own nn.LSTM, the yardstick", "exact", _naive, _any),
        *_COMPRESSED,
    )
}


def supported(loaded: Loaded) -> list[RuntimeEntry]:
    """The runtimes that can run this model on this machine."""
    return [entry for entry in RUNTIMES.values() if entry.refusal(loaded) is None]


def build_runtime(name: str, loaded: Loaded) -> Runtime:
    """The runtime of that name over this model.

    Raises:
        LmbenchError: no such runtime, or it cannot run this model here; says which can.
    """
    entry = RUNTIMES.get(name)
    if entry is None:
        raise LmbenchError(f"runtime '{name}': use one of {', '.join(RUNTIMES)} or auto")
    reason = entry.refusal(loaded)
    if reason:
        can = ", ".join(e.name for e in supported(loaded))
        raise LmbenchError(f"runtime '{name}' cannot run {loaded.title}: {reason}; use {can}")
    return entry.build(loaded)
