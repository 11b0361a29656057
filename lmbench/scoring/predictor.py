"""What predicts words: the kernels or NumPy for a packed file, else a runtime of torch's world."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from lmbench.deploy.native.build import why_unavailable
from lmbench.deploy.native.kernels import Kernels
from lmbench.deploy.native.model import NativeModel
from lmbench.deploy.native.tensors import LAYOUTS, TensorSource, as_is_layout
from lmbench.deploy.numpy_model import NumpyModel
from lmbench.deploy.packed_file.reading import PackedFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lmbench.deploy.runtimes.interface import Runtime

__all__ = ["Predictor", "RuntimePredictor", "compiled_predictor", "packed_predictor"]


class Predictor(Protocol):
    """A model that steps and scores; ids are int64, and states are never changed in place."""

    def initial_state(self, batch: int = 1) -> Any:
        """The state before a text, for `batch` texts at once."""
        ...

    def step(self, ids: NDArray[Any], state: Any) -> tuple[NDArray[Any], Any]:
        """Read a word of each text, [B]: logits fp32 [B, V] of the next, and the new state."""
        ...

    def losses(
        self, windows: Iterable[tuple[NDArray[Any], NDArray[Any]]], state: Any
    ) -> Iterator[NDArray[Any]]:
        """Ids [T, B] with the words that follow, [T * B], to the nats of each, [T * B].

        One more window may be taken than was given back.
        """
        ...


def compiled_predictor(packed: PackedFile, threads: int = 0) -> tuple[Predictor, str] | None:
    """A packed file's integers on the compiled kernels, and the name of their layout.

    Args:
        threads: 0 takes one for each core that this process may use.

    Returns:
        None where the file holds floats, or the kernels cannot be had here.
    """
    layout = None if why_unavailable() else as_is_layout(packed)
    if layout is None:
        return None
    kernels = Kernels(threads=threads or _usable_cores())
    source = TensorSource.of_file(packed)
    return NativeModel(packed.shape, source, LAYOUTS[layout], kernels), layout


def packed_predictor(packed: PackedFile, threads: int = 0) -> tuple[Predictor, str]:
    """The same, by NumPy in fp32 where the kernels are nothing for it."""
    return compiled_predictor(packed, threads) or (NumpyModel(packed), "numpy")


def _usable_cores() -> int:
    """Physical cores within this process's affinity mask, as a worker counts them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, allowed or 1))


class RuntimePredictor:
    """Any runtime as a `Predictor`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def initial_state(self, batch: int = 1) -> Any:
        return self._runtime.initial_state(batch)

    def step(self, ids: NDArray[Any], state: Any) -> tuple[NDArray[Any], Any]:
        import torch

        on_device = torch.from_numpy(ids).to(self._runtime.device)
        logits, state = self._runtime.step(on_device, state)
        return logits.cpu().numpy(), state

    def losses(
        self, windows: Iterable[tuple[NDArray[Any], NDArray[Any]]], state: Any
    ) -> Iterator[NDArray[Any]]:
        import torch

        device = self._runtime.device
        tensors = (
            (torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device))
            for ids, targets in windows
        )
        for losses in self._runtime.losses(tensors, state):
            yield losses.cpu().numpy()
