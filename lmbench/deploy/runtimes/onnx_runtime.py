"""ONNX Runtime as executor: fp32, int8, and int8 with a 4-bit decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes.interface import Accuracy, Runtime, State, needs_cpu

if TYPE_CHECKING:
    # Imported late: each takes a tenth of a second, and most models run without them.
    import onnx
    from onnxruntime import InferenceSession

    from lmbench.deploy.export.onnx_model import Bits

__all__ = [
    "OnnxFp32Runtime",
    "OnnxInt4Runtime",
    "OnnxInt8Runtime",
    "OnnxRuntime",
    "open_session",
    "too_large",
]

# Protocol buffers hold no more in one message.
_LIMIT = 2**31 - 1

_BYTES: Mapping[Bits, int] = {"fp32": 4, "int8": 1, "int4": 1}
"""Of a weight, at most; in int4 the layers have 8 bits."""


def too_large(loaded: LoadedModel, bits: Bits) -> str | None:
    """Why a plain model is no ONNX file, in words, or None."""
    size = loaded.numel * _BYTES[bits]
    if size <= _LIMIT:
        return None
    return f"up to {size / 1e9:.1f} GB are more than one .onnx file may hold (2 GB)"


def open_session(model: bytes, threads: int) -> InferenceSession:
    """An ONNX Runtime session on the CPU that leaves idle cores alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads steal the cores from torch's own and from other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxRuntime(Runtime):
    """A model built as an ONNX graph by us, executed by ONNX Runtime.

    There are two sessions, each made when it is first needed: one steps, on one thread, since a
    step is too short to share; one scores, on as many threads as torch has at that moment.
    """

    bits: ClassVar[Bits]

    def __init__(self, loaded: LoadedModel) -> None:
        self._weights = loaded.weights
        self._states = self._weights.state_names
        self.ntoken = self._weights.ntoken

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        return super().refusal(loaded) or needs_cpu(loaded) or too_large(loaded, cls.bits)

    @property
    def bytes(self) -> int:
        return self._bytes

    @cached_property
    def _bytes(self) -> int:
        from lmbench.deploy.export.onnx_nodes import initializer_bytes

        return initializer_bytes(self._graph(one_step=True))

    @cached_property
    def _stepper(self) -> InferenceSession:
        return open_session(self._graph(one_step=True).SerializeToString(), 1)

    @cached_property
    def _scorer(self) -> InferenceSession:
        model = self._graph(score=True)
        return open_session(model.SerializeToString(), torch.get_num_threads())

    def _graph(self, *, score: bool = False, one_step: bool = False) -> onnx.ModelProto:
        from lmbench.deploy.export.onnx_matrices import PORTABLE, weights_zero_point
        from lmbench.deploy.export.onnx_model import build_graph

        zero = weights_zero_point() if self.bits != "fp32" else PORTABLE
        return build_graph(
            self._weights, self.bits, score=score, one_step=one_step, zero_point=zero
        )

    def initial_state(self, batch: int = 1) -> State:
        return tuple(part.numpy() for part in self._weights.zeros(batch))

    def projected(self, output: Tensor) -> Tensor:
        weight = self._weights.projection
        return output if weight is None else torch.nn.functional.linear(output, weight)

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        feeds = {"ids": ids.view(1, -1).numpy(), **self._named(state)}
        logits, *after = self._run(self._stepper, feeds)
        return torch.from_numpy(logits)[0], tuple(after)

    def losses(self, windows: Iterable[tuple[Tensor, Tensor]], state: State) -> Iterator[Tensor]:
        for input, target in windows:
            feeds = {"ids": input.numpy(), "targets": target.view_as(input).numpy()}
            nll, *state = self._run(self._scorer, feeds | self._named(state))
            yield torch.from_numpy(nll).view(-1)

    def _named(self, state: State) -> dict[str, np.ndarray]:
        return dict(zip(self._states, state, strict=True))

    @staticmethod
    def _run(session: InferenceSession, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        return session.run(None, feeds)  # pyright: ignore[reportReturnType]


class OnnxFp32Runtime(OnnxRuntime):
    """fp32, with ONNX Runtime's own LSTM, GRU and RNN."""

    name: ClassVar[str] = "onnx"
    about: ClassVar[str] = "ONNX Runtime in fp32"
    accuracy: ClassVar[Accuracy] = "exact"
    bits: ClassVar[Bits] = "fp32"


class OnnxInt8Runtime(OnnxRuntime):
    """int8 weights, activations quantized as they come."""

    name: ClassVar[str] = "int8"
    about: ClassVar[str] = "ONNX Runtime in int8"
    accuracy: ClassVar[Accuracy] = "close"
    bits: ClassVar[Bits] = "int8"


class OnnxInt4Runtime(OnnxRuntime):
    """int8, and a decoder (with it a tied embedding) of 4 bits."""

    name: ClassVar[str] = "int4"
    about: ClassVar[str] = "the same with a 4-bit decoder"
    accuracy: ClassVar[Accuracy] = "coarse"
    bits: ClassVar[Bits] = "int4"
