"""Runtimes on the compiled kernels: weights in int8, int4 or codes, dense, sparse or in blocks.

Activations are quantized to int8 anew for each vector, symmetric by its largest magnitude, and
sums are exact integers; cells, biases and logits are fp32. A batch gives for each text what
stepping it alone gives, so a score is of the very arithmetic that generates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from lmbench.deploy.load_model import LoadedModel, PackedModel
from lmbench.deploy.native.build import why_unavailable
from lmbench.deploy.native.kernels import Kernels
from lmbench.deploy.native.model import NativeModel
from lmbench.deploy.native.tensors import LAYOUTS, TensorSource, layout_refusal
from lmbench.deploy.runtimes.interface import Accuracy, Runtime, State, needs_cpu

__all__ = [
    "BlockInt8Runtime",
    "NativeCodesRuntime",
    "NativeInt4Runtime",
    "NativeInt8Runtime",
    "NativeRuntime",
    "SparseInt8Runtime",
]


class NativeRuntime(Runtime):
    """A model on the compiled kernels; a subclass's name says how a weight matrix is laid out.

    Args:
        loaded: a plain model, or a packed one, whose stored integers are used as they are.
        kernels: left out: the machine's best, with torch's number of threads for scoring.
    """

    def __init__(self, loaded: LoadedModel, kernels: Kernels | None = None) -> None:
        kernels = kernels or Kernels(threads=torch.get_num_threads())
        source = _source(loaded)
        self._model = NativeModel(loaded.shape, source, LAYOUTS[self.name], kernels)
        self.ntoken = self._model.ntoken

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        reason = super().refusal(loaded) or needs_cpu(loaded) or why_unavailable()
        return reason or layout_refusal(cls.name, _source(loaded))

    @property
    def bytes(self) -> int:
        return self._model.bytes

    def initial_state(self, batch: int = 1) -> State:
        return self._model.initial_state(batch)

    def projected(self, output: Tensor) -> Tensor:
        rows = output.reshape(-1, output.shape[-1]).numpy()
        return torch.from_numpy(self._model.projected(rows)).view(*output.shape[:-1], -1)

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        logits, state = self._model.step(ids.numpy(), state)
        return torch.from_numpy(logits), state

    def losses(self, windows: Iterable[tuple[Tensor, Tensor]], state: State) -> Iterator[Tensor]:
        arrays = ((ids.cpu().numpy(), targets.cpu().numpy()) for ids, targets in windows)
        return map(torch.from_numpy, self._model.losses(arrays, state))


def _source(loaded: LoadedModel) -> TensorSource:
    if isinstance(loaded, PackedModel):
        return TensorSource.of_file(loaded.packed)
    state = loaded.model.state_dict()

    def dense(name: str) -> NDArray[Any]:
        return state[name].float().cpu().numpy()

    return TensorSource([n for n, p in loaded.model.named_parameters() if p.dim() == 2], dense)


class NativeInt8Runtime(NativeRuntime):
    """Every matrix dense, int8 with one scale a row."""

    name: ClassVar[str] = "native-int8"
    about: ClassVar[str] = "compiled kernels, int8 weights"
    accuracy: ClassVar[Accuracy] = "close"


class SparseInt8Runtime(NativeRuntime):
    """The int8 values that are not zero for each matrix that is sparse enough."""

    name: ClassVar[str] = "sparse-int8"
    about: ClassVar[str] = "compiled kernels, int8 weights that are not zero"
    accuracy: ClassVar[Accuracy] = "close"


class BlockInt8Runtime(NativeRuntime):
    """The int8 blocks that are not zero, 16x4 or 8x8, whichever leaves fewer."""

    name: ClassVar[str] = "block-int8"
    about: ClassVar[str] = "compiled kernels, int8 blocks that are not zero"
    accuracy: ClassVar[Accuracy] = "close"


class NativeInt4Runtime(NativeRuntime):
    """Matrices that are packed in 4 bits as they are, and the others in int8.

    ``close`` to the model that was packed in 4 bits, which has paid for their rounding already.
    """

    name: ClassVar[str] = "native-int4"
    about: ClassVar[str] = "compiled kernels, 4-bit weights as packed"
    accuracy: ClassVar[Accuracy] = "close"


class NativeCodesRuntime(NativeRuntime):
    """Matrices that are packed as sums of scaled signs as they are, the others as `native-int4`.

    ``close`` to the model of codes, which has paid for their rounding already.
    """

    name: ClassVar[str] = "native-codes"
    about: ClassVar[str] = "compiled kernels, codes of 1 to 4 bits as packed"
    accuracy: ClassVar[Accuracy] = "close"
